//! Inbound plaintext: connections to the local workload that came without a tunnel, captured on
//! 15006.
//!
//! Accept, original destination, authorization with no identity (which is how STRICT refuses),
//! connect to the application, session, one end record.

use crate::application::{self, Admission};
use crate::limits::Permit;
use crate::pods::{Pod, Worker, accept_each};
use crate::{facts, local};
use mesh_l4::run_session;
use mesh_model::Reason;
use mesh_plan::Refusal;
use mesh_telemetry::{ConnectionRecord, Party};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use tokio::net::{TcpListener, TcpStream};

/// Takes connections until the drain starts.
pub(crate) async fn run(worker: Rc<Worker>, listener: TcpListener) {
    let facts = |peer| facts::inbound(peer, None);
    accept_each(worker, listener, "inbound plaintext", facts, captured).await;
}

async fn captured(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, permit: Permit) {
    let record = worker
        .pod
        .node
        .metrics
        .connection(facts::inbound(peer, None));
    match mesh_net::original_destination(&stream) {
        Ok(destination) => serve(&worker, stream, peer, destination, record).await,
        Err(error) => record.end(Reason::DownstreamReset, Some(error.to_string())),
    }
    drop(permit);
}

/// Carries one connection whose destination is known.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    destination: SocketAddr,
    mut record: ConnectionRecord,
) {
    match open(worker, peer, destination, &mut record).await {
        Ok((app, admission)) => {
            let cut = admission.revoked();
            run_session(stream, app, record, cut, &worker.pod.drain).await;
        }
        Err(refusal) => record.end(refusal.reason, Some(refusal.detail)),
    }
}

/// Whether an interface of the pod has an address; not when that cannot be known.
fn has_address(pod: &Pod, ip: IpAddr) -> bool {
    mesh_net::is_interface_address(ip, pod.netns.as_ref()).unwrap_or_else(|error| {
        tracing::warn!(pod = %pod.spec.info.name, %error, "the addresses of a pod cannot be read");
        false
    })
}

/// Everything that may fail before bytes flow; each failure is one refusal.
async fn open(
    worker: &Rc<Worker>,
    peer: SocketAddr,
    destination: SocketAddr,
    record: &mut ConnectionRecord,
) -> Result<(TcpStream, Admission), Refusal> {
    let pod = &worker.pod;

    // 1. A workload to be.
    let mut local = pod.local.clone();
    let known = local::known(&mut local, &pod.spec.info).await?;
    let workload = &known.workload;
    let snapshot = pod.node.snapshots.borrow().clone();
    let network = &pod.node.proxy.network;
    record.set_source(facts::peer(&snapshot, network, peer, None));
    record.set_destination(Party {
        workload: Some(workload.clone()),
        // Whom the client reaches, though nothing proves it to the client.
        identity: workload.identity(),
        address: Some(destination),
    });
    let service = facts::service_asked(&snapshot, workload, None, destination.port());
    record.set_service(service);

    // 2. Only to itself: a neighbour may send here what is for others.
    let destination = mesh_plan::plaintext(workload, destination, |ip| has_address(pod, ip))?;

    // 3. May the peer, of whom nothing is proven?
    let admission = Admission {
        identity: None,
        source_ip: peer.ip(),
        destination,
        local,
    };
    admission.check(&known.policies, record, &pod.node)?;

    // 4. The application.
    let app = application::connect(pod, destination, peer.ip()).await?;
    Ok((app, admission))
}
