//! What the files hold and which of it is in force; no disk here.

use super::{Configuration, Refusal};
use crate::objects::{Document, ObjectId, ReadError, read};
use std::collections::BTreeMap;

/// The text of a file, or why it could not be had.
pub(super) type Text = Result<String, String>;

struct Good {
    text: String,
    document: Document,
}

#[derive(Default)]
struct File {
    /// As last seen.
    seen: Option<Text>,
    /// What was seen, read.
    read: Option<Result<Document, ReadError>>,
    /// What is in force.
    good: Option<Good>,
    /// An object of the file that another file holds already, and that file.
    clash: Option<(ObjectId, String)>,
}

/// The files, by name.
#[derive(Default)]
pub(super) struct Folder {
    files: BTreeMap<String, File>,
}

impl Folder {
    /// Puts in what a file held in an earlier life of the process, before the first look.
    pub(super) fn restore(&mut self, name: String, text: String) {
        if let Ok(document) = read(&text) {
            let file = self.files.entry(name).or_default();
            file.good = Some(Good { text, document });
        }
    }

    /// Whether the texts are others than those last taken.
    pub(super) fn differs(&self, texts: &BTreeMap<String, Text>) -> bool {
        texts.len() != self.files.len()
            || texts.iter().any(|(name, text)| {
                let file = self.files.get(name);
                file.and_then(|f| f.seen.as_ref()) != Some(text)
            })
    }

    /// Takes the texts of all files. What is no longer there is no longer in force.
    pub(super) fn take(&mut self, texts: BTreeMap<String, Text>) {
        self.files.retain(|name, _| texts.contains_key(name));
        for (name, text) in texts {
            let file = self.files.entry(name).or_default();
            if file.seen.as_ref() != Some(&text) {
                file.read = Some(match &text {
                    Ok(text) => read(text),
                    Err(why) => Err(ReadError::plain(why.clone())),
                });
                file.seen = Some(text);
            }
        }
        self.settle();
    }

    /// Puts in force what was read, file by file, until nothing moves: an object may have gone from
    /// one file to another.
    fn settle(&mut self) {
        let mut again = true;
        while again {
            again = false;
            let names: Vec<String> = self.files.keys().cloned().collect();
            for name in names {
                let clash = self.clash(&name);
                let Some(file) = self.files.get_mut(&name) else {
                    continue;
                };
                file.clash = clash;
                let (Some(Ok(text)), Some(Ok(document))) = (&file.seen, &file.read) else {
                    continue;
                };
                let in_force = file.good.as_ref().is_some_and(|g| g.text == *text);
                if file.clash.is_none() && !in_force {
                    file.good = Some(Good {
                        text: text.clone(),
                        document: document.clone(),
                    });
                    again = true;
                }
            }
        }
    }

    /// The first object that a file was read to hold and another file holds in force.
    fn clash(&self, name: &str) -> Option<(ObjectId, String)> {
        let file = self.files.get(name)?;
        let document = file.read.as_ref()?.as_ref().ok()?;
        let ids = |d: &Document| d.objects.iter().map(|o| o.id()).collect::<Vec<_>>();
        for (other, file) in self.files.iter().filter(|(other, _)| *other != name) {
            let held: std::collections::BTreeSet<_> =
                file.good.iter().flat_map(|g| ids(&g.document)).collect();
            let twice = ids(document).into_iter().find(|id| held.contains(id));
            if let Some(id) = twice {
                return Some((id, other.clone()));
            }
        }
        None
    }

    /// What is in force, and what is not.
    pub(super) fn configuration(&self) -> Configuration {
        let mut configuration = Configuration::default();
        for (name, file) in &self.files {
            if let Some(good) = &file.good {
                for object in &good.document.objects {
                    configuration.objects.insert(object.clone());
                }
                let ignored = good.document.ignored.iter();
                let ignored = ignored.map(|object| format!("{name}: {object}"));
                configuration.ignored.extend(ignored);
            }
            configuration.refused.extend(refusal(name, file));
        }
        configuration
    }

    /// The texts in force.
    pub(super) fn good_texts(&self) -> BTreeMap<String, String> {
        let good = |(name, file): (&String, &File)| {
            let good = file.good.as_ref()?;
            Some((name.clone(), good.text.clone()))
        };
        self.files.iter().filter_map(good).collect()
    }
}

fn refusal(name: &str, file: &File) -> Option<Refusal> {
    let (object, field, why) = match (&file.read, &file.clash) {
        (Some(Err(error)), _) => (error.object.clone(), error.field.clone(), error.why.clone()),
        (_, Some((id, other))) => {
            let why = format!("is in file {other} already");
            (Some(id.to_string()), None, why)
        }
        _ => return None,
    };
    Some(Refusal {
        file: name.to_owned(),
        object,
        field,
        why,
        last_good_in_force: file.good.is_some(),
    })
}
