//! The files lists come from: one, or a folder as Kubernetes mounts a ConfigMap.

use super::{Lists, read};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use webpki::CertRevocationList;

/// Largest file read: some hundred thousand serial numbers.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Most files of a folder.
const FILES_MAX: usize = 64;

/// Tells one state of a file from the next, behind the links that a mount swaps.
type Mark = (u64, u64, i64, i64, u64);

#[derive(Debug)]
struct File {
    mark: Option<Mark>,
    /// Of the last time it could be read.
    lists: Vec<Arc<CertRevocationList<'static>>>,
    broken: bool,
}

/// What [`RevocationFiles::refresh`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// The lists are others than before.
    pub changed: bool,
    /// Files that cannot be used in the state they are in now, and why; each state is told once.
    pub broken: Vec<(PathBuf, String)>,
}

/// Lists of a file (`CRL_PATH`), or of all files of a folder whose names do not begin with a dot.
#[derive(Debug)]
pub struct RevocationFiles {
    path: PathBuf,
    files: BTreeMap<PathBuf, File>,
}

impl RevocationFiles {
    /// Nothing read yet.
    pub const fn new(path: PathBuf) -> Self {
        Self {
            path,
            files: BTreeMap::new(),
        }
    }

    /// The path given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lists in use, of all files.
    pub fn len(&self) -> usize {
        self.files.values().map(|file| file.lists.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Files that cannot be used as they are now.
    pub fn broken(&self) -> usize {
        self.files.values().filter(|file| file.broken).count()
    }

    pub(super) fn lists(&self) -> Lists {
        let all = self
            .files
            .values()
            .flat_map(|file| file.lists.iter().cloned());
        Arc::new(all.take(super::LISTS_MAX).collect())
    }

    /// Reads what has changed. A file that cannot be used keeps the lists it had; those of one that
    /// is gone are gone. A path where nothing is has no lists.
    pub fn refresh(&mut self) -> Refreshed {
        let mut refreshed = Refreshed::default();
        let paths = match self.paths() {
            Ok(paths) => paths,
            Err(error) => {
                // The folder itself: told as a file would be, what it held is kept.
                let file = self.files.entry(self.path.clone()).or_insert(EMPTY);
                if !std::mem::replace(&mut file.broken, true) {
                    refreshed
                        .broken
                        .push((self.path.clone(), error.to_string()));
                }
                return refreshed;
            }
        };
        let before = self.files.len();
        self.files.retain(|path, _| paths.contains(path));
        refreshed.changed = self.files.len() != before;
        for path in paths {
            let file = self.files.entry(path.clone()).or_insert(EMPTY);
            let mark = fs::metadata(&path).ok().map(|meta| mark(&meta));
            if file.mark == mark && mark.is_some() {
                continue;
            }
            file.mark = mark;
            match load(&path) {
                Ok(lists) => {
                    file.lists = lists;
                    file.broken = false;
                    refreshed.changed = true;
                }
                Err(why) => {
                    if !file.broken || mark.is_some() {
                        refreshed.broken.push((path, why));
                    }
                    file.broken = true;
                }
            }
        }
        refreshed
    }

    fn paths(&self) -> io::Result<Vec<PathBuf>> {
        let meta = match fs::metadata(&self.path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        if !meta.is_dir() {
            return Ok(vec![self.path.clone()]);
        }
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            let path = entry.path();
            if !hidden && fs::metadata(&path).is_ok_and(|meta| meta.is_file()) {
                paths.push(path);
            }
            if paths.len() > FILES_MAX {
                return Err(io::Error::other(format!("over {FILES_MAX} files")));
            }
        }
        paths.sort();
        Ok(paths)
    }
}

const EMPTY: File = File {
    mark: None,
    lists: Vec::new(),
    broken: false,
};

fn mark(meta: &fs::Metadata) -> Mark {
    (
        meta.dev(),
        meta.ino(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.len(),
    )
}

fn load(path: &Path) -> Result<Vec<Arc<CertRevocationList<'static>>>, String> {
    let mut bytes = Vec::new();
    let limited = fs::File::open(path).map(|file| file.take(FILE_BYTES_MAX + 1));
    limited
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .map_err(|e| e.to_string())?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(format!("over {FILE_BYTES_MAX} bytes"));
    }
    read(&bytes)
}
