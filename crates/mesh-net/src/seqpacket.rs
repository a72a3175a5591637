//! Unix sockets of type `SOCK_SEQPACKET`: datagrams in order, with file descriptors beside them.
//!
//! The node agent hands network namespaces over such a socket (interop/zds-cni.md section 1).

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

/// Descriptors taken from one datagram. One is what the protocol allows; the others are here to be
/// counted and closed.
const DESCRIPTORS_MAX: usize = 4;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// One datagram as it came.
#[derive(Debug)]
pub struct Datagram {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The descriptors beside it.
    pub descriptors: Vec<OwnedFd>,
}

/// Why a datagram was not taken. Its descriptors are closed.
#[derive(Debug, thiserror::Error)]
pub enum DatagramError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The datagram is longer than the buffer (`MSG_TRUNC`).
    #[error("a message is longer than {0} bytes")]
    TooLong(usize),
    /// Descriptors were lost (`MSG_CTRUNC`): too many of them, or this process has no room.
    #[error("descriptors beside a message were lost")]
    DescriptorsLost,
}

/// One end of a connection.
#[derive(Debug)]
pub struct SeqPacket {
    /// To tokio a Unix socket is one: its own reads and writes, which know no datagrams, are not used.
    socket: UnixStream,
}

impl SeqPacket {
    /// Connects to a listening socket file. Must be called within a tokio runtime. Never waits: the
    /// kernel connects at once or not at all.
    ///
    /// # Errors
    /// When there is no such file, nobody listens, or the listener's backlog is full.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket()?;
        socket.connect(&SockAddr::unix(path)?)?;
        Self::new(socket)
    }

    /// Two ends of one connection. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When no socket can be made.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = Socket::pair(Domain::UNIX, Type::SEQPACKET.nonblocking(), None)?;
        Ok((Self::new(one)?, Self::new(other)?))
    }

    fn new(socket: Socket) -> io::Result<Self> {
        Ok(Self {
            socket: UnixStream::from_std(socket.into())?,
        })
    }

    /// Sends one datagram, whole, with descriptors beside it. The future may be dropped: then it was
    /// sent whole or not at all.
    ///
    /// # Errors
    /// When the other end is gone.
    pub async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let once = || {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors))
            {
                return Err(io::Error::new(
                    ErrorKind::InvalidInput,
                    "too many descriptors for one message",
                ));
            }
            let flags = SendFlags::NOSIGNAL;
            Ok(sendmsg(
                &self.socket,
                &[IoSlice::new(bytes)],
                &mut beside,
                flags,
            )?)
        };
        self.socket.async_io(Interest::WRITABLE, once).await?;
        Ok(())
    }

    /// The next datagram, of at most `bytes_max` bytes; none when the other end has closed. The
    /// future may be dropped without losing one.
    ///
    /// # Errors
    /// See [`DatagramError`].
    pub async fn receive(&self, bytes_max: usize) -> Result<Option<Datagram>, DatagramError> {
        let mut bytes = vec![0; bytes_max];
        let once = || {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let into = &mut [IoSliceMut::new(&mut bytes)];
            let got = recvmsg(&self.socket, into, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
            let mut descriptors = Vec::new();
            for message in beside.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    descriptors.extend(fds);
                }
            }
            Ok((got.bytes, got.flags, descriptors))
        };
        let (length, flags, descriptors) = self.socket.async_io(Interest::READABLE, once).await?;
        if flags.contains(ReturnFlags::TRUNC) {
            return Err(DatagramError::TooLong(bytes_max));
        }
        if flags.contains(ReturnFlags::CTRUNC) {
            return Err(DatagramError::DescriptorsLost);
        }
        // An empty datagram reads like the end; the protocol has none.
        if length == 0 {
            return Ok(None);
        }
        bytes.truncate(length);
        Ok(Some(Datagram { bytes, descriptors }))
    }
}

/// A listening socket file; removed when dropped, unless another has taken its place.
#[derive(Debug)]
pub struct SeqPacketListener {
    socket: UnixListener,
    path: PathBuf,
    inode: Option<u64>,
}

impl SeqPacketListener {
    /// Listens at a path that only this user may connect to. A socket that an earlier process left
    /// there is removed, any other file is not. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the path is taken by something else, too long (108 bytes), or its folder is missing.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.file_type().is_socket() => fs::remove_file(path)?,
            Ok(_) => return Err(io::Error::new(ErrorKind::AlreadyExists, "not a socket")),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let socket = socket()?;
        socket.bind(&SockAddr::unix(path)?)?;
        // Before anybody can connect: that needs the listen below.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        Ok(Self {
            socket: UnixListener::from_std(socket.into())?,
            inode: inode(path),
            path: path.to_owned(),
        })
    }

    /// Takes the next connection. The future may be dropped without losing one.
    ///
    /// # Errors
    /// Those of the system call, such as want of descriptors.
    pub async fn accept(&self) -> io::Result<SeqPacket> {
        let (socket, _) = self.socket.accept().await?;
        Ok(SeqPacket { socket })
    }
}

impl Drop for SeqPacketListener {
    fn drop(&mut self) {
        // The next agent may be listening already: its file is not ours to remove.
        if inode(&self.path) == self.inode
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(%error, path = %self.path.display(), "socket file not removed");
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    use std::os::linux::fs::MetadataExt;
    fs::symlink_metadata(path).ok().map(|meta| meta.st_ino())
}

fn socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::SEQPACKET.nonblocking(), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    fn temporary(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("mesh-net-{}-{name}", std::process::id()))
    }

    #[tokio::test]
    async fn datagrams_keep_their_bounds_and_bring_descriptors() {
        let (one, other) = SeqPacket::pair().unwrap();
        let file = fs::File::open("/dev/null").unwrap();
        one.send(b"first", &[file.as_fd()]).await.unwrap();
        one.send(b"second", &[]).await.unwrap();
        let first = other.receive(64).await.unwrap().unwrap();
        assert_eq!(first.bytes, b"first");
        let [taken] = <[OwnedFd; 1]>::try_from(first.descriptors).unwrap();
        let meta = fs::File::from(taken).metadata().unwrap();
        assert_eq!(meta.rdev(), file.metadata().unwrap().rdev());
        let second = other.receive(64).await.unwrap().unwrap();
        assert_eq!(
            (&*second.bytes, second.descriptors.len()),
            (&b"second"[..], 0)
        );
        drop(one);
        assert!(other.receive(64).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_was_cut_short_is_an_error_and_leaks_nothing() {
        let (one, other) = SeqPacket::pair().unwrap();
        one.send(&[7; 65], &[]).await.unwrap();
        assert!(matches!(
            other.receive(64).await,
            Err(DatagramError::TooLong(64))
        ));
        let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(9))];
        let nine = [far.as_fd(); 9];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        assert!(beside.push(SendAncillaryMessage::ScmRights(&nine)));
        let (from, flags) = (&one.socket, SendFlags::empty());
        sendmsg(from, &[IoSlice::new(b"x")], &mut beside, flags).unwrap();
        drop(far);
        assert!(matches!(
            other.receive(64).await,
            Err(DatagramError::DescriptorsLost)
        ));
        // Ends only when every copy of the far end is closed.
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_no_other_file_is() {
        let path = temporary("stale");
        let first = SeqPacketListener::bind(&path).unwrap();
        let second = SeqPacketListener::bind(&path).unwrap();
        drop(first);
        let client = SeqPacket::connect(&path).unwrap();
        let server = second.accept().await.unwrap();
        client.send(b"hello", &[]).await.unwrap();
        assert_eq!(server.receive(64).await.unwrap().unwrap().bytes, b"hello");
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        assert!(SeqPacketListener::bind(&path).is_err());
        fs::remove_file(&path).unwrap();
        assert!(SeqPacket::connect(&path).is_err());
    }
}
