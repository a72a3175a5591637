//! What the caller knows of a connection before its first request.

use mesh_authz::Decision;
use mesh_model::{
    AppProtocol, ObjectName, PolicyCompatibility, PolicySet, Reason, ServiceName, Snapshot,
    Workload, WorkloadUid,
};
use mesh_plan::{Client, WaypointTarget};
use mesh_telemetry::{Party, Reporter, Security};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// The HTTP version of a downstream connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    /// HTTP/1.1 (and 1.0).
    Http1,
    /// HTTP/2, by ALPN or by its preface.
    Http2,
    /// Told by the first bytes. Never for a protocol whose server speaks first.
    Detect,
}

/// How far the peer is trusted with what it says about the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The edge of the mesh: `x-forwarded-for`, `x-forwarded-proto` and `x-request-id` are written
    /// here, and what a client claims in them is not believed.
    Edge {
        /// The client spoke TLS: `x-forwarded-proto: https`.
        secure: bool,
    },
    /// Inside the mesh: such headers pass through.
    Mesh,
}

/// Which requests go where.
#[derive(Debug, Clone)]
pub enum OwnedScope {
    /// The routes of a service port, at a sidecar (outbound) or a waypoint.
    Service {
        /// The service.
        name: ServiceName,
        /// Its service-side port.
        port: u16,
    },
    /// The routes of the listeners of one port of a Gateway; the host of each request picks the
    /// listener, and a listener added later counts from the next request on.
    Gateway {
        /// The Gateway.
        gateway: ObjectName,
        /// The listeners' port.
        port: u16,
    },
    /// The application beside us: no routes.
    App {
        /// Where it listens.
        address: SocketAddr,
        /// The workload it is.
        workload: Option<Arc<Workload>>,
        /// The service it was asked for by, for the records.
        service: Option<ServiceName>,
        /// What it speaks, when declared.
        app_protocol: AppProtocol,
    },
    /// One workload behind a waypoint, addressed by itself: no routes.
    Workload {
        /// The workload.
        uid: WorkloadUid,
        /// The address asked for.
        address: SocketAddr,
    },
}

/// Which policies each request must pass. They are looked up in the snapshot of the moment; a
/// workload that is not known there has policies that nobody can look up, so the answer is no.
#[derive(Debug, Clone)]
pub enum Authorization {
    /// None here: another enforcement point decides.
    None,
    /// Those of a workload at its sidecar (inbound).
    Sidecar(WorkloadUid),
    /// Those that a waypoint enforces for its scope; the waypoint's own workload.
    Waypoint(WorkloadUid),
    /// Those of a network gateway; its own workload.
    NetworkGateway(WorkloadUid),
    /// Those that name the gateway of the scope, or select its workload.
    Gateway(Option<WorkloadUid>),
}

impl Authorization {
    /// Whether nothing is enforced here.
    pub const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The policies as of a snapshot; `None` when nothing is enforced here.
    pub fn policies(&self, snapshot: &Snapshot, scope: &OwnedScope) -> Option<PolicySet> {
        let set = match (self, scope) {
            (Self::None, _) => return None,
            (Self::Sidecar(uid), _) => snapshot
                .workload(uid)
                .map(|workload| mesh_plan::sidecar_policies(snapshot, workload)),
            (Self::NetworkGateway(uid), _) => snapshot
                .workload(uid)
                .map(|me| mesh_plan::network_gateway_policies(snapshot, me)),
            (Self::Waypoint(uid), _) => snapshot.workload(uid).and_then(|me| {
                let target = scope.waypoint_target(snapshot)?;
                Some(mesh_plan::waypoint_policies(snapshot, me, &target))
            }),
            (Self::Gateway(uid), OwnedScope::Gateway { gateway, .. }) => {
                let workload = uid.as_ref().and_then(|uid| snapshot.workload(uid));
                (uid.is_none() || workload.is_some())
                    .then(|| mesh_plan::gateway_policies(snapshot, gateway, workload.map(|w| &**w)))
            }
            (Self::Gateway(_), _) => None,
        };
        Some(set.unwrap_or_else(|| PolicySet {
            // Whatever the mesh's setting: here nothing is known to go by.
            compatibility: PolicyCompatibility::Strict,
            policies: Vec::new(),
            missing: vec![ObjectName::new("-", "policies-of-an-unknown-workload")],
        }))
    }
}

impl Authorization {
    /// Returns once the policies of a later snapshot than `allowed_by` deny what that one allowed,
    /// by `decide`, with the reason [`Reason::PolicyRevoked`] and why. What cannot have changed is
    /// not decided again.
    pub async fn revoked(
        &self,
        scope: &OwnedScope,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        allowed_by: Arc<Snapshot>,
        decide: impl Fn(&PolicySet) -> Decision,
    ) -> (Reason, String) {
        let mut last = allowed_by;
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            if !self.unchanged(&last, &snapshot)
                && let Some(set) = self.policies(&snapshot, scope)
                && let decision = decide(&set)
                && !decision.allowed
            {
                return (Reason::PolicyRevoked, decision.detail);
            }
            last = snapshot;
            if snapshots.changed().await.is_err() {
                // No more snapshots will come: what is allowed stays so.
                return std::future::pending().await;
            }
        }
    }

    fn unchanged(&self, before: &Snapshot, after: &Snapshot) -> bool {
        let of_workload = match self {
            Self::None => return true,
            Self::Sidecar(uid)
            | Self::Waypoint(uid)
            | Self::NetworkGateway(uid)
            | Self::Gateway(Some(uid)) => Some(uid),
            Self::Gateway(None) => None,
        };
        let workload = |s: &Snapshot| of_workload.and_then(|uid| s.workload(uid).cloned());
        before.same_policies(after) && workload(before) == workload(after)
    }
}

impl OwnedScope {
    fn waypoint_target(&self, snapshot: &Snapshot) -> Option<WaypointTarget> {
        match self {
            Self::Service { name, port } => Some(WaypointTarget::Service {
                service: snapshot.service(name)?.clone(),
                port: *port,
            }),
            Self::Workload { uid, address } => Some(WaypointTarget::Workload {
                workload: snapshot.workload(uid)?.clone(),
                address: *address,
            }),
            Self::Gateway { .. } | Self::App { .. } => None,
        }
    }
}

/// A downstream connection, as the room that accepted it sees it.
#[derive(Debug, Clone)]
pub struct ConnectionContext {
    /// The state of the mesh; each request uses the newest.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Whose view of the mesh decides on endpoints: this proxy's.
    pub client: Client,
    /// Who connected, for the records and, by its identity, for authorization.
    pub source: Party,
    /// The TCP peer; authorization's source address.
    pub peer_address: SocketAddr,
    /// The address asked for; authorization's destination address and port.
    pub destination: SocketAddr,
    /// Where requests go.
    pub scope: OwnedScope,
    /// Which policies they must pass.
    pub authorization: Authorization,
    /// From where the records are seen.
    pub reporter: Reporter,
    /// How the downstream connection is protected.
    pub security: Security,
    /// The version spoken.
    pub version: HttpVersion,
    /// Whether this is the edge.
    pub role: Role,
    /// Server name of the TLS handshake, at the edge. A request whose host belongs to a listener
    /// of other certificates is answered 421.
    pub server_name: Option<Arc<str>>,
}

impl ConnectionContext {
    /// Whether it is for the application beside us and came without a proven identity.
    pub(crate) fn is_unproven_inbound(&self) -> bool {
        matches!(self.scope, OwnedScope::App { .. }) && self.source.identity.is_none()
    }
}
