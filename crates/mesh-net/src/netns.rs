//! Network namespaces: a handle, and a visit to one that always comes back.

use nix::sched::{CloneFlags, setns};
use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// The namespace of the calling thread; `/proc/self` would be that of the main thread.
const CURRENT: &str = "/proc/thread-self/ns/net";
/// Whether connections move on when their listener closes.
const MIGRATE_REQUESTS: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

thread_local! {
    /// Where the thread is, once it has asked. Only [`Netns::enter`] moves a thread, and says so here: to
    /// ask the kernel each time costs more than the visit.
    static HERE: RefCell<Option<Netns>> = const { RefCell::new(None) };
}

/// A network namespace, kept alive by this handle. Clones share one file descriptor.
#[derive(Debug, Clone)]
pub struct Netns {
    file: Arc<File>,
    /// Device and inode: together they name a namespace.
    key: (u64, u64),
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Netns {}

impl Netns {
    /// The namespace a file stands for, such as `/run/netns/x` or `/proc/7/ns/net`.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_file(File::open(path)?)
    }

    /// The namespace of a file descriptor, as handed over by the node agent.
    ///
    /// # Errors
    /// When the descriptor cannot be read.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Self::from_file(File::from(fd))
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn current() -> io::Result<Self> {
        Self::open(CURRENT)
    }

    fn from_file(file: File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self {
            key: (meta.st_dev(), meta.st_ino()),
            file: Arc::new(file),
        })
    }

    /// As [`Self::current`], asked of the kernel once a thread.
    fn here() -> io::Result<Self> {
        if let Some(known) = HERE.with_borrow(Clone::clone) {
            return Ok(known);
        }
        let here = Self::current()?;
        HERE.set(Some(here.clone()));
        Ok(here)
    }

    /// The inode, which is how `lsns` and `ip netns` show it.
    pub fn inode(&self) -> u64 {
        self.key.1
    }

    /// Runs `f` with the calling thread inside this namespace. Nothing is switched, and no
    /// privilege needed, when the thread is there already.
    ///
    /// The call is synchronous on purpose: across an await another task of the thread would make
    /// its sockets in the wrong place. A socket belongs to the namespace it was made in for good,
    /// so it is enough to make it here. Should the way back fail the process ends: a thread in
    /// another pod's namespace would send one workload's traffic as another's. For the same reason
    /// nothing else may move a thread that has ever called this.
    ///
    /// # Errors
    /// When the current namespace cannot be read or this one not be entered (needs
    /// `CAP_SYS_ADMIN`); `f` has not run then.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> io::Result<R> {
        let home = Self::here()?;
        if home == *self {
            return Ok(f());
        }
        setns(&*self.file, CloneFlags::CLONE_NEWNET)?;
        HERE.set(Some(self.clone()));
        // A guard, so that a panic in `f` takes the way back too.
        let _back = WayBack(home);
        Ok(f())
    }
}

impl Netns {
    /// Has the kernel hand connections that wait, or are being made, at a listener that closes to
    /// another listener of the same port (`net.ipv4.tcp_migrate_req`, which counts for IPv6 too;
    /// Linux 5.14). Else it resets them.
    ///
    /// # Errors
    /// When the kernel is older, or `/proc/sys` is read-only.
    pub fn migrate_handshakes(&self) -> io::Result<()> {
        // The file is that of the thread's own namespace.
        self.enter(|| fs::write(MIGRATE_REQUESTS, "1"))?
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

struct WayBack(Netns);

impl Drop for WayBack {
    fn drop(&mut self) {
        if let Err(error) = setns(&*self.0.file, CloneFlags::CLONE_NEWNET) {
            tracing::error!(%error, "cannot return to the proxy's own network namespace");
            std::process::abort();
        }
        HERE.set(Some(self.0.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ListenOptions, listen};
    use nix::sched::unshare;

    #[test]
    fn the_current_namespace_is_entered_without_privilege() {
        let here = Netns::current().unwrap();
        assert_eq!(here, Netns::current().unwrap());
        assert_eq!(here.enter(|| 7).unwrap(), 7);
    }

    #[test]
    fn a_missing_namespace_is_an_error() {
        assert!(Netns::open("/nonexistent/netns").is_err());
    }

    /// A second namespace, made on a thread of its own; none where the machine forbids it.
    fn other() -> Option<Netns> {
        std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).ok()?;
            Netns::current().ok()
        })
        .join()
        .unwrap()
    }

    #[tokio::test]
    async fn a_socket_made_inside_stays_there_and_the_thread_comes_back() {
        let home = Netns::current().unwrap();
        let Some(pod) = other() else {
            println!("skipped: this machine forbids new network namespaces");
            return;
        };
        assert_ne!(home, pod);
        assert_eq!(pod.enter(|| Netns::current().unwrap()).unwrap(), pod);
        assert_eq!(Netns::current().unwrap(), home);
        // There and back from within, by what the thread remembers: it must be what is so.
        let nested = || home.enter(|| Netns::current().unwrap());
        assert_eq!(pod.enter(nested).unwrap().unwrap(), home);
        let twice = || pod.enter(|| Netns::current().unwrap());
        assert_eq!(pod.enter(twice).unwrap().unwrap(), pod);
        assert_eq!(Netns::current().unwrap(), home);
        let panicked = std::panic::catch_unwind(|| pod.enter(|| panic!("inside")));
        assert!(panicked.is_err());
        assert_eq!(Netns::current().unwrap(), home);

        // The same port twice: they do not meet, for they live in two namespaces. (Loopback is
        // down in a fresh namespace, binding to the wildcard works all the same.)
        let mut options = ListenOptions::new("0.0.0.0:0".parse().unwrap());
        let outside = listen(&options).unwrap();
        options.address = outside.local_addr().unwrap();
        options.netns = Some(pod);
        let inside = listen(&options).unwrap();
        assert_eq!(inside.local_addr().unwrap(), outside.local_addr().unwrap());
    }
}
