//! Inbound plaintext: connections to the local application that came without a tunnel, captured on
//! 15006.
//!
//! Accept, original destination, admission with no identity (which is how STRICT refuses), connect
//! to the application, then HTTP or bytes as [`crate::inbound`].

use crate::arrival::{Arrival, Caller};
use crate::facts;
use crate::proxy::Permit;
use crate::session::Pending;
use crate::worker::{Worker, accept_each};
use mesh_model::Reason;
use mesh_plan::Refusal;
use mesh_telemetry::{ConnectionFacts, Party};
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::net::{TcpListener, TcpStream};

/// Takes connections until the drain starts.
pub(crate) async fn run(worker: Rc<Worker>, listener: TcpListener) {
    accept_each(
        worker,
        listener,
        "inbound plaintext",
        facts::inbound,
        captured,
    )
    .await;
}

async fn captured(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, permit: Permit) {
    match mesh_net::original_destination(&stream) {
        Ok(destination) => serve(worker, stream, peer, destination).await,
        Err(error) => {
            let pending = Pending::new(&worker.node, facts::inbound(peer));
            pending.refuse(Refusal::new(Reason::DownstreamReset, error.to_string()));
        }
    }
    drop(permit);
}

/// Carries one connection whose destination is known.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    destination: SocketAddr,
) {
    let mut pending = Pending::new(&worker.node, facts::inbound(peer));
    let drain = worker.node.drain.clone();
    let work = async {
        match open(&worker, peer, destination, &mut pending.facts).await {
            Ok(arrival) => arrival.carry(&worker, stream, pending).await,
            Err(refusal) => pending.refuse(refusal),
        }
    };
    tokio::select! {
        () = work => {}
        // What is under way says so in its record when it is dropped.
        () = drain.forced() => {}
    }
}

/// Everything that may fail before bytes flow; each failure is one refusal.
async fn open(
    worker: &Rc<Worker>,
    peer: SocketAddr,
    destination: SocketAddr,
    facts: &mut ConnectionFacts,
) -> Result<Arrival, Refusal> {
    let node = &worker.node;

    // 1. A workload to be.
    let workload = node.workload().await?;
    let snapshot = node.snapshots.borrow().clone();
    facts.source = facts::peer(&snapshot, &node.proxy.network, peer, None);
    facts.destination = Party {
        workload: Some(workload.clone()),
        identity: None,
        address: Some(destination),
    };
    facts.service = facts::service_asked(&snapshot, &workload, None, destination.port());

    // 2. Only to itself: a neighbour may send here what is for others.
    let destination = mesh_plan::plaintext(&workload, destination, |ip| {
        mesh_net::is_interface_address(ip, None).unwrap_or_else(|error| {
            tracing::warn!(%error, "the addresses of this pod cannot be read");
            false
        })
    })?;

    // 3. May the peer, of whom nothing is proven? 4. Does the application?
    let caller = Caller {
        workload: &workload,
        peer,
        identity: None,
        trust: None,
        destination,
    };
    Arrival::admit(worker, snapshot, caller, facts).await
}
