//! Where a captured connection goes: the decision of ztunnel, and of a sidecar below HTTP.

use crate::waypoint::{self, Asked};
use crate::{Client, Refusal, Target, TargetKind, Transport, is_waypoint_of};
use crate::{to_service, to_workload};
use mesh_model::{
    AppProtocol, Dice, GatewayAddress, LoadBalancingMode, NetworkMode, Service, Snapshot,
    TunnelProtocol, Workload,
};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Where a connection to an address goes (interop/waypoint.md section 2, interop/xds-workload.md
/// section 7): to the waypoint in front of it, else to an endpoint of the service, else to the
/// workload, else, when nothing is known of the address, there as it is.
///
/// Where an address is both a workload's and a service's, the waypoint of the workload stands in
/// front, or else that of the service, and the service tells which endpoint is used. Istio asks the
/// workload alone; a waypoint that the user put before an outside service, whose address is often
/// that of its endpoint, would be passed by.
///
/// # Errors
/// [`mesh_model::Reason::NoWaypoint`] when the destination's waypoint is unknown or has no endpoint;
/// [`mesh_model::Reason::NoEndpoint`] when the service has none.
pub fn outbound(
    snapshot: &Snapshot,
    client: &Client,
    destination: SocketAddr,
    dice: &mut Dice,
) -> Result<Target, Refusal> {
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    let ip = destination.ip();
    let workload = snapshot.workload_at(&client.network, ip);
    let service = snapshot.visible_service_at(&client.network, ip, &client.namespace);
    let at = match (workload, service) {
        (Some(workload), _) if workload.waypoint.is_some() => workload.waypoint.as_ref(),
        (_, Some(service)) => waypoint::of_service(service, dice),
        (_, None) => None,
    };
    if let Some(at) = at.filter(|at| !is_caller(snapshot, client, at)) {
        let asked = Asked {
            destination,
            authority: destination.to_string(),
            service,
            port: destination.port(),
        };
        return waypoint::target(snapshot, client, at, asked, dice);
    }
    match (service, workload) {
        (Some(service), _) if service.load_balancing.mode == LoadBalancingMode::Passthrough => {
            Ok(as_asked(snapshot, client, service, destination))
        }
        (Some(service), _) => to_service(snapshot, client, service, destination.port(), dice),
        (None, Some(workload)) => Ok(to_workload(workload, destination)),
        (None, None) => Ok(passthrough(destination)),
    }
}

/// Whether both ends of a connection are pods of one node's ztunnel, which then carries the bytes
/// from one to the other itself: both are captured there (and do not speak HBONE by themselves), and
/// neither asks for encryption within the node. The ztunnel goes by this only for pods it runs.
///
/// The connection must come from an address of the source. A pod may give itself others: what they
/// send over the network the network judges, and here nothing would, before a policy that goes by
/// addresses believed them.
pub fn same_node(client: &Client, target: &Target) -> bool {
    let (Some(from), Some(to)) = (client.workload.as_deref(), target.workload.as_deref()) else {
        return false;
    };
    let captured = |w: &Workload| {
        w.protocol == TunnelProtocol::Hbone
            && !w.native_tunnel
            && w.network_mode == NetworkMode::Standard
    };
    let own = |ip: IpAddr| from.addresses.contains(&ip.to_canonical());
    matches!(target.transport, Transport::Hbone { .. })
        && captured(from)
        && captured(to)
        && client.source.is_some_and(own)
        && !from.node.is_empty()
        && (&from.node, &from.cluster, &from.network) == (&to.node, &to.cluster, &to.network)
        && !(from.encrypt_same_node || to.encrypt_same_node)
}

/// A waypoint's own traffic must not come back to it.
fn is_caller(snapshot: &Snapshot, client: &Client, at: &GatewayAddress) -> bool {
    let me = client.workload.as_deref();
    me.is_some_and(|me| is_waypoint_of(snapshot, me, at))
}

/// A service that asks for no choice: the original address, in a tunnel when it is known to take one.
fn as_asked(
    snapshot: &Snapshot,
    client: &Client,
    service: &Arc<Service>,
    destination: SocketAddr,
) -> Target {
    // Of the client's network: on another one the address is somebody else's.
    let endpoint = snapshot
        .endpoints(&service.name)
        .find(|w| w.network == client.network && w.addresses.contains(&destination.ip()));
    let target = match endpoint {
        Some(workload) => to_workload(workload, destination),
        None => passthrough(destination),
    };
    let port = service.port(destination.port());
    Target {
        service: Some(service.clone()),
        service_port: port.map(|p| p.service_port),
        app_protocol: port.map_or(AppProtocol::Unknown, |p| p.app_protocol),
        ..target
    }
}

pub(crate) fn passthrough(destination: SocketAddr) -> Target {
    Target {
        address: destination,
        transport: Transport::Plain,
        workload: None,
        service: None,
        service_port: None,
        kind: TargetKind::Passthrough,
        app_protocol: AppProtocol::Unknown,
        destination,
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
