//! From a rule's backends to a target.

use crate::waypoint::{self, Asked};
use crate::{Client, Refusal, Target, to_service};
use mesh_model::{Backend, Dice, Reason, Service, Snapshot, WeightedBackend};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Which proxy sends to the backend: that tells whether a waypoint in front of it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// Passes waypoints by, except those of services that ask for them (interop/gateway.md section 5).
    Gateway,
    /// Always goes direct: it has done a waypoint's work.
    Waypoint,
    /// Always uses them: it has not.
    Sidecar,
}

/// Picks a backend by weight and finds its target.
pub(crate) fn pick<'a>(
    snapshot: &Snapshot,
    client: &Client,
    sender: Sender,
    backends: &'a [WeightedBackend],
    dice: &mut Dice,
) -> Result<(&'a WeightedBackend, Target), Refusal> {
    let invalid = |why: String| Refusal::new(Reason::BackendInvalid, why);
    let picked = mesh_routing::pick_backend(backends, dice)
        .ok_or_else(|| invalid("the rule has no backend with a weight".to_owned()))?;
    let (name, port) = match &picked.backend {
        Backend::Invalid { why } => return Err(invalid(why.to_string())),
        Backend::Service { name, port } => (name, *port),
    };
    let service = snapshot
        .service(name)
        .ok_or_else(|| invalid(format!("backend service {name} does not exist")))?;
    if service.port(port).is_none() {
        return Err(invalid(format!(
            "backend service {name} has no port {port}"
        )));
    }
    let target = target(snapshot, client, sender, service, port, dice)?;
    Ok((picked, target))
}

/// The target for a port of a service.
pub(crate) fn target(
    snapshot: &Snapshot,
    client: &Client,
    sender: Sender,
    service: &Arc<Service>,
    port: u16,
    dice: &mut Dice,
) -> Result<Target, Refusal> {
    let wanted = match sender {
        Sender::Gateway => service.ingress_use_waypoint,
        Sender::Waypoint => false,
        Sender::Sidecar => true,
    };
    let at = if wanted {
        waypoint::of_service(service, dice)
    } else {
        None
    };
    match at {
        None => to_service(snapshot, client, service, port, dice),
        Some(at) => {
            let asked = asked(client, service, port);
            waypoint::target(snapshot, client, at, asked, dice)
        }
    }
}

/// A waypoint is asked by the first virtual address; for a service without one, by its name.
fn asked<'a>(client: &Client, service: &'a Arc<Service>, port: u16) -> Asked<'a> {
    let vip = service.vip(&client.network);
    let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    Asked {
        destination: SocketAddr::new(vip.unwrap_or(unspecified), port),
        authority: match vip {
            Some(ip) => SocketAddr::new(ip, port).to_string(),
            None => format!("{}:{port}", service.name.hostname),
        },
        service: Some(service),
        port,
    }
}
