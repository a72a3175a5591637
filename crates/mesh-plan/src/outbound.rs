//! Where a captured connection goes: the decision of ztunnel, and of a sidecar below HTTP.

use crate::{Client, Refusal, Target};
use mesh_model::{Dice, Reason, Snapshot};
use std::net::SocketAddr;

/// Where a connection to an address goes (interop/waypoint.md section 2, interop/xds-workload.md
/// section 7).
///
/// # Errors
/// [`Reason::NoWaypoint`] when the destination's waypoint is unknown or has no endpoint;
/// [`Reason::NoEndpoint`] when the service has none.
pub fn outbound(
    snapshot: &Snapshot,
    client: &Client,
    destination: SocketAddr,
    dice: &mut Dice,
) -> Result<Target, Refusal> {
    let _ = (snapshot, client, destination, dice);
    Err(Refusal::new(Reason::Internal, "no plan"))
}
