//! The configuration folder: YAML files, looked at again and again.
//!
//! A file is taken whole or not at all. One that cannot be taken leaves what it held before in
//! force, across a restart too: the last good text of every file is kept in the state folder, so a
//! restart beside a broken policy file does not open what the policy closed.

mod disk;
mod folder;
#[cfg(test)]
mod tests;

use crate::objects::Objects;
use folder::Folder;
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often the folder is looked at.
const POLL: Duration = Duration::from_millis(250);
/// A change is taken once the folder holds still for this long: an editor may be half way.
const SETTLE: Duration = Duration::from_millis(40);

/// Why a file is not in force as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Refusal {
    /// The file's name.
    pub(crate) file: String,
    /// The object, when one is at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) object: Option<String>,
    /// The field, when one is at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<String>,
    /// What is wrong.
    pub(crate) why: String,
    /// An earlier state of the file is in force instead.
    pub(crate) last_good_in_force: bool,
}

/// What the folder holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Configuration {
    /// The objects in force.
    pub(crate) objects: Objects,
    /// The files that are not in force as they stand.
    pub(crate) refused: Vec<Refusal>,
    /// Objects of kinds that are no configuration for a mesh, as `file: kind name`.
    pub(crate) ignored: Vec<String>,
}

/// A folder being watched.
pub(crate) struct Watch {
    path: PathBuf,
    keep: Option<PathBuf>,
    folder: Folder,
}

impl Watch {
    /// Reads the folder for the first time. With a state folder, broken files fall back on what
    /// they last held in an earlier life of this process.
    ///
    /// # Errors
    /// When the folder cannot be read: no configuration must not pass for an empty one.
    pub(crate) async fn open(path: &Path, state: Option<&Path>) -> io::Result<Self> {
        let keep = state.map(|s| s.join("last-good"));
        let texts = disk::read(path).await?;
        let mut folder = Folder::default();
        if let Some(keep) = &keep {
            for (name, text) in disk::restore(keep).await {
                if texts.contains_key(&name) {
                    folder.restore(name, text);
                }
            }
        }
        folder.take(texts);
        let watch = Self {
            path: path.to_owned(),
            keep,
            folder,
        };
        watch.after_change().await;
        Ok(watch)
    }

    /// What the folder holds now.
    pub(crate) fn configuration(&self) -> Configuration {
        self.folder.configuration()
    }

    /// Waits until the folder holds something else.
    pub(crate) async fn changed(&mut self) -> Configuration {
        let mut failing = false;
        loop {
            tokio::time::sleep(POLL).await;
            match self.look().await {
                Ok(true) => {
                    self.after_change().await;
                    return self.configuration();
                }
                Ok(false) => failing = false,
                Err(error) => {
                    if !failing {
                        tracing::warn!(path = %self.path.display(), %error, "the configuration folder cannot be read, the last good state stays");
                    }
                    failing = true;
                }
            }
        }
    }

    async fn look(&mut self) -> io::Result<bool> {
        let mut texts = disk::read(&self.path).await?;
        if !self.folder.differs(&texts) {
            return Ok(false);
        }
        loop {
            tokio::time::sleep(SETTLE).await;
            let again = disk::read(&self.path).await?;
            if again == texts {
                break;
            }
            texts = again;
        }
        self.folder.take(texts);
        Ok(true)
    }

    async fn after_change(&self) {
        for refusal in self.configuration().refused {
            tracing::warn!(
                file = refusal.file,
                object = refusal.object,
                field = refusal.field,
                why = refusal.why,
                last_good_in_force = refusal.last_good_in_force,
                "file refused"
            );
        }
        if let Some(keep) = &self.keep
            && let Err(error) = disk::keep(keep, &self.folder.good_texts()).await
        {
            tracing::warn!(path = %keep.display(), %error, "the last good configuration cannot be kept");
        }
    }
}
