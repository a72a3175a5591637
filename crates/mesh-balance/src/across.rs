//! Endpoints on other networks, and the gateways that lead to them.

use crate::{Avoided, Client, Elsewhere, target_port};
use mesh_model::{GatewayAddress, GatewayDestination, Snapshot, TunnelProtocol, Workload};
use std::net::SocketAddr;

/// Whether an endpoint can be reached at all, and, where that takes one, the gateway that leads to it.
///
/// What is known of another network may be one workload that stands for all there, without an address
/// of its own. One that has an address must take tunnels: the gateway passes on nothing else.
pub(crate) fn gateway<'a>(
    endpoint: &'a Workload,
    client: Client<'_>,
) -> Option<Option<&'a GatewayAddress>> {
    if *endpoint.network == *client.network {
        return Some(None);
    }
    match client.elsewhere {
        Elsewhere::Nothing => None,
        Elsewhere::Direct => Some(None),
        Elsewhere::ByGateway => {
            let takes = endpoint.addresses.is_empty() || endpoint.protocol == TunnelProtocol::Hbone;
            endpoint
                .network_gateway
                .as_ref()
                .filter(|_| takes)
                .map(Some)
        }
    }
}

/// Whether a gateway is avoided: where it has several instances, each of them.
pub(crate) fn avoided(snapshot: &Snapshot, gateway: &GatewayAddress, avoided: &Avoided) -> bool {
    let name = match &gateway.destination {
        GatewayDestination::Address(at) => {
            return avoided.contains(&SocketAddr::new(at.address, gateway.hbone_port));
        }
        GatewayDestination::Hostname(name) => name,
    };
    let Some(service) = snapshot.service(name) else {
        return false;
    };
    let Some(port) = service.port(gateway.hbone_port) else {
        return false;
    };
    let mut instances = snapshot
        .endpoints(name)
        .filter_map(|w| {
            Some(SocketAddr::new(
                w.address()?,
                target_port(w, service, port)?,
            ))
        })
        .peekable();
    instances.peek().is_some() && instances.all(|at| avoided.contains(&at))
}
