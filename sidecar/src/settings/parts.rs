//! The settings in the form the program uses.

use mesh_grpc::ChannelSettings;
use mesh_hbone::{PoolSettings, ServerSettings};
use mesh_identity::CertificateSource;
use mesh_l7::{HttpSettings, UpstreamSettings};
use mesh_model::SpiffeId;
use mesh_proxy::{Process, WorkloadInfo};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Which proxy this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// In a pod, beside its application.
    Sidecar,
    /// In front of the services bound to it.
    Waypoint,
    /// Between its network and others: passes on the tunnels within tunnels that come from there.
    NetworkGateway,
}

impl Role {
    /// The name in metrics and spans.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Waypoint => "waypoint",
            Self::NetworkGateway => "network-gateway",
        }
    }
}

/// Everything there is to set.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Where the state of the mesh comes from.
    pub(crate) source: mesh_discovery::Source,
    /// Where the certificate comes from.
    pub(crate) certificates: CertificateSource,
    /// Where spans go.
    pub(crate) tracing: Option<ChannelSettings>,
    /// Share of the traces begun here that are recorded.
    pub(crate) trace_sample_ratio: f64,
    /// What connections need.
    pub(crate) proxy: Proxy,
    /// The process itself.
    pub(crate) process: Process,
}

/// What the data path needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    /// Which proxy this is.
    pub(crate) role: Role,
    /// Which workload it is.
    pub(crate) info: WorkloadInfo,
    /// As whom it speaks.
    pub(crate) identity: SpiffeId,
    /// Its network.
    pub(crate) network: Arc<str>,
    /// Address the listeners bind.
    pub(crate) bind: IpAddr,
    /// Mark on our own packets.
    pub(crate) mark: Option<u32>,
    /// Bound on connections.
    pub(crate) connections_max: usize,
    /// Patience with a silent client.
    pub(crate) detect_grace: Duration,
    /// Tunnels we open.
    pub(crate) pool: PoolSettings,
    /// Tunnels we take.
    pub(crate) server: ServerSettings,
    /// HTTP we take.
    pub(crate) http: HttpSettings,
    /// HTTP we send.
    pub(crate) upstream: UpstreamSettings,
}
