//! The settings in the form the program uses, and the texts they are read from.

use mesh_grpc::{ChannelSettings, TextSource};
use mesh_hbone::{PoolSettings, ServerSettings};
use mesh_telemetry::LogFormat;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Everything there is to set.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Which pods there are.
    pub(crate) pods: PodSource,
    /// Where the state of the mesh comes from.
    pub(crate) source: mesh_discovery::Source,
    /// Where certificates come from.
    pub(crate) certificates: Certificates,
    /// What connections need.
    pub(crate) proxy: Proxy,
    /// Bounds.
    pub(crate) limits: Limits,
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

/// Which pods there are.
#[derive(Debug, Clone)]
pub(crate) enum PodSource {
    /// One file a pod.
    Folder(PathBuf),
    /// One workload, in the current network namespace.
    Dedicated(WorkloadInfo),
}

/// Where certificates come from.
#[derive(Debug, Clone)]
pub(crate) enum Certificates {
    /// A certificate authority.
    Ca {
        /// How to reach it.
        channel: ChannelSettings,
        /// Ask in the pods' names.
        impersonate: bool,
        /// Lifetime asked for.
        ttl: Duration,
    },
    /// This process (`FAKE_CA`).
    SelfSigned,
}

/// What the data path needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    /// Address the pods' listeners bind.
    pub(crate) bind: IpAddr,
    /// Mark on our own packets.
    pub(crate) mark: Option<u32>,
    /// Connect to applications from the client's address.
    pub(crate) original_source: bool,
    /// Tell clients about the destination workload.
    pub(crate) response_baggage: bool,
    /// The node whose workloads are ours; empty: any.
    pub(crate) node_name: Arc<str>,
    /// Our network.
    pub(crate) network: Arc<str>,
    /// Trust domain of the pods of this node, until the control plane has told.
    pub(crate) trust_domain: Arc<str>,
    /// Tunnels we open.
    pub(crate) pool: PoolSettings,
    /// Tunnels we take.
    pub(crate) server: ServerSettings,
}

/// Bounds on connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Of one pod.
    pub(crate) pod_connections_max: usize,
    /// Of the process.
    pub(crate) connections_max: usize,
}

/// A workload as it is looked up: interop/xds-workload.md section 7.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct WorkloadInfo {
    /// Namespace.
    pub(crate) namespace: Arc<str>,
    /// Pod name.
    pub(crate) name: Arc<str>,
    /// Service account.
    pub(crate) service_account: Arc<str>,
}

impl FromStr for WorkloadInfo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split('/').collect::<Vec<_>>().as_slice() {
            [namespace, name, account]
                if [namespace, name, account].iter().all(|p| !p.is_empty()) =>
            {
                Ok(Self {
                    namespace: (*namespace).into(),
                    name: (*name).into(),
                    service_account: (*account).into(),
                })
            }
            _ => Err(format!(
                "'{text}' is not of the form namespace/pod/service-account"
            )),
        }
    }
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
