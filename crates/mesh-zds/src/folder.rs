//! The folder of pods: one YAML file a pod, looked at again and again.
//!
//! A file that cannot be read changes nothing: the pod it described before stays as it is.

use crate::{PODS_MAX, Pod};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Largest file taken, bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The folder cannot be read.
pub type FolderError = io::Error;

/// A pod as its file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFile {
    /// The pod.
    pub pod: Pod,
    /// The file of its network namespace.
    pub netns: PathBuf,
}

/// The form of a file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Form {
    uid: String,
    name: String,
    namespace: String,
    service_account: String,
    netns: PathBuf,
}

impl TryFrom<Form> for PodFile {
    type Error = String;

    fn try_from(file: Form) -> Result<Self, String> {
        if file.uid.is_empty() {
            return Err("uid is empty".into());
        }
        let (namespace, name) = (&file.namespace, &file.name);
        let info = format!("{namespace}/{name}/{}", file.service_account).parse()?;
        Ok(Self {
            pod: Pod {
                uid: file.uid,
                info,
            },
            netns: file.netns,
        })
    }
}

/// What is known of one file.
#[derive(Debug)]
struct Known {
    content: Vec<u8>,
    /// The last good description.
    spec: Option<PodFile>,
}

/// The folder and what is known of it.
#[derive(Debug)]
pub struct PodFiles {
    folder: PathBuf,
    files: BTreeMap<PathBuf, Known>,
}

impl PodFiles {
    /// A folder not looked at yet.
    pub const fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            files: BTreeMap::new(),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Looks at the folder and gives the pods that its files describe, by uid; of two files with one
    /// uid the first by name counts.
    ///
    /// # Errors
    /// When the folder itself cannot be read; what is known stays.
    pub async fn look(&mut self) -> Result<BTreeMap<String, PodFile>, FolderError> {
        let contents = read(self.folder.clone()).await?;
        note(&mut self.files, contents);
        Ok(wanted(&self.files))
    }
}

type Contents = BTreeMap<PathBuf, Result<Vec<u8>, String>>;

/// Reads every YAML file of the folder, off this thread: a slow disk must not hold up the rest.
async fn read(folder: PathBuf) -> io::Result<Contents> {
    tokio::task::spawn_blocking(move || {
        let mut contents = Contents::new();
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let yaml = path
                .extension()
                .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
            if yaml && contents.len() < PODS_MAX {
                let content = read_file(&path).map_err(|e| e.to_string());
                contents.insert(path, content);
            }
        }
        Ok(contents)
    })
    .await
    .map_err(io::Error::other)?
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
        let text = format!("larger than {FILE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    std::fs::read(path)
}

/// Takes over what changed; a file that makes no sense keeps its last good description.
fn note(files: &mut BTreeMap<PathBuf, Known>, contents: Contents) {
    files.retain(|path, _| contents.contains_key(path));
    for (path, content) in contents {
        let known = files.get(&path);
        let content = match content {
            Ok(content) => content,
            // A file that vanished while it was looked at is gone at the next look.
            Err(error) => {
                tracing::debug!(file = %path.display(), error, "pod file not read");
                continue;
            }
        };
        if known.is_some_and(|k| k.content == content) {
            continue;
        }
        let spec = match parse(&content) {
            Ok(spec) => {
                let twin = |(p, k): &(&PathBuf, &Known)| {
                    **p != path && k.spec.as_ref().is_some_and(|s| s.pod.uid == spec.pod.uid)
                };
                if let Some((twin, _)) = files.iter().find(twin) {
                    let (file, twin) = (path.display(), twin.display());
                    tracing::warn!(%file, %twin, uid = spec.pod.uid, "two files have one uid: the first by name counts");
                }
                Some(spec)
            }
            Err(why) => {
                tracing::warn!(file = %path.display(), why, "pod file refused");
                known.and_then(|k| k.spec.clone())
            }
        };
        files.insert(path, Known { content, spec });
    }
}

fn parse(content: &[u8]) -> Result<PodFile, String> {
    let text = std::str::from_utf8(content).map_err(|e| e.to_string())?;
    let options = serde_saphyr::options! { with_snippet: false };
    let file: Form =
        serde_saphyr::from_str_with_options(text, options).map_err(|e| e.to_string())?;
    file.try_into()
}

/// The pods the files describe; of two files with one uid the first by name counts.
fn wanted(files: &BTreeMap<PathBuf, Known>) -> BTreeMap<String, PodFile> {
    let mut wanted = BTreeMap::new();
    for spec in files.values().filter_map(|k| k.spec.as_ref()) {
        wanted
            .entry(spec.pod.uid.clone())
            .or_insert_with(|| spec.clone());
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(files: &[(&str, &str)]) -> Contents {
        let one = |(path, text): &(&str, &str)| (PathBuf::from(path), Ok(text.as_bytes().to_vec()));
        files.iter().map(one).collect()
    }

    const WEB: &str = "uid: u1\nname: web-1\nnamespace: demo\nserviceAccount: web\nnetns: /run/x\n";

    #[test]
    fn a_file_that_turns_bad_keeps_its_pod_and_one_that_goes_does_not() {
        let mut files = BTreeMap::new();
        note(&mut files, contents(&[("a.yaml", WEB)]));
        let spec = wanted(&files)["u1"].clone();
        assert_eq!(&*spec.pod.info.service_account, "web");
        assert_eq!(spec.netns, Path::new("/run/x"));
        note(&mut files, contents(&[("a.yaml", "uid: [")]));
        assert_eq!(wanted(&files)["u1"], spec);
        note(&mut files, contents(&[]));
        assert!(wanted(&files).is_empty());
    }

    #[test]
    fn what_is_missing_or_unknown_is_refused() {
        for bad in [
            "",
            "uid: u1",
            &WEB.replace("uid: u1", "uid: ''"),
            &WEB.replace("name: web-1", "name: a/b"),
            &format!("{WEB}mark: 7\n"),
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "taken: {bad}");
        }
        let json = r#"{"uid":"u","name":"n","namespace":"s","serviceAccount":"a","netns":"/x"}"#;
        assert!(parse(json.as_bytes()).is_ok());
    }

    #[test]
    fn one_uid_is_one_pod() {
        let mut files = BTreeMap::new();
        let other = WEB.replace("web-1", "web-2");
        note(&mut files, contents(&[("a.yaml", WEB), ("b.yaml", &other)]));
        let wanted = wanted(&files);
        assert_eq!(wanted.len(), 1);
        assert_eq!(&*wanted["u1"].pod.info.name, "web-1");
    }
}
