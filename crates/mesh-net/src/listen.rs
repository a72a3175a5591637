//! Listening sockets and accepted connections.

use crate::Netns;
use crate::connect::keep_alive;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Connections the kernel holds for a listener that has not accepted them yet. The kernel caps it
/// at `net.core.somaxconn`; 1024 rides out a burst of a busy node without holding memory when idle.
pub const LISTEN_BACKLOG: i32 = 1024;
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
    /// `SO_MARK`, inherited by the accepted connections (needs `CAP_NET_ADMIN`).
    pub mark: Option<u32>,
    /// The namespace to listen in; none given: the caller's.
    pub netns: Option<Netns>,
}

impl ListenOptions {
    /// A plain listener of an address.
    pub const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            transparent: false,
            mark: None,
            netns: None,
        }
    }
}

/// Opens a listener with `SO_REUSEPORT`, so that every worker has its own and the kernel spreads
/// connections over them. Must be called within a tokio runtime.
///
/// # Errors
/// Those of the socket calls: address in use, no permission, no such namespace.
pub fn listen(options: &ListenOptions) -> io::Result<TcpListener> {
    let socket = match &options.netns {
        Some(netns) => netns.enter(|| open(options))??,
        None => open(options)?,
    };
    TcpListener::from_std(socket.into())
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
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if options.transparent {
        set_transparent(&socket, address.ip())?;
    }
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
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

/// Takes the next connection, tuned as [`tune`] does, with the peer's address in canonical form
/// (an IPv4 peer of a `[::]` listener is shown as IPv4).
///
/// Faults of one connection are passed over; running out of descriptors or memory is logged and
/// waited out. The future is safe to drop at any await.
///
/// # Errors
/// Only when the listener itself is unusable.
pub async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        let error = match listener.accept().await {
            Ok((stream, peer)) => match tune(&stream) {
                Ok(()) => return Ok((stream, canonical(peer))),
                Err(error) => error,
            },
            Err(error) => error,
        };
        match error.raw_os_error().map(nix::errno::Errno::from_raw) {
            Some(
                nix::errno::Errno::EBADF
                | nix::errno::Errno::EINVAL
                | nix::errno::Errno::ENOTSOCK
                | nix::errno::Errno::EOPNOTSUPP
                | nix::errno::Errno::EFAULT,
            ) => return Err(error),
            Some(
                nix::errno::Errno::EMFILE
                | nix::errno::Errno::ENFILE
                | nix::errno::Errno::ENOBUFS
                | nix::errno::Errno::ENOMEM,
            ) => {
                tracing::warn!(%error, "cannot accept for want of resources");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            _ => tracing::debug!(%error, "a connection was lost before it was accepted"),
        }
    }
}

/// Sets what every proxied connection has: `TCP_NODELAY`, and keep-alive of 180 s, 180 s, 9 probes
/// (interop/hbone.md, "Data phase").
///
/// # Errors
/// When the connection is gone already.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&keep_alive())
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
