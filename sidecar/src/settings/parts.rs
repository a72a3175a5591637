//! The settings in the form the program uses, and the texts they are read from.

use mesh_grpc::{ChannelSettings, TextSource};
use mesh_hbone::{PoolSettings, ServerSettings};
use mesh_identity::CertificateSource;
use mesh_l7::{HttpSettings, UpstreamSettings};
use mesh_model::SpiffeId;
use mesh_telemetry::LogFormat;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Which proxy this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// In a pod, beside its application.
    Sidecar,
    /// In front of the services bound to it.
    Waypoint,
}

impl Role {
    /// The name in metrics and spans.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Waypoint => "waypoint",
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
    /// How long connections run on after SIGTERM.
    pub(crate) drain_deadline: Duration,
    /// Worker threads.
    pub(crate) workers: usize,
    /// Admin pages.
    pub(crate) addresses: Addresses,
    /// Log filter.
    pub(crate) log_filter: String,
    /// Log format.
    pub(crate) log_format: LogFormat,
}

/// Where the admin pages are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// `/config_dump`, `/debug/connections`, …
    pub(crate) admin: SocketAddr,
    /// `/metrics`, `/stats/prometheus`.
    pub(crate) metrics: SocketAddr,
    /// `/healthz/ready`.
    pub(crate) readiness: SocketAddr,
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

/// A workload as it is looked up: interop/xds-workload.md section 7.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkloadInfo {
    /// Namespace.
    pub(crate) namespace: Arc<str>,
    /// Pod name.
    pub(crate) name: Arc<str>,
    /// Service account.
    pub(crate) service_account: Arc<str>,
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

/// Istio's charts write addresses without a scheme.
pub(super) fn with_scheme(address: &str) -> String {
    if address.contains("://") {
        address.into()
    } else {
        format!("https://{address}")
    }
}
