//! UDP sockets: one that serves, one that asks.

use crate::{ConnectOptions, ListenOptions};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::UdpSocket;

/// Opens a socket that serves an address, with `SO_REUSEPORT`, so that every worker has its own.
/// Must be called within a tokio runtime.
///
/// # Errors
/// Those of the socket calls: address in use, no permission, no such namespace.
pub fn bind_udp(options: &ListenOptions) -> io::Result<UdpSocket> {
    let open = || -> io::Result<Socket> {
        let socket = open(options.address, options.mark)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&options.address.into())?;
        Ok(socket)
    };
    let socket = match &options.netns {
        Some(netns) => netns.enter(open)??,
        None => open()?,
    };
    UdpSocket::from_std(socket.into())
}

/// Opens a socket that talks to one address alone: the kernel lets nothing else in, and gives it a
/// port of its own by chance. Mark and namespace count, and `source`. Must be called within a tokio
/// runtime.
///
/// # Errors
/// Those of the socket calls, an address without a route among them.
pub fn connect_udp(address: SocketAddr, options: &ConnectOptions) -> io::Result<UdpSocket> {
    let open = || -> io::Result<Socket> {
        let socket = open(address, options.mark)?;
        let any = match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        socket.bind(&SocketAddr::new(options.source.unwrap_or(any), 0).into())?;
        socket.connect(&address.into())?;
        Ok(socket)
    };
    let socket = match &options.netns {
        Some(netns) => netns.enter(open)??,
        None => open()?,
    };
    UdpSocket::from_std(socket.into())
}

fn open(address: SocketAddr, mark: Option<u32>) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_workers_serve_one_port_and_a_stranger_is_not_heard() {
        let mut options = ListenOptions::new("127.0.0.1:0".parse().unwrap());
        let server = bind_udp(&options).unwrap();
        options.address = server.local_addr().unwrap();
        let second = bind_udp(&options).unwrap();
        assert_eq!(second.local_addr().unwrap(), options.address);
        drop(second);

        let client = connect_udp(options.address, &ConnectOptions::default()).unwrap();
        client.send(b"ask").await.unwrap();
        let mut buffer = [0; 16];
        let (length, peer) = server.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"ask");
        let stranger = bind_udp(&ListenOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
        stranger.send_to(b"lie", peer).await.unwrap();
        server.send_to(b"answer", peer).await.unwrap();
        let length = client.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"answer");
    }
}
