//! What the connections of one worker thread share, and its listeners.

use crate::proxy::{Node, Permit};
use mesh_hbone::Pool;
use mesh_l4::Dialer;
use mesh_l7::{HttpProxy, Upstream, UpstreamSettings};
use mesh_model::{Dice, PORT_HBONE, PORT_OUTBOUND, Reason};
use mesh_net::{Accepted, ConnectOptions, Link, ListenOptions};
use mesh_plan::Refusal;
use mesh_proxy::accept_until_drain;
use std::cell::RefCell;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

/// Where a sidecar connects to its application from, so that the redirection lets it pass and the
/// application does not take the proxy for a client of its own address (interop/zds-cni.md
/// section 7).
const APP_SOURCE_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// The same over IPv6.
const APP_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// One worker.
pub(crate) struct Worker {
    /// The process.
    pub(crate) node: Arc<Node>,
    /// L4 connections towards other workloads.
    pub(crate) dialer: Dialer,
    /// HTTP towards other workloads.
    pub(crate) http: HttpProxy,
    /// HTTP towards the application.
    pub(crate) http_app: HttpProxy,
    /// Connections under [`Self::http_app`].
    pub(crate) upstream_app: Upstream,
    /// Chance.
    pub(crate) dice: RefCell<Dice>,
}

impl Worker {
    /// Makes the parts of a worker; call it on its thread.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        let proxy = &node.proxy;
        let connect = ConnectOptions {
            mark: proxy.mark,
            ..ConnectOptions::default()
        };
        let retired = node.tunnels_retired.clone();
        let count = move |reason: Reason| retired.with(reason.code()).inc();
        let pool = Pool::counting(proxy.pool.clone(), &node.scope, count);
        let tunnels = mesh_l7::Tunnels {
            pool: pool.clone(),
            certificate: node.certificate.clone(),
        };
        let http = |upstream: &Upstream| {
            HttpProxy::new(
                proxy.http.clone(),
                upstream.clone(),
                node.metrics.clone(),
                node.tracer.clone(),
                &node.connections,
            )
        };
        let upstream = Upstream::new(
            proxy.upstream.clone(),
            connect.clone(),
            Some(tunnels),
            &node.scope,
        );
        let to_app = UpstreamSettings {
            source_v4: Some(APP_SOURCE_V4),
            source_v6: Some(APP_SOURCE_V6),
            ..proxy.upstream.clone()
        };
        let connect_app = ConnectOptions {
            link: Link::Machine,
            ..connect.clone()
        };
        let upstream_app = Upstream::new(to_app, connect_app, None, &node.scope);
        let dialer = Dialer {
            connect,
            tunnels: Some(mesh_l4::Tunnels {
                pool,
                certificate: node.certificate.clone(),
            }),
        };
        Self {
            http: http(&upstream),
            http_app: http(&upstream_app),
            upstream_app,
            dialer,
            dice: RefCell::new(Dice::seeded(
                RandomState::new().hash_one(std::process::id()),
            )),
            node,
        }
    }

    /// Connects to the application beside us.
    ///
    /// # Errors
    /// [`mesh_model::Reason::ConnectFailed`] or [`mesh_model::Reason::ConnectTimeout`].
    pub(crate) async fn connect_app(&self, app: SocketAddr) -> Result<TcpStream, Refusal> {
        let source = match app {
            SocketAddr::V4(_) => IpAddr::V4(APP_SOURCE_V4),
            SocketAddr::V6(_) => IpAddr::V6(APP_SOURCE_V6),
        };
        let options = ConnectOptions {
            source: Some(source),
            link: Link::Machine,
            ..self.dialer.connect.clone()
        };
        mesh_net::connect(app, &options).await.map_err(|error| {
            let error = mesh_l4::DialError::from(error);
            Refusal::new(error.reason(), error.to_string())
        })
    }
}

/// Opens a listener of the proxy on this worker.
///
/// # Errors
/// When the address cannot be bound.
pub(crate) fn listen(node: &Node, port: u16) -> io::Result<TcpListener> {
    let bind = node.proxy.bind;
    let mut options = ListenOptions::new(SocketAddr::new(bind, port));
    // What we send on accepted connections is ours as well: the redirection must let it pass.
    options.mark = node.proxy.mark;
    options.link = match port {
        PORT_OUTBOUND => Link::Machine,
        PORT_HBONE => Link::Tunnel,
        _ => Link::Network,
    };
    match mesh_net::listen(&options) {
        // A namespace or kernel without IPv6.
        Err(error)
            if bind == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && matches!(
                    error.kind(),
                    io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
                ) =>
        {
            options.address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
            mesh_net::listen(&options)
        }
        result => result,
    }
}

/// Takes connections until the drain starts: each becomes one task. Those past the bound are
/// refused with a record of their own.
pub(crate) async fn accept_each<F, Fut>(
    worker: Rc<Worker>,
    listener: TcpListener,
    name: &'static str,
    facts: impl Fn(SocketAddr) -> mesh_telemetry::ConnectionFacts,
    serve: F,
) where
    F: Fn(Rc<Worker>, TcpStream, SocketAddr, Permit) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let node = worker.node.clone();
    let take = |accepted| match accepted {
        Accepted::Taken(stream, peer) => match node.admit() {
            Ok(permit) => {
                let work = serve(worker.clone(), stream, peer, permit);
                node.connections.spawn_local(name, work);
            }
            Err(refusal) => {
                let record = node.metrics.connection(facts(peer));
                record.end(refusal.reason, Some(refusal.detail));
            }
        },
        Accepted::Refused(peer, why) => {
            let record = node.metrics.connection(facts(peer));
            record.end(Reason::Overloaded, Some(why.to_string()));
        }
    };
    if let Err(error) = accept_until_drain(listener, &node.drain, take).await {
        tracing::error!(listener = name, %error, "listener failed");
    }
}
