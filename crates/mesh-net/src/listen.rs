//! Listening sockets and accepted connections.

use crate::Netns;
use crate::congestion::{self, Link};
use crate::keep_alive::KeepAlive;
use nix::errno::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::cell::RefCell;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Connections the kernel holds for a listener that has not accepted them yet. The kernel caps it
/// at `net.core.somaxconn`; 1024 rides out a burst of a busy node without holding memory when idle.
pub const LISTEN_BACKLOG: i32 = 1024;
/// Most attempts to take what is queued for a listener that closes: the queue, and what comes to it
/// meanwhile.
const QUEUED_MAX: usize = 4096;
/// Pause before the next accept when the process or machine is out of descriptors or memory: the
/// condition does not pass by itself and a tight loop would take the CPU needed to end connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How to listen.
#[derive(Debug, Clone)]
pub struct ListenOptions {
    /// Address and port; `[::]` takes IPv4 as well.
    pub address: SocketAddr,
    /// Take connections to foreign addresses (`IP_TRANSPARENT`, needs `CAP_NET_ADMIN`).
    pub transparent: bool,
    /// `SO_REUSEPORT`: each worker has a listener of its own, and so may another process of the same
    /// user. Without it the port is this listener's alone.
    pub reuse_port: bool,
    /// `SO_MARK`, inherited by the accepted connections (needs `CAP_NET_ADMIN`).
    pub mark: Option<u32>,
    /// What lies between it and those who connect.
    pub link: Link,
    /// The namespace to listen in; none given: the caller's.
    pub netns: Option<Netns>,
}

impl ListenOptions {
    /// A plain listener of an address.
    pub const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            transparent: false,
            reuse_port: true,
            mark: None,
            link: Link::Network,
            netns: None,
        }
    }
}

/// Opens a listener with `SO_REUSEPORT`, so that every worker has its own and the kernel spreads
/// connections over them. The connections have what every proxied one has: `TCP_NODELAY`, and the
/// keep-alive of the process. Must be called within a tokio runtime.
///
/// # Errors
/// Those of the socket calls: address in use, no permission, no such namespace.
pub fn listen(options: &ListenOptions) -> io::Result<TcpListener> {
    TcpListener::from_std(bind(options)?)
}

/// As [`listen`], for whoever hands the socket to the runtime that will accept on it. It does not
/// block.
///
/// # Errors
/// As [`listen`].
pub fn bind(options: &ListenOptions) -> io::Result<std::net::TcpListener> {
    let socket = match &options.netns {
        Some(netns) => netns.enter(|| open(options))??,
        None => open(options)?,
    };
    Ok(socket.into())
}

fn open(options: &ListenOptions) -> io::Result<Socket> {
    let address = options.address;
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if options.transparent {
        set_transparent(&socket, address.ip())?;
    }
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    // Inherited by what is accepted: set once, not by five system calls a connection.
    socket.set_tcp_nodelay(true)?;
    KeepAlive::of_process().apply(&SockRef::from(&socket))?;
    congestion::apply(options.link, &SockRef::from(&socket));
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket)
}

/// Lets a socket use addresses that are not this machine's.
pub(crate) fn set_transparent(socket: &Socket, address: IpAddr) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_ip_transparent_v6(true)
    } else {
        socket.set_ip_transparent_v4(true)
    }
}

/// What came of a connection that waited.
#[derive(Debug)]
pub enum Accepted {
    /// It is ours now.
    Taken(TcpStream, SocketAddr),
    /// It was reset, because the process or the machine has no descriptor left.
    Refused(SocketAddr, io::Error),
}

thread_local! {
    /// A descriptor kept back: giving it up lets a connection be taken and reset, when otherwise its
    /// client would be left waiting in the backlog.
    static SPARE: RefCell<Option<File>> = const { RefCell::new(None) };
}

/// Takes the next connection of a listener of [`listen`], with the peer's address in canonical form
/// (an IPv4 peer of a `[::]` listener is shown as IPv4).
///
/// Faults of one connection are passed over. When descriptors run out connections are refused one by
/// one; want of memory is waited out. The future is safe to drop at any await.
///
/// # Errors
/// Only when the listener itself is unusable.
pub async fn accept_or_refuse(listener: &TcpListener) -> io::Result<Accepted> {
    loop {
        keep_spare();
        let error = match listener.accept().await {
            Ok((stream, peer)) => return Ok(Accepted::Taken(stream, canonical(peer))),
            Err(error) => error,
        };
        match error.raw_os_error().map(Errno::from_raw) {
            Some(
                Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK | Errno::EOPNOTSUPP | Errno::EFAULT,
            ) => return Err(error),
            Some(Errno::EMFILE | Errno::ENFILE) => match refuse(listener).await {
                Some(peer) => return Ok(Accepted::Refused(peer, error)),
                None => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(Errno::ENOBUFS | Errno::ENOMEM) => {
                tracing::warn!(%error, "cannot accept for want of memory");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            _ => tracing::debug!(%error, "a connection was lost before it was accepted"),
        }
    }
}

/// As [`accept_or_refuse`], for whoever does not count what is refused; it is logged.
///
/// # Errors
/// As [`accept_or_refuse`].
pub async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        match accept_or_refuse(listener).await? {
            Accepted::Taken(stream, peer) => return Ok((stream, peer)),
            Accepted::Refused(peer, error) => {
                tracing::warn!(%peer, %error, "connection refused");
            }
        }
    }
}

/// Takes what the kernel has queued for a listener, and closes it: what stays queued when a listener
/// closes is reset, or goes to another listener where the kernel is told so
/// ([`crate::Netns::migrate_handshakes`]). Under a flood it ends all the same.
pub fn accept_queued(listener: TcpListener, mut take: impl FnMut(TcpStream, SocketAddr)) {
    // Asked directly: the runtime hears of a connection only when its driver next looks.
    let listener = match listener.into_std() {
        Ok(listener) => listener,
        Err(error) => return tracing::debug!(%error, "a listener closed with what it had queued"),
    };
    for _ in 0..QUEUED_MAX {
        let accepted = listener.accept().and_then(|(stream, peer)| {
            stream.set_nonblocking(true)?;
            let stream = TcpStream::from_std(stream)?;
            Ok((stream, peer))
        });
        match accepted {
            Ok((stream, peer)) => take(stream, canonical(peer)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => tracing::debug!(%error, "a queued connection was lost"),
        }
    }
}

fn keep_spare() {
    SPARE.with_borrow_mut(|spare| {
        if spare.is_none() {
            // Not now: then later, when there are descriptors again.
            *spare = File::open("/dev/null").ok();
        }
    });
}

/// Takes one connection in place of the spare descriptor and resets it; none when there is no spare
/// or no connection.
async fn refuse(listener: &TcpListener) -> Option<SocketAddr> {
    SPARE.with_borrow_mut(Option::take)?;
    let at_once = poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await;
    let peer = match at_once {
        Poll::Ready(Ok((stream, peer))) => {
            // A reset tells the client at once, whatever it has sent.
            if let Err(error) = stream.set_zero_linger() {
                tracing::debug!(%error, "a refused connection is closed, not reset");
            }
            Some(canonical(peer))
        }
        _ => None,
    };
    keep_spare();
    peer
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConnectOptions, connect};

    #[tokio::test]
    async fn two_workers_listen_on_one_port() {
        let mut options = ListenOptions::new("127.0.0.1:0".parse().unwrap());
        let first = listen(&options).unwrap();
        options.address = first.local_addr().unwrap();
        let second = listen(&options).unwrap();
        assert_eq!(first.local_addr().unwrap(), second.local_addr().unwrap());
    }

    #[tokio::test]
    async fn what_is_queued_is_taken_before_the_listener_closes() {
        let listener = listen(&ListenOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
        let to = listener.local_addr().unwrap();
        // More than one task may take at a time, and none that the runtime has heard of.
        let clients: Vec<_> = (0..300)
            .map(|_| std::net::TcpStream::connect(to).unwrap())
            .collect();
        let mut taken = Vec::new();
        accept_queued(listener, |_, peer| taken.push(peer));
        let made: Vec<_> = clients.iter().map(|c| c.local_addr().unwrap()).collect();
        assert_eq!(taken, made);
        assert!(std::net::TcpStream::connect(to).is_err());
    }

    #[tokio::test]
    async fn the_v6_wildcard_takes_v4_and_shows_it_as_such() {
        let Ok(listener) = listen(&ListenOptions::new("[::]:0".parse().unwrap())) else {
            println!("skipped: this machine has no IPv6");
            return;
        };
        let port = listener.local_addr().unwrap().port();
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        let options = ConnectOptions::default();
        let (accepted, client) = tokio::join!(accept(&listener), connect(to, &options));
        let (stream, peer) = accepted.unwrap();
        assert_eq!(peer, client.unwrap().local_addr().unwrap());
        assert!(stream.nodelay().unwrap());
        assert!(SockRef::from(&stream).keepalive().unwrap());
    }
}
