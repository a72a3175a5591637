//! Inbound: tunnels to the local application, taken on 15008.
//!
//! For each CONNECT: target, admission, connect to the application, 200, then HTTP (mesh-l7, each
//! request authorized in full) or bytes (mesh-l4). A change of policies cuts what it denies.

use crate::arrival::{Arrival, Caller};
use crate::facts;
use crate::session::Pending;
use crate::tunnel::{self, Tunnel};
use crate::worker::Worker;
use http::HeaderMap;
use mesh_hbone::{Baggage, Forwarded, Incoming};
use mesh_model::{Reason, Workload};
use mesh_plan::{Authority, Refusal};
use mesh_telemetry::{ConnectionFacts, Party};
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Takes tunnels until the drain starts.
pub(crate) async fn run(worker: Rc<Worker>, listener: TcpListener) {
    tunnel::run(worker, listener, facts::inbound, serve).await;
}

/// Carries one stream.
async fn serve(tunnel: Rc<Tunnel>, mut incoming: Incoming) {
    let node = tunnel.worker.node.clone();
    let mut pending = Pending::new(&node, tunnel.facts(incoming.authority()));
    let asked = Asked::of(&incoming);

    // Before the 200: everything that may fail.
    let opened = tokio::select! {
        opened = open(&tunnel, &asked, &mut pending.facts) => opened,
        () = incoming.abandoned() => {
            Err(Refusal::new(Reason::DownstreamReset, "the client gave up"))
        }
        () = node.drain.forced() => Err(Refusal::new(Reason::Drained, "going down")),
    };
    let (arrival, workload) = match opened {
        Ok(opened) => opened,
        Err(refusal) => {
            incoming.refuse(refusal.reason);
            return pending.refuse(refusal);
        }
    };

    // After it: bytes.
    match incoming.accept(&answer_headers(&workload)) {
        Ok(stream) => {
            tokio::select! {
                () = arrival.carry(&tunnel.worker, stream, pending) => {}
                // What is under way says so in its record when it is dropped.
                () = node.drain.forced() => {}
            }
        }
        Err(error) => {
            pending.refuse(Refusal::new(Reason::DownstreamReset, error.to_string()));
        }
    }
}

/// What a CONNECT says, apart from the stream it opens.
struct Asked {
    authority: String,
    service_host: Option<String>,
}

impl Asked {
    fn of(incoming: &Incoming) -> Self {
        let forwarded = incoming.headers().get("forwarded").map(Forwarded::parse);
        Self {
            authority: incoming.authority().to_owned(),
            service_host: forwarded.and_then(|f| f.host),
        }
    }
}

/// Everything that may fail before the 200; each failure is one refusal.
async fn open(
    tunnel: &Tunnel,
    asked: &Asked,
    facts: &mut ConnectionFacts,
) -> Result<(Arrival, Arc<Workload>), Refusal> {
    // 1. A workload to be.
    let node = &tunnel.worker.node;
    let workload = node.workload().await?;
    facts.destination = Party {
        identity: workload.identity(),
        workload: Some(workload.clone()),
        address: facts.destination.address,
    };

    // 2. Is the target this workload's?
    let snapshot = node.snapshots.borrow().clone();
    let authority: Authority = asked
        .authority
        .parse()
        .map_err(|e| Refusal::new(Reason::BadRequest, format!("{e}")))?;
    let destination = mesh_plan::inbound(&snapshot, &workload, tunnel.local_ip, &authority)?;
    let identity = Some(&tunnel.identity);
    facts.source = facts::peer(&snapshot, &node.proxy.network, tunnel.peer, identity);
    let host = asked.service_host.as_deref();
    facts.service = facts::service_asked(&snapshot, &workload, host, destination.port());

    // 3. May the peer? 4. Does the application?
    let caller = Caller {
        workload: &workload,
        peer: tunnel.peer,
        identity,
        trust: Some(tunnel.trust.clone()),
        destination,
    };
    let arrival = Arrival::admit(&tunnel.worker, snapshot, caller, facts).await?;
    Ok((arrival, workload))
}

/// The headers of the 200 we answer: who is here.
fn answer_headers(workload: &Workload) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(value) = Baggage::value_of(workload) {
        headers.insert("baggage", value);
    }
    headers
}
