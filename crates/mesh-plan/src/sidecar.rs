//! Whether a sidecar reads HTTP on a connection or hands it on as bytes.

use crate::Client;
use mesh_model::{AppProtocol, Service, Snapshot};
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
    let _ = (snapshot, client, destination);
    SidecarPlan::L4
}
