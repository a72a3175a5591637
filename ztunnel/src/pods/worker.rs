//! One pod on one worker: its listeners and its tunnels.

use super::{Pod, StartError};
use crate::limits::Permit;
use crate::same_node::Trusts;
use crate::{inbound, inbound_plaintext, outbound};
use mesh_hbone::Pool;
use mesh_identity::CertificateReceiver;
use mesh_model::{
    Dice, PORT_HBONE, PORT_INBOUND_PLAINTEXT, PORT_OUTBOUND, Reason, SpiffeId, Workload,
};
use mesh_net::{Accepted, Link, ListenOptions};
use mesh_plan::Refusal;
use mesh_proxy::accept_until_drain;
use mesh_telemetry::ConnectionFacts;
use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// What the connections of one pod share on one worker.
pub(crate) struct Worker {
    /// The pod.
    pub(crate) pod: Arc<Pod>,
    /// The tunnels it opened. They end with the pod, as its network namespace does.
    pub(crate) pool: Pool,
    /// What its connections to pods of this process have found.
    pub(crate) trusts: Trusts,
    /// Chance.
    pub(crate) dice: RefCell<Dice>,
    /// Kept here so that a connection does not go to the table all workers share.
    certificates: RefCell<Option<(SpiffeId, CertificateReceiver)>>,
}

impl Worker {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        let retired = pod.node.counts.tunnels_retired.clone();
        let count = move |reason: Reason| retired.with(reason.code()).inc();
        Self {
            pool: Pool::counting(pod.node.proxy.pool.clone(), &pod.scope, count),
            trusts: Trusts::default(),
            dice: RefCell::new(Dice::seeded(RandomState::new().hash_one(&pod.spec.uid))),
            certificates: RefCell::new(None),
            pod,
        }
    }

    /// The certificate of the workload, there and valid; waits up to 5 s for it.
    ///
    /// # Errors
    /// [`Reason::NoIdentity`]: the connection must fail (closed).
    pub(crate) async fn certificate(
        &self,
        workload: &Workload,
    ) -> Result<CertificateReceiver, Refusal> {
        let refuse = |detail: String| Refusal::new(Reason::NoIdentity, detail);
        let identity = workload
            .identity()
            .ok_or_else(|| refuse(format!("{} has no identity", workload.object_name())))?;
        if let Some(receiver) = self.held(&identity) {
            return Ok(receiver);
        }
        let identities = &self.pod.node.identities;
        identities
            .certificate(&identity)
            .await
            .map_err(|e| refuse(e.to_string()))?;
        let receiver = identities.watch(&identity);
        *self.certificates.borrow_mut() = Some((identity, receiver.clone()));
        Ok(receiver)
    }

    /// The receiver in hand, when it is for the identity, still fed, and what it holds is valid.
    fn held(&self, identity: &SpiffeId) -> Option<CertificateReceiver> {
        let certificates = self.certificates.borrow();
        let (of, receiver) = certificates.as_ref()?;
        let valid = receiver
            .borrow()
            .as_ref()
            .is_some_and(|c| SystemTime::now() < c.not_after());
        (of == identity && valid && receiver.has_changed().is_ok()).then(|| receiver.clone())
    }
}

/// The ports of a pod's listeners.
const PORTS: [u16; 3] = [PORT_OUTBOUND, PORT_INBOUND_PLAINTEXT, PORT_HBONE];

/// What a worker listens on: sockets of its own, which it opens, or copies of the one set that all
/// workers share.
pub(super) type Sockets = Option<[std::net::TcpListener; 3]>;

/// What each of `count` workers is given.
pub(super) fn sockets(pod: &Pod, count: usize) -> Result<Vec<Sockets>, StartError> {
    if pod.node.proxy.port_reuse {
        pod.prepare_hand_over();
        return Ok((0..count).map(|_| None).collect());
    }
    let shared = each_port(|port| bind(pod, port))?;
    let copy = || {
        let [out, plaintext, hbone] = shared.each_ref().map(std::net::TcpListener::try_clone);
        Ok(Some([out?, plaintext?, hbone?]))
    };
    let copies: io::Result<Vec<Sockets>> = (0..count).map(|_| copy()).collect();
    copies.map_err(|source| StartError::Listen { port: 0, source })
}

fn each_port<T>(mut make: impl FnMut(u16) -> io::Result<T>) -> Result<[T; 3], StartError> {
    let mut made = |port| make(port).map_err(|source| StartError::Listen { port, source });
    let [out, plaintext, hbone] = PORTS;
    Ok([made(out)?, made(plaintext)?, made(hbone)?])
}

/// Opens the pod's listeners on this worker and says whether that went well.
pub(super) fn start(
    pod: &Arc<Pod>,
    sockets: Sockets,
    done: oneshot::Sender<Result<(), StartError>>,
) {
    let result =
        open_all(pod, sockets).and_then(|listeners| Ok((listeners, crate::dns::open(pod)?)));
    let (result, listeners) = match result {
        Ok(listeners) => (Ok(()), Some(listeners)),
        Err(error) => (Err(error), None),
    };
    if done.send(result).is_err() {
        // Nobody waits: the start was given up, and the listeners close here.
        return;
    }
    let Some(([out, plaintext, hbone], dns)) = listeners else {
        return;
    };
    crate::dns::run(pod, &pod.scope, dns);
    let worker = Rc::new(Worker::new(pod.clone()));
    let scope = &pod.scope;
    scope.spawn_local("outbound listener", outbound::run(worker.clone(), out));
    scope.spawn_local(
        "plaintext listener",
        inbound_plaintext::run(worker.clone(), plaintext),
    );
    scope.spawn_local("inbound listener", inbound::run(worker, hbone));
}

fn open_all(pod: &Pod, shared: Sockets) -> Result<[TcpListener; 3], StartError> {
    let mut shared = shared.map(IntoIterator::into_iter);
    each_port(|port| match shared.as_mut().and_then(Iterator::next) {
        Some(socket) => TcpListener::from_std(socket),
        None => TcpListener::from_std(bind(pod, port)?),
    })
}

fn bind(pod: &Pod, port: u16) -> io::Result<std::net::TcpListener> {
    let bind = pod.node.proxy.bind;
    let mut options = ListenOptions::new(SocketAddr::new(bind, port));
    options.netns = pod.netns.clone();
    options.reuse_port = pod.node.proxy.port_reuse;
    // What we send on accepted connections is ours as well: the redirection must let it pass.
    options.mark = pod.node.proxy.mark;
    options.link = match port {
        PORT_OUTBOUND => Link::Machine,
        PORT_HBONE => Link::Tunnel,
        _ => Link::Network,
    };
    match mesh_net::bind(&options) {
        Err(error) if bind.is_unspecified() && bind.is_ipv6() && is_for_want_of_ipv6(&error) => {
            let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            options.address = SocketAddr::new(any, port);
            mesh_net::bind(&options)
        }
        result => result,
    }
}

/// A namespace or kernel without IPv6.
fn is_for_want_of_ipv6(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
    )
}

/// Takes connections until the drain starts: each becomes one task of the pod. Those past a bound
/// are refused with a record of their own.
pub(crate) async fn accept_each<F, Fut>(
    worker: Rc<Worker>,
    listener: TcpListener,
    name: &'static str,
    facts: impl Fn(SocketAddr) -> ConnectionFacts,
    serve: F,
) where
    F: Fn(Rc<Worker>, TcpStream, SocketAddr, Permit) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let pod = worker.pod.clone();
    let take = |accepted| match accepted {
        Accepted::Taken(stream, peer) => match pod.admit() {
            Ok(permit) => {
                // Boxed: each future around it would hold room for it once more.
                let work = Box::pin(serve(worker.clone(), stream, peer, permit));
                pod.connections.spawn_local(name, work);
            }
            Err(refusal) => {
                let record = pod.node.metrics.connection(facts(peer));
                record.end(refusal.reason, Some(refusal.detail));
            }
        },
        Accepted::Refused(peer, why) => pod.refused_for_want(facts(peer), &why),
    };
    if let Err(error) = accept_until_drain(listener, &pod.drain, take).await {
        tracing::error!(listener = name, pod = %pod.spec.info.name, %error, "listener failed");
    }
}
