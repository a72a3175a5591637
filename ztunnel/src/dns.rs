//! DNS of one pod: listeners in its network namespace, on every worker (docs/dns.md).

use crate::pods::{Pod, StartError};
use crate::settings::Proxy;
use mesh_dns::{Forwarder, Outstanding, Server, UpstreamSettings, View};
use mesh_model::Dice;
use mesh_net::{ConnectOptions, ListenOptions, Netns};
use mesh_runtime::Scope;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::{TcpListener, UdpSocket};

/// Questions of one pod that wait for an upstream server; further ones get SERVFAIL at once. The C
/// library of a busy application asks some dozens at once.
pub(crate) const OUTSTANDING_MAX: usize = 256;

/// The listeners of one pod on one worker: one address a family.
pub(crate) type Listeners = Vec<(UdpSocket, TcpListener)>;

/// The bound on one pod's questions.
pub(crate) fn outstanding() -> Outstanding {
    Outstanding::new(OUTSTANDING_MAX)
}

/// Opens the listeners; none when DNS is not captured. A pod without IPv6 has those of IPv4 alone.
///
/// # Errors
/// When an address cannot be had.
pub(crate) fn open(pod: &Pod) -> Result<Listeners, StartError> {
    let settings = &pod.node.proxy.dns;
    let mut listeners = Listeners::new();
    if !settings.capture {
        return Ok(listeners);
    }
    for address in &settings.listen {
        match open_at(pod, *address) {
            Ok(pair) => listeners.push(pair),
            Err(error) if address.is_ipv6() && is_for_want_of_ipv6(&error) => {
                tracing::debug!(pod = %pod.spec.info.name, %error, "no DNS over IPv6");
            }
            Err(source) => {
                let port = address.port();
                return Err(StartError::Listen { port, source });
            }
        }
    }
    Ok(listeners)
}

fn open_at(pod: &Pod, address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut options = ListenOptions::new(address);
    options.netns = pod.netns.clone();
    options.mark = pod.node.proxy.mark;
    Ok((mesh_net::bind_udp(&options)?, mesh_net::listen(&options)?))
}

/// A namespace or kernel without IPv6, or with it switched off on loopback.
fn is_for_want_of_ipv6(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
    )
}

/// Serves the listeners until the drain starts; `scope` is that of the pod's listeners.
pub(crate) fn run(pod: &Arc<Pod>, scope: &Scope, listeners: Listeners) {
    if listeners.is_empty() {
        return;
    }
    let server = server(pod);
    for (socket, listener) in listeners {
        let drain = pod.drain.clone();
        let stop = async move { drain.started().await };
        scope.spawn_local("dns over udp", server.clone().serve_udp(socket, stop));
        let drain = pod.drain.clone();
        let stop = async move { drain.started().await };
        scope.spawn_local("dns over tcp", server.clone().serve_tcp(listener, stop));
    }
}

/// Resolves for the proxy itself, from its own network namespace.
pub(crate) fn own_forwarder(proxy: &Proxy) -> Forwarder {
    if proxy.dns.servers.is_empty() {
        tracing::warn!(
            "no DNS server upstream is known (DNS_UPSTREAM, /etc/resolv.conf): only names of the mesh resolve"
        );
    }
    Forwarder::new(upstream(proxy, None), outstanding())
}

fn upstream(proxy: &Proxy, netns: Option<Netns>) -> UpstreamSettings {
    UpstreamSettings {
        servers: proxy.dns.servers.clone(),
        connect: ConnectOptions {
            mark: proxy.mark,
            netns,
            ..ConnectOptions::default()
        },
        timeout: mesh_dns::QUERY_TIMEOUT,
        cache: mesh_dns::CacheBounds::default(),
    }
}

fn server(pod: &Arc<Pod>) -> Rc<Server> {
    let settings = &pod.node.proxy.dns;
    // From the pod's own namespace, so that what its network policies say of DNS holds.
    let upstream = upstream(&pod.node.proxy, pod.netns.clone());
    let seen = pod.clone();
    let view = move || {
        let known = seen.local.borrow().as_ref().map(|k| k.workload.clone());
        View {
            snapshot: seen.node.snapshots.borrow().clone(),
            namespace: seen.spec.info.namespace.clone(),
            network: known
                .as_ref()
                .map_or_else(|| seen.node.proxy.network.clone(), |w| w.network.clone()),
            source: known,
        }
    };
    Server::new(
        settings.zone.clone(),
        view,
        Forwarder::new(upstream, pod.dns.clone()),
        pod.node.dns.clone(),
        Dice::seeded(RandomState::new().hash_one(&pod.spec.uid)),
        &pod.connections,
    )
}
