//! Byte streams: TCP listeners, and TLS that passes through by server name.
//!
//! In order: policy, route, endpoint (another one when a connect fails), bytes. Every failure ends
//! the one record with its reason.

use crate::listeners::Arrival;
use crate::worker::{self, Worker};
use ::http::HeaderMap;
use mesh_authz::Decision;
use mesh_hbone::{Baggage, Forwarded, new_traceparent};
use mesh_l4::{Reach, UpstreamStream, run_session};
use mesh_model::{GatewayListener, Reason, Snapshot};
use mesh_plan::{Refusal, Target, Transport};
use mesh_telemetry::{ConnectionRecord, Party, Security};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// Endpoints tried for one connection. Nothing of the client's bytes has left before one answers.
const ATTEMPTS_MAX: usize = 3;

/// Serves a byte stream to its end.
pub(crate) async fn serve<S>(
    worker: &Worker,
    down: S,
    arrival: &Arrival,
    listener: &Arc<GatewayListener>,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut record = worker.record(arrival);
    record.set_drop_reason(Reason::Drained);
    // Boxed: what connecting needs is not held while the bytes flow.
    match Box::pin(open(worker, arrival, listener, &mut record)).await {
        Ok(up) => {
            record.set_tls_group(up.key_exchange());
            let cut = revoked(worker, arrival);
            run_session(down, up, record, cut, &worker.shared.drain).await;
        }
        Err(refusal) => {
            drop(down);
            record.end(refusal.reason, Some(refusal.detail));
        }
    }
}

/// Decides where the stream goes, and connects.
async fn open(
    worker: &Worker,
    arrival: &Arrival,
    listener: &GatewayListener,
    record: &mut ConnectionRecord,
) -> Result<UpstreamStream, Refusal> {
    let snapshot = worker.shared.snapshots.borrow().clone();
    let decision = authorize(worker, &snapshot, arrival);
    if let Some(policy) = &decision.policy {
        record.set_policy(policy);
    }
    if !decision.allowed {
        return Err(Refusal::new(decision.reason, decision.detail));
    }
    let avoided = worker.shared.ejector.avoided();
    let (client, gateway) = (
        &arrival.client.clone().avoiding(avoided),
        &worker.shared.edge.gateway,
    );
    let (_rule, target) = {
        let dice = &mut *worker.dice.borrow_mut();
        mesh_plan::tcp(&snapshot, client, gateway, listener, dice)?
    };
    let reach = Reach {
        snapshot: &snapshot,
        client,
        dice: &worker.dice,
        ejector: &worker.shared.ejector,
        attempts_max: ATTEMPTS_MAX,
    };
    let attempt = async |target: &Target| {
        describe(record, target);
        let headers = headers(worker, arrival, target);
        Ok(worker.dialer.open(target, headers).await?)
    };
    reach.open(target, attempt).await
}

fn authorize(worker: &Worker, snapshot: &Snapshot, arrival: &Arrival) -> Decision {
    let workload = arrival.client.workload.as_deref();
    let gateway = &worker.shared.edge.gateway;
    let policies = mesh_plan::gateway_policies(snapshot, gateway, workload);
    let connection = mesh_authz::Connection {
        identity: None,
        source_ip: arrival.peer.ip(),
        destination: arrival.local,
    };
    mesh_authz::authorize(&policies, &connection, None)
}

/// Gives a reason once a change of policy denies what was allowed.
async fn revoked(worker: &Worker, arrival: &Arrival) -> Reason {
    let mut snapshots = worker.shared.snapshots.clone();
    // Also what changed while the endpoint was being connected.
    snapshots.mark_changed();
    while snapshots.changed().await.is_ok() {
        let snapshot = snapshots.borrow_and_update().clone();
        if !authorize(worker, &snapshot, arrival).allowed {
            return Reason::PolicyRevoked;
        }
    }
    // Discovery has ended: the last state stays in use.
    std::future::pending().await
}

fn describe(record: &mut ConnectionRecord, target: &Target) {
    let tunnelled = target.transport != Transport::Plain;
    let workload = target.workload.as_ref();
    record.set_service(target.service.clone());
    record.set_destination(Party {
        workload: workload.cloned(),
        identity: workload.filter(|_| tunnelled).and_then(|w| w.identity()),
        address: Some(target.address),
    });
    match target.transport.authority() {
        Some(authority) => {
            record.set_security(Security::MutualTls);
            record.set_hbone_address(authority);
        }
        None => record.set_security(Security::Unknown),
    }
}

/// The headers of a CONNECT (interop/hbone.md, "CONNECT request").
fn headers(worker: &Worker, arrival: &Arrival, target: &Target) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if target.transport == Transport::Plain {
        return headers;
    }
    let forwarded = Forwarded {
        client: Some(arrival.peer),
        host: target.service.as_ref().map(|s| s.name.hostname.to_string()),
    };
    let workload = worker::source(arrival).workload;
    let baggage = workload.and_then(|w| Baggage::value_of(&w));
    let trace = new_traceparent(&mut worker.dice.borrow_mut());
    for (name, value) in [
        ("forwarded", forwarded.to_value()),
        ("baggage", baggage),
        ("traceparent", trace),
    ] {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    headers
}
