//! Inbound: tunnels to the local workload, taken on 15008.
//!
//! Accept, mutual TLS with the workload's certificate, then for each CONNECT: target, authorization,
//! connect to the application, 200, session, one end record. A change of policies or of roots
//! re-checks the sessions that live and cuts those it denies.

mod app_tunnel;
mod lost;

use crate::application::{self, Admission};
use crate::limits::Permit;
use crate::pods::{Pod, Worker, accept_each};
use crate::{facts, local};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::HeaderValue;
use lost::Lost;
use mesh_hbone::{Baggage, Forwarded, HboneStream, Incoming};
use mesh_l4::run_session;
use mesh_model::{Reason, SpiffeId};
use mesh_plan::{Authority, Refusal};
use mesh_telemetry::{ConnectionRecord, Party, Security, Transport};
use mesh_tls::{PeerTrust, Session};
use std::iter::once;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

/// One tunnel whose handshake is done; shared by its streams.
struct Tunnel {
    worker: Rc<Worker>,
    peer: SocketAddr,
    identity: SpiffeId,
    local_ip: IpAddr,
    trust: PeerTrust,
    lost: Lost,
    _permit: Permit,
}

/// Takes tunnels until the drain starts.
pub(crate) async fn run(worker: Rc<Worker>, listener: TcpListener) {
    let facts = |peer| facts::inbound(peer, None);
    accept_each(worker, listener, "inbound", facts, tunnel).await;
}

async fn tunnel(worker: Rc<Worker>, tcp: TcpStream, peer: SocketAddr, permit: Permit) {
    let (pod, metrics) = (worker.pod.clone(), worker.pod.node.metrics.clone());
    let at = tcp.local_addr().ok();
    // Boxed: what it needs is given back before the tunnel, most of which is idle.
    let shaken = Box::pin(handshake(worker, tcp, peer, permit)).await;
    let (session, tunnel) = match shaken {
        Ok(done) => done,
        Err(refusal) => {
            let record = metrics.connection(facts::inbound(peer, at));
            return record.end(refusal.reason, Some(refusal.detail));
        }
    };
    let tunnel = Rc::new(tunnel);
    let (settings, scope) = (&pod.node.proxy.server, &pod.connections);
    // What proved the peer holds no longer: it must prove itself anew before it opens more.
    let stale = async {
        let reason = tunnel.trust.stale().await;
        pod.node.counts.tunnels_retired.with(reason.code()).inc();
        tracing::info!(%peer, identity = %tunnel.identity, %reason, "tunnel retired");
    };
    let handler = |incoming| serve(tunnel.clone(), incoming);
    let ended = mesh_hbone::serve_session(session, settings, &pod.drain, scope, stale, handler);
    // Looked at only when woken: a turn of a busy tunnel costs it nothing.
    let mut losing: FuturesUnordered<_> = once(tunnel.trust.lost()).collect();
    let lost = async {
        if let Some(reason) = losing.next().await {
            tunnel.lost.tell(reason);
        }
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = ended => ended,
        ended = lost => ended,
    };
    if let Err(error) = ended {
        // Its streams have records of their own; this is about the connection under them.
        tracing::debug!(%peer, identity = %tunnel.identity, %error, "tunnel ended");
    }
}

/// From a TCP connection to a tunnel whose peer is known.
async fn handshake(
    worker: Rc<Worker>,
    tcp: TcpStream,
    peer: SocketAddr,
    permit: Permit,
) -> Result<(Session<TcpStream>, Tunnel), Refusal> {
    let pod = &worker.pod;
    let gone = |e: std::io::Error| Refusal::new(Reason::DownstreamReset, e.to_string());
    let local_ip = tcp.local_addr().map_err(gone)?.ip().to_canonical();
    mesh_net::settle_tunnel(&tcp);
    let known = local::known(&mut pod.local.clone(), &pod.spec.info).await?;
    let certificates = worker.certificate(&known.workload).await?;
    let held = certificates.borrow().clone();
    let certificate = held.ok_or_else(|| {
        let detail = "the certificate was withdrawn".to_owned();
        Refusal::new(Reason::NoIdentity, detail)
    })?;
    let session = mesh_tls::accept_session(tcp, &certificate)
        .await
        .map_err(|e| Refusal::new(e.reason(), e.to_string()))?;
    let tunnel = Tunnel {
        peer,
        identity: session.peer.identity.clone(),
        local_ip,
        trust: PeerTrust::new(session.peer.clone(), certificate, certificates),
        lost: Lost::default(),
        _permit: permit,
        worker,
    };
    Ok((session, tunnel))
}

/// What a CONNECT says, apart from the stream it opens.
pub(crate) struct Asked {
    /// The target.
    pub(crate) authority: String,
    /// Host name of the service, as far as the client names it.
    pub(crate) service_host: Option<String>,
    /// Who the client says it is; shown where nothing better is known.
    pub(crate) baggage: Option<HeaderValue>,
    /// The client's network, when it is another than ours.
    pub(crate) other_network: Option<String>,
}

/// Who connects, and to which pod.
pub(crate) struct Caller<'a> {
    /// The pod connected to.
    pub(crate) pod: &'a Arc<Pod>,
    /// The TCP peer.
    pub(crate) peer: SocketAddr,
    /// Whom it proved to be.
    pub(crate) identity: &'a SpiffeId,
    /// The pod's address that it connected to.
    pub(crate) local_ip: IpAddr,
}

impl Asked {
    fn of(incoming: &Incoming, network: &str) -> Self {
        let forwarded = incoming.headers().get("forwarded").map(Forwarded::parse);
        Self {
            authority: incoming.authority().to_owned(),
            service_host: forwarded.and_then(|f| f.host),
            baggage: incoming.headers().get("baggage").cloned(),
            other_network: facts::other_network(incoming.headers(), network),
        }
    }
}

/// Carries one stream.
fn serve(tunnel: Rc<Tunnel>, incoming: Incoming) -> impl Future<Output = ()> {
    let asking = tunnel.clone();
    // Boxed: what it needs is given back before the session, most of which is idle.
    let admitting = Box::pin(async move { admit(&asking, incoming).await });
    async move {
        let Some(admitted) = admitting.await else {
            return;
        };
        let Admitted {
            stream,
            record,
            opened,
        } = admitted;
        let Opened {
            app,
            admission,
            _permit,
        } = opened;
        let cut = pin!(async {
            tokio::select! {
                reason = admission.revoked() => reason,
                reason = tunnel.lost.told() => reason,
            }
        });
        run_session(stream, app, record, cut, &tunnel.worker.pod.drain).await;
    }
}

/// A stream that was answered 200.
struct Admitted {
    stream: HboneStream,
    record: ConnectionRecord,
    opened: Opened,
}

/// Answers one request; none when that was a refusal, which is on record.
async fn admit(tunnel: &Tunnel, mut incoming: Incoming) -> Option<Admitted> {
    let pod = &tunnel.worker.pod;
    let asked = Asked::of(&incoming, &pod.node.proxy.network);
    let at = SocketAddr::new(tunnel.local_ip, mesh_model::PORT_HBONE);
    let mut facts = facts::inbound(tunnel.peer, Some(at));
    facts.hbone_address = Some(asked.authority.clone());
    facts.security = Security::MutualTls;
    facts.transport = Transport::Hbone;
    facts.tls_group = Some(tunnel.trust.peer().key_exchange);
    facts.source.identity = Some(tunnel.identity.clone());
    let mut record = pod.node.metrics.connection(facts);

    // Before the 200: everything that may fail.
    let caller = Caller {
        pod,
        peer: tunnel.peer,
        identity: &tunnel.identity,
        local_ip: tunnel.local_ip,
    };
    let opened = tokio::select! {
        opened = open(&caller, &asked, &mut record) => opened,
        () = incoming.abandoned() => {
            Err(Refusal::new(Reason::DownstreamReset, "the client gave up"))
        }
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(refusal) => {
            incoming.refuse(refusal.reason);
            record.end(refusal.reason, Some(refusal.detail));
            return None;
        }
    };

    // After it: bytes.
    let workload = record.facts().destination.workload.as_deref();
    let answer = workload.filter(|_| pod.node.proxy.response_baggage);
    let answer = answer.map(facts::response_headers).unwrap_or_default();
    match incoming.accept(&answer) {
        Ok(stream) => Some(Admitted {
            stream,
            record,
            opened,
        }),
        Err(error) => {
            record.end(Reason::DownstreamReset, Some(error.to_string()));
            None
        }
    }
}

/// What is ready when a stream may be answered 200.
pub(crate) struct Opened {
    /// The application.
    pub(crate) app: TcpStream,
    /// What the peer was let in by.
    pub(crate) admission: Admission,
    /// Its place.
    pub(crate) _permit: Permit,
}

/// Everything that may fail before the 200; each failure is one refusal.
pub(crate) async fn open(
    caller: &Caller<'_>,
    asked: &Asked,
    record: &mut ConnectionRecord,
) -> Result<Opened, Refusal> {
    let pod = caller.pod;
    let node = &pod.node;

    // 1. Room, and a workload to be.
    let permit = pod.admit()?;
    let mut local = pod.local.clone();
    let known = local::known(&mut local, &pod.spec.info).await?;
    let workload = &known.workload;
    let at = SocketAddr::new(caller.local_ip, mesh_model::PORT_HBONE);
    record.set_destination(Party {
        workload: Some(workload.clone()),
        identity: workload.identity(),
        address: Some(at),
    });

    // 2. Is the target this workload's?
    let snapshot = node.snapshots.borrow().clone();
    let authority: Authority = asked
        .authority
        .parse()
        .map_err(|e| Refusal::new(Reason::BadRequest, format!("{e}")))?;
    let destination = mesh_plan::inbound(&snapshot, workload, caller.local_ip, &authority)?;
    let network = &node.proxy.network;
    let source = facts::peer(&snapshot, network, caller.peer, Some(caller.identity));
    let other_network = asked.other_network.as_deref();
    let needed = source.workload.is_none() && node.proxy.response_baggage;
    let needed = needed || other_network.is_some();
    let baggage = asked.baggage.as_ref().filter(|_| needed);
    let baggage = baggage.map(Baggage::parse);
    record.set_source(facts::told(source, baggage.as_ref(), other_network));
    let host = asked.service_host.as_deref();
    let service = facts::service_asked(&snapshot, workload, host, destination.port());
    record.set_service(service);

    // 3. May the peer?
    let admission = Admission {
        identity: Some(caller.identity.clone()),
        source_ip: caller.peer.ip(),
        destination,
        local,
    };
    admission.check(&known.policies, record, node)?;

    // 4. The application.
    let target = app_tunnel::target(workload, destination, node.proxy.app_tunnel_on_loopback);
    let app = match app_tunnel::asked_address(&snapshot, workload, &authority) {
        Some(asked) => {
            let header = app_tunnel::header(caller.peer, asked, Some(caller.identity));
            application::connect_told(pod, target, &header).await?
        }
        None => application::connect(pod, target, caller.peer.ip()).await?,
    };
    Ok(Opened {
        app,
        admission,
        _permit: permit,
    })
}
