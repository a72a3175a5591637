//! The settings in the form the program uses.

use mesh_grpc::ChannelSettings;
use mesh_hbone::PoolSettings;
use mesh_identity::CertificateSource;
use mesh_model::{ObjectName, SpiffeId};
use mesh_proxy::Process;
use mesh_tls::KeyExchange;
use std::net::IpAddr;
use std::sync::Arc;

/// Everything there is to set.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Where the state of the mesh comes from.
    pub(crate) source: mesh_discovery::Source,
    /// Where the certificate comes from.
    pub(crate) certificates: CertificateSource,
    /// Where traces go.
    pub(crate) tracing: Option<ChannelSettings>,
    /// What connections need.
    pub(crate) edge: Edge,
    /// The process itself.
    pub(crate) process: Process,
}

/// What the data path needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Edge {
    /// The Gateway served.
    pub(crate) gateway: ObjectName,
    /// Who we are within the mesh.
    pub(crate) identity: SpiffeId,
    /// Our pod.
    pub(crate) pod_name: Arc<str>,
    /// Our address.
    pub(crate) instance_ip: IpAddr,
    /// Our network, until the control plane has told.
    pub(crate) network: Arc<str>,
    /// Address the listeners bind.
    pub(crate) bind: IpAddr,
    /// Mark on our own packets.
    pub(crate) mark: Option<u32>,
    /// Client connections at once on one worker.
    pub(crate) worker_connections_max: usize,
    /// Tunnels we open.
    pub(crate) pool: PoolSettings,
    /// Key exchanges that HTTPS listeners take.
    pub(crate) key_exchange: KeyExchange,
}
