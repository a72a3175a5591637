//! Services: names and virtual addresses in front of workloads.

use crate::{Cidr, GatewayAddress, ServiceName, SpiffeId};
use std::net::IpAddr;
use std::sync::Arc;

/// What a port speaks, as its owner declared it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AppProtocol {
    /// Not declared: detected.
    #[default]
    Unknown,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2, prior knowledge.
    Http2,
    /// gRPC.
    Grpc,
    /// Opaque TCP: never detected, never parsed.
    Tcp,
    /// TLS: passed through.
    Tls,
}

/// One port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// The port clients ask for.
    pub service_port: u16,
    /// The port the workload listens on; 0 means "look at the endpoint's own map".
    pub target_port: u16,
    /// What it speaks.
    pub app_protocol: AppProtocol,
}

/// How far a preference reaches, interop/xds-workload.md section 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RoutingScope {
    /// Same region.
    Region,
    /// Same zone.
    Zone,
    /// Same sub-zone.
    Subzone,
    /// Same node.
    Node,
    /// Same cluster.
    Cluster,
    /// Same network.
    Network,
}

/// What the preferences mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LoadBalancingMode {
    /// No preference.
    #[default]
    Unspecified,
    /// Only endpoints that match every preference.
    Strict,
    /// The endpoints that match the most preferences.
    Failover,
    /// No choice: the original address is used.
    Passthrough,
}

/// Which endpoints count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HealthPolicy {
    /// Healthy ones.
    #[default]
    OnlyHealthy,
    /// All.
    AllowAll,
}

/// Load balancing of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct LoadBalancing {
    /// Preferences, most important first.
    pub preferences: Vec<RoutingScope>,
    /// What they mean.
    pub mode: LoadBalancingMode,
    /// Which endpoints count.
    pub health: HealthPolicy,
}

/// Which address families a service's owner chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum IpFamilies {
    /// Not said: whatever its addresses are.
    #[default]
    Automatic,
    /// IPv4 only.
    V4Only,
    /// IPv6 only.
    V6Only,
    /// Both.
    Dual,
}

impl IpFamilies {
    /// Whether an address of the service, or of an endpoint behind it, is of a family chosen.
    pub const fn allows(self, address: &IpAddr) -> bool {
        match self {
            Self::Automatic | Self::Dual => true,
            Self::V4Only => address.is_ipv4(),
            Self::V6Only => address.is_ipv6(),
        }
    }
}

/// Who may know of a service, interop/xds-workload.md section 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Visibility {
    /// Everyone.
    #[default]
    Public,
    /// Clients of its own namespace; for all others it is not there.
    Namespace,
}

/// A waypoint that takes a share of a service's connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WeightedWaypoint {
    /// Where it is.
    pub destination: GatewayAddress,
    /// Its share, relative to the others.
    pub weight: u32,
}

/// A service. Fields as in interop/xds-workload.md section 5.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `namespace/hostname`, the primary key.
    pub name: ServiceName,
    /// The object's short name.
    pub short_name: Arc<str>,
    /// Virtual addresses, each with the network it belongs to; a range for CIDR services.
    pub vips: Vec<(Arc<str>, Cidr)>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Identities accepted from its endpoints beside those of the workloads.
    pub subject_alt_names: Vec<SpiffeId>,
    /// The waypoint for traffic addressed to the service.
    pub waypoint: Option<GatewayAddress>,
    /// Waypoints by weight; empty when one waypoint, or none, takes all.
    pub weighted_waypoints: Vec<WeightedWaypoint>,
    /// Load balancing.
    pub load_balancing: LoadBalancing,
    /// Preferred over other services of the same host name.
    pub canonical: bool,
    /// Ingress gateways also send through the waypoint.
    pub ingress_use_waypoint: bool,
    /// The address families its owner chose.
    pub ip_families: IpFamilies,
    /// Who may know of it.
    pub visibility: Visibility,
    /// Connections from one address go to one endpoint, as long as the endpoints stay the same.
    pub sticky_by_source: bool,
}

impl Service {
    /// A service with the given key and otherwise default values, to be filled in.
    pub fn new(name: ServiceName, short_name: &str) -> Self {
        Self {
            name,
            short_name: short_name.into(),
            vips: Vec::new(),
            ports: Vec::new(),
            subject_alt_names: Vec::new(),
            waypoint: None,
            weighted_waypoints: Vec::new(),
            load_balancing: LoadBalancing::default(),
            canonical: false,
            ingress_use_waypoint: false,
            ip_families: IpFamilies::Automatic,
            visibility: Visibility::Public,
            sticky_by_source: false,
        }
    }

    /// Whether clients of a namespace may know of it.
    pub fn visible_to(&self, namespace: &str) -> bool {
        self.visibility == Visibility::Public || *self.name.namespace == *namespace
    }

    /// The port with the given service-side number.
    pub fn port(&self, service_port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.service_port == service_port)
    }

    /// The first virtual address of a network.
    pub fn vip(&self, network: &str) -> Option<IpAddr> {
        self.vips
            .iter()
            .find(|(n, _)| &**n == network)
            .map(|(_, c)| c.address())
    }
}
