//! Where a connection at a gateway's TCP listener goes.

use crate::backend::{self, Sender};
use crate::{Client, Refusal, Target};
use mesh_model::{Dice, GatewayListener, ObjectName, ParentKey, Reason, Snapshot, TcpRouteRule};
use mesh_routing::{Attachment, select_tcp};
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
    let rules = snapshot.tcp_routes(&ParentKey::Gateway(gateway.clone()));
    let rule = select_tcp(rules, &Attachment::Listener(listener)).ok_or_else(|| {
        let detail = format!("no route hangs on listener {}", listener.key);
        Refusal::new(Reason::NoRoute, detail)
    })?;
    let (_, target) = backend::pick(snapshot, client, Sender::Gateway, &rule.backends, dice)
        .map_err(|r| Refusal::new(r.reason, format!("rule {}: {}", rule.name, r.detail)))?;
    Ok((rule, target))
}
