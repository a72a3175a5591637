//! Connections the proxy opens.

use crate::Netns;
use crate::congestion::{self, Link};
use crate::keep_alive::KeepAlive;
use crate::listen::set_transparent;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// How long a connect may take (interop/hbone.md, "Data phase").
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// How to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// `SO_MARK`, by which the redirection knows the proxy's own packets (needs `CAP_NET_ADMIN`).
    pub mark: Option<u32>,
    /// The address to come from; none given: the kernel's choice.
    pub source: Option<IpAddr>,
    /// `source` need not be this machine's (`IP_TRANSPARENT`, needs `CAP_NET_ADMIN`).
    pub transparent: bool,
    /// What lies between.
    pub link: Link,
    /// How long it may take.
    pub timeout: Duration,
    /// The namespace to connect from; none given: the caller's.
    pub netns: Option<Netns>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            mark: None,
            source: None,
            transparent: false,
            link: Link::Network,
            timeout: CONNECT_TIMEOUT_DEFAULT,
            netns: None,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No answer in time.
    #[error("no answer from {address} within {} ms", timeout.as_millis())]
    Timeout {
        /// Where to.
        address: SocketAddr,
        /// How long was waited.
        timeout: Duration,
    },
    /// The socket calls failed, or the far side refused.
    #[error("cannot connect to {address}: {source}")]
    Io {
        /// Where to.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Connects, with `TCP_NODELAY` and keep-alive set.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(
    address: SocketAddr,
    options: &ConnectOptions,
) -> Result<TcpStream, ConnectError> {
    let failed = |source| ConnectError::Io { address, source };
    let socket = match &options.netns {
        Some(netns) => netns
            .enter(|| open(address, options))
            .and_then(|made| made)
            .map_err(failed)?,
        None => open(address, options).map_err(failed)?,
    };
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(address);
    match tokio::time::timeout(options.timeout, connecting).await {
        Ok(result) => {
            let stream = result.map_err(failed)?;
            if options.link == Link::Tunnel {
                congestion::settle_tunnel(&stream);
            }
            Ok(stream)
        }
        Err(_) => Err(ConnectError::Timeout {
            address,
            timeout: options.timeout,
        }),
    }
}

fn open(address: SocketAddr, options: &ConnectOptions) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    KeepAlive::of_process().apply(&SockRef::from(&socket))?;
    congestion::apply(options.link, &SockRef::from(&socket));
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    if let Some(source) = options.source {
        if options.transparent {
            set_transparent(&socket, source)?;
        }
        // The port is chosen at connect, per destination: binding it here would limit one source
        // address to 28000 connections in all.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ListenOptions, listen};

    #[tokio::test]
    async fn a_refusal_is_told_from_a_timeout() {
        let listener = listen(&ListenOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let refused = connect(address, &ConnectOptions::default())
            .await
            .unwrap_err();
        assert!(matches!(refused, ConnectError::Io { .. }), "{refused}");

        let options = ConnectOptions {
            timeout: Duration::ZERO,
            ..ConnectOptions::default()
        };
        // A zero timeout passes before a handshake with an address that never answers (RFC 5737).
        let late = connect("192.0.2.1:9".parse().unwrap(), &options).await;
        assert!(late.is_err());
    }

    #[tokio::test]
    async fn the_source_address_is_the_one_asked_for() {
        let listener = listen(&ListenOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
        let options = ConnectOptions {
            source: Some("127.0.0.9".parse().unwrap()),
            ..ConnectOptions::default()
        };
        let to = listener.local_addr().unwrap();
        let stream = connect(to, &options).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), options.source.unwrap());
        assert!(stream.nodelay().unwrap());
    }
}
