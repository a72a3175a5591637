//! Whether a sidecar reads HTTP on a connection or hands it on as bytes.

use crate::{Client, waypoint};
use mesh_model::{AppProtocol, LoadBalancingMode, Service, Snapshot};
use std::net::SocketAddr;
use std::sync::Arc;

/// A service to which a sidecar may route HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarService {
    /// The service.
    pub service: Arc<Service>,
    /// The port asked for, one the service has.
    pub port: u16,
    /// What it speaks: an HTTP kind, or unknown and to be detected. Never TCP or TLS.
    pub protocol: AppProtocol,
}

/// What a sidecar does with an outbound connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SidecarPlan {
    /// Read it as HTTP (detect first when the protocol is unknown) and plan each request with
    /// [`crate::http`]; when it turns out not to be HTTP, [`crate::outbound`].
    Service(SidecarService),
    /// Bytes: [`crate::outbound`].
    L4,
}

/// Decides for the address a connection was made to. A service with a waypoint of its own is L4:
/// the waypoint does the rest, and no policy is passed by.
pub fn sidecar_destination(
    snapshot: &Snapshot,
    client: &Client,
    destination: SocketAddr,
) -> SidecarPlan {
    service_at(snapshot, client, destination).map_or(SidecarPlan::L4, SidecarPlan::Service)
}

fn service_at(
    snapshot: &Snapshot,
    client: &Client,
    destination: SocketAddr,
) -> Option<SidecarService> {
    let (network, ip) = (&client.network, destination.ip());
    let service = snapshot.visible_service_at(network, ip, &client.namespace)?;
    let workload_waypoint = snapshot
        .workload_at(network, ip)
        .is_some_and(|w| w.waypoint.is_some());
    let chosen_elsewhere = workload_waypoint
        || waypoint::waypoints(service).next().is_some()
        || service.load_balancing.mode == LoadBalancingMode::Passthrough;
    let port = service.port(destination.port())?;
    if chosen_elsewhere || matches!(port.app_protocol, AppProtocol::Tcp | AppProtocol::Tls) {
        return None;
    }
    Some(SidecarService {
        service: service.clone(),
        port: port.service_port,
        protocol: port.app_protocol,
    })
}
