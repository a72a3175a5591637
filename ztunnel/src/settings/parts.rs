//! The settings in the form the program uses.

use mesh_hbone::{PoolSettings, ServerSettings};
use mesh_identity::CertificateSource;
use mesh_proxy::{Process, WorkloadInfo};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// Everything there is to set.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Which pods there are.
    pub(crate) pods: PodSource,
    /// Where the state of the mesh comes from.
    pub(crate) source: mesh_discovery::Source,
    /// Where certificates come from.
    pub(crate) certificates: CertificateSource,
    /// What connections need.
    pub(crate) proxy: Proxy,
    /// Bounds.
    pub(crate) limits: Limits,
    /// The process itself.
    pub(crate) process: Process,
}

/// Which pods there are.
#[derive(Debug, Clone)]
pub(crate) enum PodSource {
    /// One file a pod.
    Folder(PathBuf),
    /// The node agent, at its socket.
    Agent(PathBuf),
    /// One workload, in the current network namespace.
    Dedicated(WorkloadInfo),
}

/// What the data path needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    /// Address the pods' listeners bind.
    pub(crate) bind: IpAddr,
    /// Let another proxy of this user listen on the same ports of a pod, as during an upgrade.
    pub(crate) port_reuse: bool,
    /// Mark on our own packets.
    pub(crate) mark: Option<u32>,
    /// Connect to applications from the client's address.
    pub(crate) original_source: bool,
    /// Applications that are told who connects are on loopback.
    pub(crate) app_tunnel_on_loopback: bool,
    /// Carry connections between two pods of this process without TLS.
    pub(crate) same_node: bool,
    /// Tell clients about the destination workload.
    pub(crate) response_baggage: bool,
    /// Log at INFO which policy matched.
    pub(crate) policy_info_logging: bool,
    /// The node whose workloads are ours; empty: any.
    pub(crate) node_name: Arc<str>,
    /// Our network.
    pub(crate) network: Arc<str>,
    /// Trust domain of the pods of this node, until the control plane has told.
    pub(crate) trust_domain: Arc<str>,
    /// DNS of the pods.
    pub(crate) dns: Dns,
    /// Tunnels we open.
    pub(crate) pool: PoolSettings,
    /// Tunnels we take.
    pub(crate) server: ServerSettings,
}

/// DNS of the pods (docs/dns.md).
#[derive(Debug, Clone)]
pub(crate) struct Dns {
    /// Whether it is served.
    pub(crate) capture: bool,
    /// Where, in each pod's namespace.
    pub(crate) listen: Vec<SocketAddr>,
    /// How names of the mesh are found.
    pub(crate) zone: Arc<mesh_dns::Zone>,
    /// Who is asked for all others.
    pub(crate) servers: Vec<SocketAddr>,
}

/// Bounds on connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Of one pod.
    pub(crate) pod_connections_max: usize,
    /// Of the process.
    pub(crate) connections_max: usize,
}
