//! Files with modes, written whole or not at all.

use super::RootsError;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Largest file read, bytes: a chain or a bundle of some hundred certificates.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The file whose lock tells a second process that the directory is taken.
const LOCK_FILE: &str = "lock";
/// Mode of the state directory.
const DIRECTORY_MODE: u32 = 0o700;

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> RootsError + '_ {
    |source| RootsError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Makes the directory, open to its owner only; one that is there must be so already.
pub(super) fn create_private_dir(directory: &Path) -> Result<(), RootsError> {
    if !directory.exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(directory)
            .map_err(io_error(directory))?;
    }
    let metadata = directory.metadata().map_err(io_error(directory))?;
    if !metadata.is_dir() {
        return Err(RootsError::content(directory, "not a directory"));
    }
    check_mode(directory, &metadata, DIRECTORY_MODE)
}

/// Takes the directory for this process; the lock ends with it.
pub(super) fn lock(directory: &Path) -> Result<File, RootsError> {
    let path = directory.join(LOCK_FILE);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io_error(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(RootsError::InUse(directory.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(io_error(&path)(source)),
    }
}

/// Reads a text file; `mode` is the widest it may have. `present` names a file that is there, for
/// the message when this one is not.
pub(super) fn read(
    path: &Path,
    mode: Option<u32>,
    present: &'static str,
) -> Result<String, RootsError> {
    let metadata = match path.metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(RootsError::Missing {
                path: path.to_owned(),
                present,
            });
        }
        other => other.map_err(io_error(path))?,
    };
    if let Some(wanted) = mode {
        check_mode(path, &metadata, wanted)?;
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(RootsError::content(path, "too large to be what it should"));
    }
    std::fs::read_to_string(path).map_err(io_error(path))
}

fn check_mode(path: &Path, metadata: &std::fs::Metadata, wanted: u32) -> Result<(), RootsError> {
    let mode = metadata.mode() & 0o7777;
    if mode & 0o777 & !wanted == 0 {
        return Ok(());
    }
    Err(RootsError::Mode {
        path: path.to_owned(),
        mode,
        wanted,
    })
}

/// Writes a file so that after a crash it is there whole, or not at all.
pub(super) fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), RootsError> {
    let temporary = path.with_extension("new");
    // Left by a crash: it was never in use.
    std::fs::remove_file(&temporary).ok();
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        match path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(io_error(path))
}
