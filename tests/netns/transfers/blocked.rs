//! A log that nobody reads: a pipe as a program's output, until it is read after all.

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The reading end of a pipe with a name; dropping it breaks the pipe.
pub(super) struct Unread {
    pipe: File,
    read: Vec<u8>,
}

impl Unread {
    /// Makes the pipe and holds its end, so that it can be opened for writing.
    pub(super) fn new(path: &Path) -> Result<Self> {
        mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).with_context(|| path.display().to_string())?;
        let pipe = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)?;
        Ok(Self {
            pipe,
            read: Vec::new(),
        })
    }

    /// Reads what is in it now, and gives all that was read so far.
    pub(super) fn text(&mut self) -> Result<String> {
        match self.pipe.read_to_end(&mut self.read) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error.into()),
            _ => Ok(String::from_utf8_lossy(&self.read).into_owned()),
        }
    }
}
