//! The way from the host into the lab: `curl 127.0.0.1:PORT` on the host reaches a pod.
//!
//! The runner opens the sockets in the host's network before it isolates
//! ([`crate::isolate::isolate`]); the inner program accepts on them, for a socket stays in the
//! network it was made in, and connects on in the lab.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context, Result};
use mesh_net::{ConnectOptions, Counters, pump};
use mesh_runtime::Scope;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::place::Place;

/// Most connections that one forward carries at a time; more wait in the backlog.
pub const CONNECTIONS_MAX: usize = 256;

/// Opens one port of the host's loopback; 0 lets the system choose.
///
/// # Errors
/// When the port is taken.
pub fn open(port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("cannot listen on 127.0.0.1:{port} of this machine"))
}

/// Opens one port of the loopback of a place, for programs there that are to find something of elsewhere
/// on it.
///
/// # Errors
/// When the port is taken.
pub fn open_in(place: &Place, port: u16) -> Result<TcpListener> {
    place
        .enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)))?
        .with_context(|| format!("cannot listen on 127.0.0.1:{port} in {}", place.name()))
}

/// Forwards connections of a host socket to an address as seen from a place; returns at once. Ends
/// with `scope`. Call it within a tokio runtime.
///
/// # Errors
/// When the socket cannot be used.
pub fn start(
    scope: &Scope,
    listener: TcpListener,
    place: &Place,
    to: SocketAddr,
) -> Result<SocketAddr> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let options = ConnectOptions {
        netns: Some(place.netns().clone()),
        ..ConnectOptions::default()
    };
    let connections = scope.child();
    scope.spawn("forward", run(connections, listener, options, to));
    Ok(address)
}

async fn run(
    scope: Scope,
    listener: tokio::net::TcpListener,
    options: ConnectOptions,
    to: SocketAddr,
) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        let stream = match mesh_net::accept(&listener).await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a forward from the host has ended");
                return;
            }
        };
        let options = options.clone();
        scope.spawn("forwarded", async move {
            if let Err(error) = carry(stream, &options, to).await {
                tracing::debug!(%error, %to, "a forwarded connection failed");
            }
            drop(permit);
        });
    }
}

async fn carry(mut down: TcpStream, options: &ConnectOptions, to: SocketAddr) -> io::Result<()> {
    let mut up = mesh_net::connect(to, options)
        .await
        .map_err(io::Error::other)?;
    let end = pump(&mut down, &mut up, &Counters::new()).await;
    tracing::debug!(?end, %to, "a forwarded connection ended");
    Ok(())
}
