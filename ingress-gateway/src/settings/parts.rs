//! The settings in the form the program uses, and the texts they are read from.

use mesh_grpc::{ChannelSettings, TextSource};
use mesh_hbone::PoolSettings;
use mesh_identity::CertificateSource;
use mesh_model::{ObjectName, SpiffeId};
use mesh_telemetry::LogFormat;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

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
    /// How long connections run on after SIGTERM.
    pub(crate) drain_deadline: Duration,
    /// Worker threads.
    pub(crate) workers: usize,
    /// Admin pages.
    pub(crate) admin_address: SocketAddr,
    /// Metrics.
    pub(crate) metrics_address: SocketAddr,
    /// Readiness.
    pub(crate) readiness_address: SocketAddr,
    /// Log filter.
    pub(crate) log_filter: String,
    /// Log format.
    pub(crate) log_format: LogFormat,
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
}

/// Reads `500ms`, `10s`, `5m`, `24h`; a bare number is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is not a duration such as 500ms, 10s, 5m or 24h");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let seconds = |factor: u64| number.checked_mul(factor).ok_or_else(bad);
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(seconds(60)?)),
        "h" => Ok(Duration::from_secs(seconds(3600)?)),
        _ => Err(bad()),
    }
}

/// A text given as itself or as the path of a file: paths begin with `/` or `.`.
pub(super) fn text_source(text: &str) -> TextSource {
    if text.starts_with(['/', '.']) {
        TextSource::File(text.into())
    } else {
        TextSource::Literal(text.into())
    }
}

/// Charts of other meshes write addresses without a scheme.
pub(super) fn with_scheme(address: &str) -> String {
    if address.contains("://") {
        address.into()
    } else {
        format!("https://{address}")
    }
}
