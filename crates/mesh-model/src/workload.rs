//! Workloads: what runs behind an address.

use crate::{NetworkAddress, ObjectName, ServiceName, ServicePort, SpiffeId};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// The primary key of a workload, such as `Kubernetes//Pod/demo/reviews-v1`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid(pub Arc<str>);

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a workload is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TunnelProtocol {
    /// Plain TCP.
    None,
    /// HTTP/2 CONNECT in mutual TLS on port 15008.
    Hbone,
}

/// Whether a workload takes traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// Ready.
    Healthy,
    /// Not ready, or being deleted; it stays known so that inbound traffic still works.
    Unhealthy,
}

/// Whether a workload has a network of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NetworkMode {
    /// Its own network namespace.
    Standard,
    /// The host's: never found by address.
    HostNetwork,
}

/// Where a workload runs, widest first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Locality {
    /// Region.
    pub region: Arc<str>,
    /// Zone within the region.
    pub zone: Arc<str>,
    /// Sub-zone within the zone.
    pub subzone: Arc<str>,
}

/// How the proxy in front of a workload hands over connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ApplicationTunnel {
    /// PROXY protocol v2 is written before the bytes.
    pub proxy_protocol: bool,
    /// The port to connect to, when not the one asked for.
    pub port: Option<u16>,
}

/// Where a waypoint or network gateway is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GatewayAddress {
    /// By name or by address.
    pub destination: GatewayDestination,
    /// Port of HBONE on it.
    pub hbone_port: u16,
}

/// The two ways to name a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GatewayDestination {
    /// A service.
    Hostname(ServiceName),
    /// A service address or a workload address.
    Address(NetworkAddress),
}

/// One pod, WorkloadEntry or endpoint. Fields as in interop/xds-workload.md section 5.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Primary key.
    pub uid: WorkloadUid,
    /// Pod name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Addresses, in order of preference.
    pub addresses: Vec<IpAddr>,
    /// A DNS name to resolve when there is no address.
    pub hostname: Option<Arc<str>>,
    /// The network the addresses belong to.
    pub network: Arc<str>,
    /// How to reach it.
    pub protocol: TunnelProtocol,
    /// Trust domain of its identity.
    pub trust_domain: Arc<str>,
    /// Service account of its identity.
    pub service_account: Arc<str>,
    /// The waypoint for traffic addressed to the workload itself.
    pub waypoint: Option<GatewayAddress>,
    /// The gateway through which a workload on another network is reached.
    pub network_gateway: Option<GatewayAddress>,
    /// The node it runs on.
    pub node: Arc<str>,
    /// Canonical service name, for telemetry.
    pub canonical_name: Arc<str>,
    /// Canonical revision, for telemetry.
    pub canonical_revision: Arc<str>,
    /// `deployment`, `cronjob`, `pod` or `job`.
    pub workload_type: &'static str,
    /// Name of the owner, for telemetry.
    pub workload_name: Arc<str>,
    /// The workload speaks HBONE by itself (a sidecar, waypoint or gateway).
    pub native_tunnel: bool,
    /// How connections are handed to it.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// The services it is an endpoint of, with the ports it serves of each.
    pub services: BTreeMap<ServiceName, Vec<ServicePort>>,
    /// The selector policies that apply to it.
    pub authorization_policies: Vec<ObjectName>,
    /// Health.
    pub health: Health,
    /// Cluster.
    pub cluster: Arc<str>,
    /// Locality.
    pub locality: Locality,
    /// Network mode.
    pub network_mode: NetworkMode,
    /// Weight among the endpoints of a service, at least 1.
    pub capacity: u32,
    /// Its connections are encrypted even between pods of one node.
    pub encrypt_same_node: bool,
}

impl Workload {
    /// A workload with the given key and otherwise default values, to be filled in.
    pub fn new(uid: &str, namespace: &str, name: &str) -> Self {
        Self {
            uid: WorkloadUid(uid.into()),
            name: name.into(),
            namespace: namespace.into(),
            addresses: Vec::new(),
            hostname: None,
            network: "".into(),
            protocol: TunnelProtocol::None,
            trust_domain: crate::TRUST_DOMAIN_DEFAULT.into(),
            service_account: "default".into(),
            waypoint: None,
            network_gateway: None,
            node: "".into(),
            canonical_name: name.into(),
            canonical_revision: "latest".into(),
            workload_type: "pod",
            workload_name: name.into(),
            native_tunnel: false,
            application_tunnel: None,
            services: BTreeMap::new(),
            authorization_policies: Vec::new(),
            health: Health::Healthy,
            cluster: "Kubernetes".into(),
            locality: Locality::default(),
            network_mode: NetworkMode::Standard,
            capacity: 1,
            encrypt_same_node: false,
        }
    }

    /// The identity its certificate carries, when its parts are valid.
    pub fn identity(&self) -> Option<SpiffeId> {
        let parts = [&self.trust_domain, &self.namespace, &self.service_account];
        let [trust_domain, namespace, account] = parts.map(Arc::clone);
        SpiffeId::shared(trust_domain, namespace, account).ok()
    }

    /// Its name as an object.
    pub fn object_name(&self) -> ObjectName {
        ObjectName::new(self.namespace.clone(), self.name.clone())
    }

    /// The first address.
    pub fn address(&self) -> Option<IpAddr> {
        self.addresses.first().copied()
    }
}
