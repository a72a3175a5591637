//! Network gateway: tunnels from other networks, taken on 15008, for the services of its own.
//!
//! For each CONNECT: service by name, admission by the gateway's own policies, an endpoint of its network
//! or the waypoint in front of it, TCP to where its tunnels begin, 200, then bytes as they are: they are
//! an inner tunnel, which ends there and which the gateway cannot read (interop/hbone.md, "Double HBONE";
//! interop/waypoint.md section 5).

use crate::admission::{Admission, Kind};
use crate::facts;
use crate::proxy::Permit;
use crate::session::ATTEMPTS_MAX;
use crate::tunnel::{self, Tunnel};
use crate::worker::Worker;
use http::HeaderMap;
use mesh_hbone::Incoming;
use mesh_l4::{AttemptError, DialError, Reach, run_session};
use mesh_l7::{Authorization, OwnedScope};
use mesh_model::{Reason, Snapshot};
use mesh_net::{ConnectOptions, Link};
use mesh_plan::{Authority, Client, Refusal, Target, Transport};
use mesh_telemetry::{ConnectionRecord, Party};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

/// Who sends: Istio's waypoints and gateways say so, a ztunnel says nothing.
const SOURCE: &str = "x-istio-source";

/// Takes tunnels until the drain starts.
pub(crate) async fn run(worker: Rc<Worker>, listener: TcpListener) {
    tunnel::run(worker, listener, facts::network_gateway, serve).await;
}

/// What is ready when a stream may be answered 200.
struct Opened {
    up: TcpStream,
    admission: Admission,
    allowed_by: Arc<Snapshot>,
    _permit: Permit,
}

/// Carries one stream.
async fn serve(tunnel: Rc<Tunnel>, mut incoming: Incoming) {
    let node = tunnel.worker.node.clone();
    let authority = incoming.authority().to_owned();
    let source = incoming.headers().get(SOURCE);
    let from_waypoint = source.is_some_and(|source| source == "waypoint");
    let mut record = node.metrics.connection(tunnel.facts(&authority));

    // Before the 200: everything that may fail.
    let opened = tokio::select! {
        opened = Box::pin(open(&tunnel, &authority, from_waypoint, &mut record)) => opened,
        () = incoming.abandoned() => {
            Err(Refusal::new(Reason::DownstreamReset, "the client gave up"))
        }
        () = node.drain.forced() => Err(Refusal::new(Reason::Drained, "going down")),
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(refusal) => {
            incoming.refuse(refusal.reason);
            return record.end(refusal.reason, Some(refusal.detail));
        }
    };

    // After it: bytes.
    match incoming.accept(&HeaderMap::new()) {
        Ok(stream) => {
            let cut = opened.admission.revoked(opened.allowed_by, Kind::Bytes);
            run_session(stream, opened.up, record, cut, &node.drain).await;
        }
        Err(error) => record.end(Reason::DownstreamReset, Some(error.to_string())),
    }
}

/// Everything that may fail before the 200; each failure is one refusal.
async fn open(
    tunnel: &Rc<Tunnel>,
    authority: &str,
    from_waypoint: bool,
    record: &mut ConnectionRecord,
) -> Result<Opened, Refusal> {
    // 1. Room, and who we are.
    let worker = &tunnel.worker;
    let node = &worker.node;
    let permit = node.admit()?;
    let me = node.workload().await?;

    // 2. Where to.
    let snapshot = node.snapshots.borrow().clone();
    let authority: Authority = authority
        .parse()
        .map_err(|e| Refusal::new(Reason::BadRequest, format!("{e}")))?;
    let asking = Client::of(&me)
        .from_address(tunnel.peer.ip())
        .avoiding(node.ejector.avoided());
    let target = {
        let mut dice = worker.dice.borrow_mut();
        mesh_plan::network_gateway(&snapshot, &asking, &authority, from_waypoint, &mut dice)?
    };
    record.set_service(target.service.clone());
    describe(record, &target);

    // 3. May the client?
    let admission = Admission {
        authorization: Authorization::NetworkGateway(me.uid.clone()),
        scope: OwnedScope::Workload {
            uid: me.uid.clone(),
            address: SocketAddr::new(tunnel.local_ip, authority.port()),
        },
        identity: Some(tunnel.identity.clone()),
        source_ip: tunnel.peer.ip(),
        destination: SocketAddr::new(tunnel.local_ip, authority.port()),
        snapshots: node.snapshots.clone(),
        trust: Some(tunnel.trust.clone()),
    };
    let checked = admission.check(&snapshot, Kind::Bytes);
    let policy = match &checked {
        Ok(policy) => policy,
        Err(denial) => &denial.policy,
    };
    if let Some(policy) = policy {
        record.set_policy(policy);
    }
    checked.map_err(|denial| denial.refusal)?;

    // 4. Where its tunnels begin.
    let reach = Reach {
        snapshot: &snapshot,
        client: &asking,
        dice: &worker.dice,
        ejector: &node.ejector,
        attempts_max: ATTEMPTS_MAX,
    };
    let up = reach.open(target, async |target: &Target| {
        connect(worker, target, record).await
    });
    Ok(Opened {
        up: up.await?,
        admission,
        allowed_by: snapshot.clone(),
        _permit: permit,
    })
}

fn describe(record: &mut ConnectionRecord, target: &Target) {
    record.set_destination(Party {
        workload: target.workload.clone(),
        // It proves itself to the client only.
        identity: None,
        address: Some(target.address),
    });
}

async fn connect(
    worker: &Worker,
    target: &Target,
    record: &mut ConnectionRecord,
) -> Result<TcpStream, AttemptError> {
    describe(record, target);
    if !matches!(target.transport, Transport::Hbone { .. }) {
        let detail = format!("{} takes no tunnel", target.destination);
        return Err(Refusal::new(Reason::NoEndpoint, detail).into());
    }
    let options = ConnectOptions {
        // What goes over it is one, if not ours.
        link: Link::Tunnel,
        ..worker.dialer.connect.clone()
    };
    let up = mesh_net::connect(target.address, &options).await;
    Ok(up.map_err(DialError::from)?)
}
