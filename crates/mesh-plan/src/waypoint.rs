//! Waypoints: finding the one in front of a destination, and what one of them serves.

use crate::{Authority, Refusal};
use mesh_model::{GatewayAddress, Reason, Service, Snapshot, Workload};
use std::net::SocketAddr;
use std::sync::Arc;

/// What a CONNECT to a waypoint asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaypointTarget {
    /// A port of a service: plan each request with [`crate::http`], or [`crate::to_service`].
    Service {
        /// The service.
        service: Arc<Service>,
        /// The port asked for.
        port: u16,
    },
    /// A workload by its own address: [`crate::to_workload`].
    Workload {
        /// The workload.
        workload: Arc<Workload>,
        /// The address asked for.
        address: SocketAddr,
    },
}

/// What the waypoint `me` serves under an authority: only services and workloads bound to it
/// (interop/waypoint.md section 3).
///
/// # Errors
/// [`Reason::WrongDestination`] when nothing of that name is bound to `me`.
pub fn waypoint(
    snapshot: &Snapshot,
    me: &Workload,
    authority: &Authority,
) -> Result<WaypointTarget, Refusal> {
    let _ = (snapshot, me, authority);
    Err(Refusal::new(Reason::Internal, "no plan"))
}

/// Whether `me` is an instance of the waypoint at an address.
pub fn is_waypoint_of(snapshot: &Snapshot, me: &Workload, at: &GatewayAddress) -> bool {
    let _ = (snapshot, me, at);
    false
}
