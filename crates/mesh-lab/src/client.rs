//! Clients of every protocol, for the demo and the tests: what asks the origins, through the mesh or
//! past it.
//!
//! A [`Target`] says where to and from which network namespace; with an
//! [`EdgeConnector`] the connection is TLS. Every client works over both.

mod grpc;
mod http;
mod stream;
mod tally;
mod websocket;

pub use grpc::{GrpcAnswer, GrpcClient};
pub use http::{HttpAnswer, HttpCall, HttpConnection, HttpVersion, http, http_load, http_sequence};
pub use stream::{FirstBytes, Outcome, count_of, first_bytes, tcp_exchange, tcp_outcome};
pub use tally::Tally;
pub use websocket::{Websocket, websocket_echo};

use crate::place::Place;
use anyhow::Result;
use mesh_net::{ConnectOptions, Netns, connect};
use mesh_tls::{EdgeAgreed, EdgeConnector};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// How long a connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes both ways: TCP, or TLS over it.
pub trait Io: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Debug + Send + Unpin> Io for T {}

/// A connection of either kind.
pub type Stream = Box<dyn Io>;

/// Where a client connects to, from where, and whether in TLS.
#[derive(Debug, Clone)]
pub struct Target {
    /// Address.
    pub address: SocketAddr,
    /// The network namespace to connect from; none given: the caller's.
    pub netns: Option<Netns>,
    /// TLS, when the connection is to be one.
    pub tls: Option<EdgeConnector>,
    /// How long the connect may take.
    pub connect_timeout: Duration,
}

impl Target {
    /// An address, in plain TCP, from the caller's network namespace.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            netns: None,
            tls: None,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// The same from inside a place of the lab.
    #[must_use]
    pub fn from_place(mut self, place: &Place) -> Self {
        self.netns = Some(place.netns().clone());
        self
    }

    /// The same in TLS.
    #[must_use]
    pub fn tls(mut self, connector: EdgeConnector) -> Self {
        self.tls = Some(connector);
        self
    }

    /// The same with another time to connect in.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Connects in TCP, also when the target is one of TLS.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn connect_tcp(&self) -> Result<TcpStream> {
        let options = ConnectOptions {
            netns: self.netns.clone(),
            timeout: self.connect_timeout,
            ..ConnectOptions::default()
        };
        Ok(connect(self.address, &options).await?)
    }

    /// Connects; with TLS, says what was agreed on.
    ///
    /// # Errors
    /// When nobody answers, or the TLS handshake fails.
    pub async fn connect(&self) -> Result<(Stream, Option<EdgeAgreed>)> {
        let stream = self.connect_tcp().await?;
        let Some(tls) = &self.tls else {
            return Ok((Box::new(stream), None));
        };
        let (stream, agreed) = tls.connect(stream).await?;
        Ok((Box::new(stream), Some(agreed)))
    }
}

#[cfg(test)]
mod tests;
