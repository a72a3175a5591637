//! Sockets of the load, and waiting for many of them at once.
//!
//! Without a runtime: the load and its server share the processors with what they measure, so a
//! message costs them one read, one write and a share of one wait.

use anyhow::{Context, Result};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// How long a connection may take to be made, or an answer to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How often a waiting thread looks whether it is to stop.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// Connections that wait for the server.
const BACKLOG: i32 = 4096;
/// Events taken with one wait.
const EVENTS_MAX: usize = 512;

/// Opens a listener in the calling thread's namespace.
///
/// # Errors
/// Those of the system calls.
pub(crate) fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A connection being made, that never blocks.
///
/// # Errors
/// Those of the system calls.
pub(crate) fn begin(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => {
            Err(error)
        }
        _ => Ok(socket.into()),
    }
}

/// A connection, made.
///
/// # Errors
/// When nobody answers in [`PATIENCE`].
pub(crate) fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream =
        TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// What went wrong with a connection that was begun.
pub(crate) fn begun(stream: &TcpStream) -> io::Result<()> {
    match SockRef::from(stream).take_error()? {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Whether an operation would have had to wait.
pub(crate) fn would_wait(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// Waits for many sockets at once, each known by a number.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// Without a socket yet.
    ///
    /// # Errors
    /// Those of the system call.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
        })
    }

    /// Waits for a socket too, from now on.
    ///
    /// # Errors
    /// Those of the system call.
    pub(crate) fn add(&self, socket: impl AsFd, key: usize, wanted: EventFlags) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            socket,
            EventData::new_u64(key as u64),
            wanted,
        )?)
    }

    /// Waits for something else of a socket.
    ///
    /// # Errors
    /// Those of the system call.
    pub(crate) fn change(
        &self,
        socket: impl AsFd,
        key: usize,
        wanted: EventFlags,
    ) -> io::Result<()> {
        Ok(epoll::modify(
            &self.epoll,
            socket,
            EventData::new_u64(key as u64),
            wanted,
        )?)
    }

    /// Puts the numbers of what is ready into `ready`; none when [`LOOK`] has passed first.
    ///
    /// # Errors
    /// Those of the system call.
    pub(crate) fn wait(&self, ready: &mut Vec<usize>) -> io::Result<()> {
        ready.clear();
        let look = Timespec {
            tv_sec: 0,
            tv_nsec: LOOK.subsec_nanos().into(),
        };
        let mut space = [const { MaybeUninit::<Event>::uninit() }; EVENTS_MAX];
        match epoll::wait(&self.epoll, &mut space[..], Some(&look)) {
            Ok((events, _)) => {
                let keys = events.iter().map(|event| event.data.u64());
                ready.extend(keys.filter_map(|key| usize::try_from(key).ok()));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
