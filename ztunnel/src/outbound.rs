//! Outbound: connections of the local workload, captured on 15001.
//!
//! Accept, original destination, plan, connect (plain or through a tunnel), session, one end record.

use crate::pods::{Worker, accept_each};
use crate::same_node::{self, Near};
use crate::{facts, limits::Permit, local};
use mesh_l4::{AttemptError, Dialer, Reach, Tunnels, UpstreamStream, run_session};
use mesh_model::{PORT_HBONE, PORT_INBOUND_PLAINTEXT, PORT_OUTBOUND, Reason, Snapshot};
use mesh_net::ConnectOptions;
use mesh_plan::{Client, Refusal, Target, Transport};
use mesh_telemetry::{ConnectionRecord, Party, Transport as Carried};
use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use tokio::net::{TcpListener, TcpStream};

/// Endpoints tried for one connection, as long as nothing was sent to the one that failed. Each may
/// take the whole connect timeout, and the application waits meanwhile.
const ATTEMPTS_MAX: usize = 2;

/// Takes connections until the drain starts.
pub(crate) async fn run(worker: Rc<Worker>, listener: TcpListener) {
    accept_each(worker, listener, "outbound", facts::outbound, captured).await;
}

async fn captured(worker: Rc<Worker>, stream: TcpStream, client: SocketAddr, permit: Permit) {
    let destination = mesh_net::original_destination(&stream);
    let at = stream.local_addr();
    let record = worker.pod.node.metrics.connection(facts::outbound(client));
    match destination.and_then(|destination| Ok((destination, at?))) {
        Ok((destination, at)) => serve(worker, stream, client, at, destination, record).await,
        Err(error) => record.end(Reason::DownstreamReset, Some(error.to_string())),
    }
    drop(permit);
}

/// Carries one connection whose destination is known.
// Not an async fn: that would hold room for its arguments while the session lives.
pub(crate) fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    client: SocketAddr,
    at: SocketAddr,
    destination: SocketAddr,
    record: ConnectionRecord,
) -> impl Future<Output = ()> {
    let asking = worker.clone();
    // Boxed: what it needs is given back before the session, most of which is idle.
    let reaching =
        Box::pin(
            async move { reach_recorded(&asking, stream, client, at, destination, record).await },
        );
    async move {
        let Some((stream, record, reached)) = reaching.await else {
            return;
        };
        match reached {
            Reached::Far(upstream) => {
                run_session(stream, upstream, record, pending(), &worker.pod.drain).await;
            }
            Reached::Near(near) => {
                // Boxed: else every session through a tunnel had room for it.
                Box::pin(near.carry(stream, record, &worker.pod)).await;
            }
        }
    }
}

/// A connection, its record, and its server, which was reached.
type Joined = (TcpStream, ConnectionRecord, Reached);

/// None when the server was not reached, which is on record.
async fn reach_recorded(
    worker: &Rc<Worker>,
    stream: TcpStream,
    client: SocketAddr,
    at: SocketAddr,
    destination: SocketAddr,
    mut record: ConnectionRecord,
) -> Option<Joined> {
    record.set_destination(Party {
        address: Some(destination),
        ..Party::default()
    });
    match reach(worker, client, at, destination, &mut record).await {
        Ok(reached) => {
            if let Reached::Far(upstream) = &reached
                && let Some(group) = upstream.key_exchange()
            {
                record.set_tls_group(Some(group));
            }
            Some((stream, record, reached))
        }
        Err(refusal) => {
            record.end(refusal.reason, Some(refusal.detail));
            None
        }
    }
}

/// A server that was reached.
enum Reached {
    /// Through a tunnel, or in plain text.
    Far(UpstreamStream),
    /// Within this process.
    Near(Box<Near>),
}

/// Everything that may fail before bytes flow; each failure is one refusal.
async fn reach(
    worker: &Rc<Worker>,
    client: SocketAddr,
    at: SocketAddr,
    destination: SocketAddr,
    record: &mut ConnectionRecord,
) -> Result<Reached, Refusal> {
    let pod = &worker.pod;

    // 1. Not in circles. A redirected connection is accepted on loopback: it is the client's
    // address that is the pod's.
    not_ourselves(&[at.ip(), client.ip()], at, destination)?;

    // 2. Who asks.
    let known = local::known(&mut pod.local.clone(), &pod.spec.info).await?;
    let workload = &known.workload;
    record.set_source(Party {
        workload: Some(workload.clone()),
        identity: workload.identity(),
        address: Some(client),
    });

    // 3. Where to: one decision on one snapshot.
    let snapshot = pod.node.snapshots.borrow().clone();
    let asking = Client::of(workload)
        .from_address(client.ip())
        .avoiding(pod.ejector.avoided())
        .across_networks();
    let target = {
        let mut dice = worker.dice.borrow_mut();
        mesh_plan::outbound(&snapshot, &asking, destination, &mut dice)?
    };

    // 4. Connect.
    connect(worker, &snapshot, &asking, client, target, record).await
}

/// A connection that was not captured, or was captured on its way to our own ports of this pod,
/// would come back to us for ever.
fn not_ourselves(pod: &[IpAddr], at: SocketAddr, destination: SocketAddr) -> Result<(), Refusal> {
    const OURS: [u16; 3] = [PORT_OUTBOUND, PORT_INBOUND_PLAINTEXT, PORT_HBONE];
    let destination = canonical(destination);
    let own = pod.iter().any(|ip| ip.to_canonical() == destination.ip());
    if destination == canonical(at) || (own && OURS.contains(&destination.port())) {
        let detail = format!("{destination} is a port of this proxy itself");
        return Err(Refusal::new(Reason::WrongDestination, detail));
    }
    Ok(())
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

async fn connect(
    worker: &Rc<Worker>,
    snapshot: &Snapshot,
    asking: &Client,
    client: SocketAddr,
    target: Target,
    record: &mut ConnectionRecord,
) -> Result<Reached, Refusal> {
    let reach = Reach {
        snapshot,
        client: asking,
        dice: &worker.dice,
        ejector: &worker.pod.ejector,
        attempts_max: ATTEMPTS_MAX,
    };
    let attempt = async |target: &Target| {
        facts::set_target(record, target);
        if let (Some(workload), Some(pod)) =
            (&asking.workload, same_node::pod_of(worker, asking, target))
        {
            record.set_transport(Carried::Node);
            let near = same_node::open(worker, workload, client, target, pod).await?;
            return Ok(Reached::Near(Box::new(near)));
        }
        let far = dial(worker, asking, client, target, record).await?;
        Ok(Reached::Far(far))
    };
    reach.open(target, attempt).await
}

/// One attempt.
async fn dial(
    worker: &Rc<Worker>,
    asking: &Client,
    client: SocketAddr,
    target: &Target,
    record: &mut ConnectionRecord,
) -> Result<UpstreamStream, AttemptError> {
    let pod = &worker.pod;
    let mut dialer = Dialer {
        connect: ConnectOptions {
            mark: pod.node.proxy.mark,
            netns: pod.netns.clone(),
            ..ConnectOptions::default()
        },
        tunnels: None,
    };
    let mut headers = http::HeaderMap::new();
    if target.transport != Transport::Plain
        && let Some(workload) = &asking.workload
    {
        dialer.tunnels = Some(Tunnels {
            pool: worker.pool.clone(),
            certificate: worker.certificate(workload).await?,
        });
        let service = target.service.as_deref();
        let mut dice = worker.dice.borrow_mut();
        headers = facts::request_headers(workload, client, service, &mut dice);
    }
    if matches!(target.transport, Transport::DoubleHbone { .. }) {
        // Boxed: few connections cross networks.
        let crossed = Box::pin(dialer.open_across(target, headers)).await?;
        let gateway = target.workload.as_ref();
        let network = gateway.map(|w| w.network.clone()).unwrap_or_default();
        facts::set_crossed(record, &crossed, &network);
        return Ok(crossed.stream);
    }
    Ok(dialer.open(target, headers).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_ports_are_refused_and_those_of_others_are_not() {
        // As the kernel redirects: accepted on loopback, from the pod's address.
        let at = "127.0.0.1:15001".parse().unwrap();
        let pod = ["127.0.0.1".parse().unwrap(), "10.0.0.1".parse().unwrap()];
        for port in [15001, 15006, 15008] {
            let own = SocketAddr::from(([10, 0, 0, 1], port));
            assert!(not_ourselves(&pod, at, own).is_err(), "{own}");
            let other = SocketAddr::from(([10, 0, 0, 2], port));
            assert!(not_ourselves(&pod, at, other).is_ok(), "{other}");
        }
        let mapped = "[::ffff:10.0.0.1]:15008".parse().unwrap();
        assert!(not_ourselves(&pod, at, mapped).is_err());
        let uncaptured = "10.0.0.1:4001".parse().unwrap();
        assert!(not_ourselves(&pod, uncaptured, uncaptured).is_err());
        assert!(not_ourselves(&pod, at, "10.0.0.1:80".parse().unwrap()).is_ok());
    }
}
