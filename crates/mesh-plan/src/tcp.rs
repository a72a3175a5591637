//! Where a connection at a gateway's TCP listener goes.

use crate::{Client, Refusal, Target};
use mesh_model::{Dice, GatewayListener, ObjectName, Reason, Snapshot, TcpRouteRule};
use std::sync::Arc;

/// The rule that takes the connection, and its target.
///
/// # Errors
/// [`Reason::NoRoute`], [`Reason::BackendInvalid`], [`Reason::NoEndpoint`] or [`Reason::NoWaypoint`].
pub fn tcp(
    snapshot: &Snapshot,
    client: &Client,
    gateway: &ObjectName,
    listener: &GatewayListener,
    dice: &mut Dice,
) -> Result<(Arc<TcpRouteRule>, Target), Refusal> {
    let _ = (snapshot, client, gateway, listener, dice);
    Err(Refusal::new(Reason::Internal, "no plan"))
}
