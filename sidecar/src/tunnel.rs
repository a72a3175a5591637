//! Tunnels taken on 15008: mutual TLS with our certificate, then one task for each CONNECT.

use crate::proxy::Permit;
use crate::worker::{Worker, accept_each};
use mesh_hbone::Incoming;
use mesh_model::{Reason, SpiffeId};
use mesh_plan::Refusal;
use mesh_telemetry::{ConnectionFacts, Security};
use mesh_tls::{PeerTrust, Session};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use tokio::net::{TcpListener, TcpStream};

/// One tunnel whose handshake is done; shared by its streams.
pub(crate) struct Tunnel {
    /// The worker.
    pub(crate) worker: Rc<Worker>,
    /// The TCP peer.
    pub(crate) peer: SocketAddr,
    /// Whom TLS proved it to be.
    pub(crate) identity: SpiffeId,
    /// The address it connected to.
    pub(crate) local_ip: IpAddr,
    facts: fn(SocketAddr) -> ConnectionFacts,
    /// What the trust in it rests on.
    pub(crate) trust: Rc<PeerTrust>,
    _permit: Permit,
}

impl Tunnel {
    /// What is known of a stream before its target is.
    pub(crate) fn facts(&self, authority: &str) -> ConnectionFacts {
        let mut facts = (self.facts)(self.peer);
        facts.destination.address = Some(SocketAddr::new(self.local_ip, mesh_model::PORT_HBONE));
        facts.hbone_address = Some(authority.to_owned());
        facts.security = Security::MutualTls;
        facts.source.identity = Some(self.identity.clone());
        facts.tls_group = Some(self.trust.peer().key_exchange);
        facts
    }
}

/// Takes tunnels until the drain starts; `serve` takes their streams.
pub(crate) async fn run<F, Fut>(
    worker: Rc<Worker>,
    listener: TcpListener,
    facts: fn(SocketAddr) -> ConnectionFacts,
    serve: F,
) where
    F: Fn(Rc<Tunnel>, Incoming) -> Fut + Copy + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let take = move |worker: Rc<Worker>, tcp, peer, permit| async move {
        let metrics = worker.node.metrics.clone();
        match handshake(worker, tcp, peer, facts, permit).await {
            Ok((session, tunnel)) => streams(session, Rc::new(tunnel), serve).await,
            Err(refusal) => {
                let record = metrics.connection(facts(peer));
                record.end(refusal.reason, Some(refusal.detail));
            }
        }
    };
    accept_each(worker, listener, "tunnel", facts, take).await;
}

async fn streams<F, Fut>(session: Session<TcpStream>, tunnel: Rc<Tunnel>, serve: F)
where
    F: Fn(Rc<Tunnel>, Incoming) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let node = tunnel.worker.node.clone();
    let (settings, scope) = (&node.proxy.server, &node.connections);
    // What proved the peer holds no longer: it must prove itself anew before it opens more. Streams
    // that may not stay end themselves, each with the reason in its record.
    let stale = async {
        let reason = tunnel.trust.stale().await;
        node.tunnels_retired.with(reason.code()).inc();
        tracing::info!(peer = %tunnel.peer, identity = %tunnel.identity, %reason, "tunnel retired");
    };
    let handler = |incoming| serve(tunnel.clone(), incoming);
    let ended = mesh_hbone::serve_session(session, settings, &node.drain, scope, stale, handler);
    if let Err(error) = ended.await {
        // Its streams have records of their own; this is about the connection under them.
        tracing::debug!(peer = %tunnel.peer, identity = %tunnel.identity, %error, "tunnel ended");
    }
}

/// From a TCP connection to a tunnel whose peer is known.
async fn handshake(
    worker: Rc<Worker>,
    tcp: TcpStream,
    peer: SocketAddr,
    facts: fn(SocketAddr) -> ConnectionFacts,
    permit: Permit,
) -> Result<(Session<TcpStream>, Tunnel), Refusal> {
    let gone = |e: std::io::Error| Refusal::new(Reason::DownstreamReset, e.to_string());
    let local_ip = tcp.local_addr().map_err(gone)?.ip().to_canonical();
    mesh_net::settle_tunnel(&tcp);
    let certificate = worker.node.valid_certificate().await?;
    let certificates = worker.node.certificate.clone();
    let session = mesh_tls::accept_session(tcp, &certificate)
        .await
        .map_err(|e| Refusal::new(e.reason(), e.to_string()))?;
    let tunnel = Tunnel {
        worker,
        peer,
        identity: session.peer.identity.clone(),
        local_ip,
        facts,
        trust: Rc::new(PeerTrust::new(
            session.peer.clone(),
            certificate,
            certificates,
        )),
        _permit: permit,
    };
    Ok((session, tunnel))
}
