//! The sockets of one worker: opened and closed as the table changes.

use super::{Port, TlsChoice, TlsPort};
use crate::worker::Worker;
use crate::{http, stream};
use mesh_model::Reason;
use mesh_net::{ClientHello, ListenOptions, Prefixed, accept, listen, peek_server_name};
use mesh_plan::Client;
use mesh_runtime::Scope;
use mesh_tls::{EdgeTls, HANDSHAKE_TIMEOUT};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Pause before a port that could not be bound is tried again.
const BIND_PAUSE: Duration = Duration::from_secs(1);
/// The kernel's "no such address family": a machine without IPv6.
const NO_SUCH_FAMILY: i32 = 97;

/// A connection that has come in.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// The client.
    pub(crate) peer: SocketAddr,
    /// The address it reached.
    pub(crate) local: SocketAddr,
    /// The listeners' port.
    pub(crate) port: u16,
    /// Ourselves.
    pub(crate) client: Client,
}

/// Keeps the worker's sockets as the table wants them, until the drain starts. `applied` hears once
/// that the first table is in force.
pub(crate) async fn follow(worker: Rc<Worker>, applied: mpsc::Sender<()>) {
    let mut table = worker.shared.table.clone();
    let mut open: BTreeMap<u16, Scope> = BTreeMap::new();
    let mut applied = Some(applied);
    loop {
        let wanted = table.borrow_and_update().clone();
        open.retain(|port, scope| {
            let keep = wanted.ports.contains_key(port);
            if !keep {
                tracing::info!(port, "port closed");
                scope.cancel();
                worker.shared.unbound.note(*port, None);
            }
            keep
        });
        for port in wanted.ports.keys() {
            open.entry(*port).or_insert_with(|| start(&worker, *port));
        }
        if let Some(applied) = applied.take() {
            applied.send(()).await.ok();
        }
        tokio::select! {
            () = worker.shared.drain.started() => break,
            changed = table.changed() => if changed.is_err() {
                break;
            }
        }
    }
    for scope in open.values() {
        scope.cancel();
    }
}

/// Binds a port and serves it within a scope of its own. The first try is made at once, so that a
/// table in force means sockets that are open.
fn start(worker: &Rc<Worker>, port: u16) -> Scope {
    let scope = worker.shared.scope.child();
    let first = bind(worker, port);
    if first.is_some() {
        tracing::info!(port, "port open");
    }
    let task = serve_port(worker.clone(), port, first);
    scope.spawn_local("listener", task);
    scope
}

fn bind(worker: &Worker, port: u16) -> Option<TcpListener> {
    let edge = &worker.shared.edge;
    let options = |ip: IpAddr| ListenOptions {
        mark: edge.mark,
        ..ListenOptions::new(SocketAddr::new(ip, port))
    };
    let bound = listen(&options(edge.bind)).or_else(|error| {
        let fallback = edge.bind.is_ipv6()
            && edge.bind.is_unspecified()
            && error.raw_os_error() == Some(NO_SUCH_FAMILY);
        if fallback {
            listen(&options(Ipv4Addr::UNSPECIFIED.into()))
        } else {
            Err(error)
        }
    });
    let fault = bound.as_ref().err().map(ToString::to_string);
    if let Some(why) = &fault {
        tracing::error!(port, why, "port cannot be opened");
    }
    worker.shared.unbound.note(port, fault);
    bound.ok()
}

async fn serve_port(worker: Rc<Worker>, port: u16, mut listener: Option<TcpListener>) {
    loop {
        if let Some(listener) = listener.take() {
            let error = accept_all(&worker, port, &listener).await;
            tracing::error!(port, %error, "listener failed");
        }
        tokio::time::sleep(BIND_PAUSE).await;
        listener = bind(&worker, port);
    }
}

/// Takes connections until the listener fails.
async fn accept_all(worker: &Rc<Worker>, port: u16, listener: &TcpListener) -> io::Error {
    loop {
        // The place comes before the connection: more than the limit wait in the backlog.
        let place = match worker.places.clone().acquire_owned().await {
            Ok(place) => place,
            Err(closed) => return io::Error::other(closed),
        };
        let (stream, peer) = match accept(listener).await {
            Ok(accepted) => accepted,
            Err(error) => return error,
        };
        let worker = worker.clone();
        let connections = worker.shared.connections.clone();
        connections.spawn_local("connection", async move {
            serve(&worker, stream, peer, port).await;
            drop(place);
        });
    }
}

/// Serves one connection as its port wants at this moment.
async fn serve(worker: &Worker, stream: TcpStream, peer: SocketAddr, port: u16) {
    let table = worker.shared.table.borrow().clone();
    let Ok(local) = stream.local_addr() else {
        // Gone before it was looked at: there is nobody to answer.
        return;
    };
    let arrival = Arrival {
        peer,
        local: SocketAddr::new(local.ip().to_canonical(), local.port()),
        port,
        client: table.client.clone().from_address(peer.ip()),
    };
    match table.ports.get(&port).map(|port| &**port) {
        // Boxed, so that a connection's task is as large as its own kind and not as the largest.
        Some(Port::Http) => Box::pin(http::serve(worker, stream, arrival, None)).await,
        Some(Port::Tcp(listener)) => {
            Box::pin(stream::serve(worker, stream, &arrival, listener)).await;
        }
        Some(Port::Tls(tls)) => Box::pin(serve_tls(worker, stream, arrival, tls)).await,
        None => worker.refuse(&arrival, Reason::WrongDestination, "the port was closed"),
    }
}

async fn serve_tls(worker: &Worker, stream: TcpStream, arrival: Arrival, tls: &TlsPort) {
    if !tls.has_pass_through() {
        return match &tls.edge {
            Some(edge) => terminate(worker, stream, arrival, edge).await,
            None => worker.refuse(&arrival, Reason::NoRoute, "no listener ends TLS here"),
        };
    }
    let peeking = peek_server_name(Prefixed::new(stream, Vec::new()));
    let (hello, stream) = match tokio::time::timeout(HANDSHAKE_TIMEOUT, peeking).await {
        Ok(Ok(peeked)) => peeked,
        Ok(Err(error)) => {
            return worker.refuse(&arrival, Reason::DownstreamReset, error.to_string());
        }
        Err(_) => return worker.refuse(&arrival, Reason::TlsFailure, "no ClientHello in time"),
    };
    let ClientHello::Complete(name) = hello else {
        return worker.refuse(
            &arrival,
            Reason::TlsFailure,
            "the client does not speak TLS",
        );
    };
    match (tls.choose(name.as_deref()), &tls.edge) {
        (TlsChoice::PassThrough(listener), _) => {
            Box::pin(stream::serve(worker, stream, &arrival, listener)).await;
        }
        (TlsChoice::Terminate, Some(edge)) => terminate(worker, stream, arrival, edge).await,
        (TlsChoice::Terminate, None) | (TlsChoice::Nobody, _) => {
            let name = name.unwrap_or_else(|| "none".into());
            let detail = format!("no listener for server name {name}");
            worker.refuse(&arrival, Reason::NoRoute, detail);
        }
    }
}

async fn terminate<S>(worker: &Worker, stream: S, arrival: Arrival, edge: &EdgeTls)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    match edge.accept(stream).await {
        Ok((stream, info)) => {
            Box::pin(http::serve(worker, stream, arrival, Some(info))).await;
        }
        Err(error) => worker.refuse(&arrival, error.reason(), error.to_string()),
    }
}
