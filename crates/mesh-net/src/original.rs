//! Where a redirected connection was going.

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use tokio::net::TcpStream;

/// The destination a connection had before iptables redirected it (`SO_ORIGINAL_DST`), else the
/// address it was accepted on: what was not redirected came to us on purpose. Canonical form.
///
/// # Errors
/// When the connection is gone already.
pub fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let local = stream.local_addr()?;
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let found = match local.ip() {
        // Also for IPv4 connections of a `[::]` socket: the kernel keeps them in the IPv4 table.
        IpAddr::V4(_) => getsockopt(stream, sockopt::OriginalDst).map(|raw| {
            let ip = Ipv4Addr::from_bits(u32::from_be(raw.sin_addr.s_addr));
            SocketAddr::from((ip, u16::from_be(raw.sin_port)))
        }),
        IpAddr::V6(_) => getsockopt(stream, sockopt::Ip6tOriginalDst).map(|raw| {
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), 0, raw.sin6_scope_id).into()
        }),
    };
    match found {
        Ok(address) => Ok(address),
        // No entry in the connection table, or no such table in this kernel or namespace.
        Err(Errno::ENOENT | Errno::ENOPROTOOPT | Errno::EOPNOTSUPP | Errno::EINVAL) => Ok(local),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConnectOptions, ListenOptions, accept, connect, listen};

    #[tokio::test]
    async fn without_redirection_it_is_the_address_connected_to() {
        let listener = listen(&ListenOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
        let to = listener.local_addr().unwrap();
        let client = connect(to, &ConnectOptions::default()).await.unwrap();
        let (server, _) = accept(&listener).await.unwrap();
        assert_eq!(original_destination(&server).unwrap(), to);
        drop(client);
    }
}
