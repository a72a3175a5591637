//! Pure plans: what happens to a connection or request, and the explanation of it.
//!
//! Every proxy decides here: `plan(&Snapshot, facts) -> Plan`, no await, no sockets. `mesh explain`
//! ([`explain()`]) calls the very functions that carry the traffic. Sources: interop/waypoint.md,
//! interop/xds-workload.md section 7, interop/hbone.md, interop/gateway.md.

mod across;
mod authority;
mod backend;
mod endpoint;
pub mod explain;
mod http;
mod inbound;
mod outbound;
mod policies;
mod sidecar;
mod tcp;
#[cfg(test)]
mod testing;
mod waypoint;

pub use across::network_gateway;
pub use authority::{Authority, AuthorityError};
pub use endpoint::{retry_target, retry_target_untried, to_service, to_workload};
pub use explain::{ExplainRequest, Explanation, explain};
pub use http::{HttpForward, HttpPlan, HttpRedirect, HttpScope, http};
pub use inbound::{inbound, inbound_protocol, plaintext};
pub use mesh_balance::Avoided;
pub use mesh_routing::HttpFacts;
pub use outbound::{outbound, same_node};
pub use policies::{
    gateway_policies, network_gateway_policies, sidecar_policies, waypoint_policies,
};
pub use sidecar::{SidecarPlan, SidecarService, sidecar_destination};
pub use tcp::tcp;
pub use waypoint::{WaypointTarget, is_waypoint_of, waypoint};

use mesh_balance::Elsewhere;
use mesh_model::{AppProtocol, Reason, Service, SpiffeId, Workload};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Who asks: the workload whose traffic a proxy carries, or the gateway or waypoint itself.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its workload, when the control plane has sent it.
    pub workload: Option<Arc<Workload>>,
    /// The network it is on; empty on a mesh of one network.
    pub network: Arc<str>,
    /// Its namespace: which of several services of one name or address it sees.
    pub namespace: Arc<str>,
    /// The address its connection comes from, for services whose clients stick to one endpoint.
    /// None: they do not. A proxy that carries others' connections gives theirs, not its own.
    pub source: Option<IpAddr>,
    /// Endpoints that it lately failed to reach.
    pub avoided: Option<Arc<Avoided>>,
    /// It reaches other networks, through their gateways.
    pub across_networks: bool,
}

impl Client {
    /// The client that a workload is.
    pub fn of(workload: &Arc<Workload>) -> Self {
        Self {
            workload: Some(workload.clone()),
            network: workload.network.clone(),
            namespace: workload.namespace.clone(),
            source: None,
            avoided: None,
            across_networks: false,
        }
    }

    /// A client of which only the place is known.
    pub fn at(network: impl Into<Arc<str>>, namespace: impl Into<Arc<str>>) -> Self {
        Self {
            workload: None,
            network: network.into(),
            namespace: namespace.into(),
            source: None,
            avoided: None,
            across_networks: false,
        }
    }

    /// The same, for a connection from an address.
    #[must_use]
    pub fn from_address(self, source: impl Into<Option<IpAddr>>) -> Self {
        Self {
            source: source.into(),
            ..self
        }
    }

    /// The same, with endpoints to avoid.
    #[must_use]
    pub fn avoiding(self, avoided: Option<Arc<Avoided>>) -> Self {
        Self { avoided, ..self }
    }

    /// The same, which reaches other networks: its proxy opens tunnels within tunnels.
    #[must_use]
    pub fn across_networks(self) -> Self {
        Self {
            across_networks: true,
            ..self
        }
    }

    fn place(&self) -> mesh_balance::Client<'_> {
        mesh_balance::Client {
            network: &self.network,
            elsewhere: if self.across_networks {
                Elsewhere::ByGateway
            } else {
                Elsewhere::Nothing
            },
            workload: self.workload.as_deref(),
            source: self.source,
            avoided: self.avoided.as_deref(),
        }
    }
}

/// How bytes travel to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// As they are.
    Plain,
    /// In a CONNECT tunnel with mutual TLS.
    Hbone {
        /// `:authority` of the CONNECT.
        authority: String,
        /// The identities of which the peer must prove one. Empty: no peer is acceptable.
        expected: Vec<SpiffeId>,
    },
    /// In a CONNECT tunnel within another one, which ends at the gateway of another network
    /// (interop/hbone.md, "Double HBONE").
    DoubleHbone {
        /// `:authority` of both CONNECTs: host name and port of the service.
        authority: String,
        /// The identities of which the gateway must prove one.
        gateway: Vec<SpiffeId>,
        /// The identities of which the peer behind it must prove one.
        expected: Vec<SpiffeId>,
        /// The network that the client is on, which the peer is told.
        from: Arc<str>,
    },
}

impl Transport {
    /// `:authority` of the CONNECT, where there is one.
    pub fn authority(&self) -> Option<&str> {
        match self {
            Self::Plain => None,
            Self::Hbone { authority, .. } | Self::DoubleHbone { authority, .. } => Some(authority),
        }
    }

    /// The identities of which the peer at the far end must prove one; none over plain text.
    pub fn expected(&self) -> &[SpiffeId] {
        match self {
            Self::Plain => &[],
            Self::Hbone { expected, .. } | Self::DoubleHbone { expected, .. } => expected,
        }
    }

    /// The identity that a peer will have proven once it is connected to, for records. Of several
    /// that are acceptable it is not known which one it will be: what was not proven is not claimed.
    pub fn proven(&self) -> Option<&SpiffeId> {
        match self.expected() {
            [identity] => Some(identity),
            _ => None,
        }
    }
}

/// What a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetKind {
    /// The original destination, unknown to the mesh.
    Passthrough,
    /// The workload that serves.
    Endpoint,
    /// A waypoint in front of it.
    Waypoint,
    /// The gateway of the network that it, or the waypoint in front of it, is on.
    NetworkGateway,
}

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where TCP goes: port 15008 of the pod for HBONE, the gateway of another network, else the pod
    /// and its port.
    pub address: SocketAddr,
    /// How.
    pub transport: Transport,
    /// The endpoint, or the waypoint, or the network gateway.
    pub workload: Option<Arc<Workload>>,
    /// The service asked for.
    pub service: Option<Arc<Service>>,
    /// The port of that service that was asked for.
    pub service_port: Option<u16>,
    /// What the target is.
    pub kind: TargetKind,
    /// What the port speaks, as declared.
    pub app_protocol: AppProtocol,
    /// Pod and target port for an endpoint; else the address asked for.
    pub destination: SocketAddr,
}

impl Target {
    /// What tells this endpoint, or this instance of a waypoint, from others in the choice of one.
    pub fn endpoint(&self) -> SocketAddr {
        match self.kind {
            TargetKind::Waypoint | TargetKind::NetworkGateway => self.address,
            TargetKind::Endpoint | TargetKind::Passthrough => self.destination,
        }
    }
}

/// Why nothing is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub reason: Reason,
    /// In words, for the log and for people.
    pub detail: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { reason, detail }
    }
}
