//! Flags and environment: the only reader of both. All mistakes are reported at once.

mod parts;

pub(crate) use parts::{Certificates, Limits, PodSource, Proxy, Settings, WorkloadInfo};

use clap::Parser;
use mesh_hbone::{KeepAlive, PoolSettings, ServerSettings, Windows};
use mesh_model::{PACKET_MARK, SpiffeId, TRUST_DOMAIN_DEFAULT};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// What runs: a node's pods, or one workload by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// One process for every pod of the node, each in its own network namespace.
    Shared,
    /// One workload in the current network namespace, for tests and stand-alone use.
    Dedicated,
}

/// Flags and environment as given. Names follow interop/migrate.md section 2.
#[derive(Debug, Parser)]
#[command(
    name = "ztunnel",
    version,
    about = "Node proxy: L4 mutual TLS for every pod on the node"
)]
pub(crate) struct Flags {
    /// Watched folder, one YAML file a pod: {uid, name, namespace, serviceAccount, netns}.
    #[arg(long, env = "ZTUNNEL_PODS", value_name = "DIR")]
    pods: Option<PathBuf>,
    /// `shared` for a node, `dedicated` for one workload in the current network namespace.
    #[arg(long, env = "PROXY_MODE", value_enum, default_value = "shared")]
    mode: Mode,
    /// The workload of dedicated mode: namespace/pod/service-account.
    #[arg(long, env = "PROXY_WORKLOAD_INFO", value_name = "NS/POD/SA")]
    workload: Option<String>,
    /// Workloads, services and policies from a YAML file instead of a control plane.
    #[arg(long, env = "LOCAL_XDS_PATH", value_name = "FILE")]
    local_xds: Option<PathBuf>,
    /// Sign certificates in this process: only workloads of the same process trust each other.
    #[arg(long, env = "FAKE_CA", default_value_t = false, action = clap::ArgAction::Set)]
    fake_ca: bool,

    /// Address of the control plane.
    #[arg(
        long,
        env = "XDS_ADDRESS",
        default_value = "https://mesh-control.strata-system.svc:15012"
    )]
    xds_address: String,
    /// PEM root of the control plane: a file, or the text itself.
    #[arg(
        long,
        env = "XDS_ROOT_CA",
        default_value = "/var/run/secrets/istio/root-cert.pem"
    )]
    xds_root: String,
    /// Name the control plane's certificate must carry, when not the address's host.
    #[arg(long, env = "ALT_XDS_HOSTNAME")]
    xds_server_name: Option<String>,
    /// Address of the certificate authority.
    #[arg(
        long,
        env = "CA_ADDRESS",
        default_value = "https://mesh-ca.strata-system.svc:15012"
    )]
    ca_address: String,
    /// PEM root of the certificate authority: a file, or the text itself.
    #[arg(
        long,
        env = "CA_ROOT_CA",
        default_value = "/var/run/secrets/istio/root-cert.pem"
    )]
    ca_root: String,
    /// Name the certificate authority's certificate must carry, when not the address's host.
    #[arg(long, env = "ALT_CA_HOSTNAME")]
    ca_server_name: Option<String>,
    /// Bearer token of both: a file, or the text itself.
    #[arg(
        long,
        env = "AUTH_TOKEN",
        default_value = "/var/run/secrets/tokens/istio-token",
        hide_env_values = true
    )]
    auth_token: String,
    /// Lifetime asked of certificates.
    #[arg(long, env = "SECRET_TTL", default_value = "24h", value_parser = parts::duration)]
    secret_ttl: Duration,

    /// Cluster; sent to the control plane and the certificate authority.
    #[arg(long, env = "ISTIO_META_CLUSTER_ID")]
    cluster_id: Option<String>,
    /// Cluster, under its other name.
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes")]
    cluster: String,
    /// The node this runs on.
    #[arg(long, env = "NODE_NAME", default_value = "")]
    node_name: String,
    /// This pod's name.
    #[arg(long, env = "POD_NAME", default_value = "ztunnel")]
    pod_name: String,
    /// This pod's namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "strata-system")]
    pod_namespace: String,
    /// This pod's service account.
    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "ztunnel")]
    service_account: String,
    /// This pod's address.
    #[arg(long, env = "INSTANCE_IP", default_value = "127.0.0.1")]
    instance_ip: IpAddr,
    /// Trust domain of the pods of this node.
    #[arg(long, env = "TRUST_DOMAIN", default_value = TRUST_DOMAIN_DEFAULT)]
    trust_domain: String,
    /// Network of this node; empty on a mesh of one network.
    #[arg(long, env = "NETWORK", default_value = "")]
    network: String,

    /// Log filter.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log_filter: String,
    /// Log format: plain or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "plain")]
    log_format: String,
    /// Worker threads for connections.
    #[arg(long, env = "ZTUNNEL_WORKER_THREADS")]
    worker_threads: Option<usize>,
    /// Mark on our own packets; in dedicated mode none unless given.
    #[arg(long, env = "PACKET_MARK")]
    packet_mark: Option<u32>,
    /// The pod's grace period, seconds: connections get 5 s less.
    #[arg(long, env = "TERMINATION_GRACE_PERIOD_SECONDS")]
    termination_grace_s: Option<u64>,
    /// How long connections may run on after SIGTERM.
    #[arg(long, env = "CONNECTION_TERMINATION_DEADLINE", value_parser = parts::duration)]
    termination_deadline: Option<Duration>,

    /// Connect to applications from the client's address.
    #[arg(long, env = "ENABLE_ORIG_SRC", default_value_t = true, action = clap::ArgAction::Set)]
    original_source: bool,
    /// Tell clients about the destination workload.
    #[arg(
        long,
        env = "ENABLE_RESPONSE_BAGGAGE",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    response_baggage: bool,
    /// Address the pods' listeners bind: `::` takes both families, and falls back to IPv4.
    #[arg(long, env = "BIND_ADDRESS", default_value_t = IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
    bind_address: IpAddr,
    /// Connections of one pod, each direction's and tunnels counted; past it they are refused.
    #[arg(long, env = "CONNECTIONS_PER_POD_MAX", default_value_t = 16_384)]
    pod_connections_max: usize,
    /// Connections of the process; past it they are refused.
    #[arg(long, env = "CONNECTIONS_MAX", default_value_t = 65_536)]
    connections_max: usize,
    /// Streams we put on one tunnel.
    #[arg(long, env = "POOL_MAX_STREAMS_PER_CONNECTION", default_value_t = 100)]
    pool_streams_max: usize,
    /// A tunnel without streams is closed after this time.
    #[arg(
        long,
        env = "POOL_UNUSED_RELEASE_TIMEOUT",
        default_value = "5m",
        value_parser = parts::duration
    )]
    pool_idle_release: Duration,
    /// HTTP/2 window of a stream, bytes.
    #[arg(long, env = "HTTP2_STREAM_WINDOW_SIZE", default_value_t = 4 << 20)]
    stream_window_bytes: u32,
    /// HTTP/2 window of a tunnel, bytes.
    #[arg(long, env = "HTTP2_CONNECTION_WINDOW_SIZE", default_value_t = 16 << 20)]
    connection_window_bytes: u32,
    /// Largest HTTP/2 frame accepted, bytes.
    #[arg(long, env = "HTTP2_FRAME_SIZE", default_value_t = 1 << 20)]
    frame_bytes_max: u32,

    /// Admin pages.
    #[arg(long, env = "ADMIN_ADDR", default_value = "127.0.0.1:15000")]
    admin_address: SocketAddr,
    /// Metrics.
    #[arg(long, env = "STATS_ADDR", default_value = "0.0.0.0:15020")]
    metrics_address: SocketAddr,
    /// Readiness.
    #[arg(long, env = "READINESS_ADDR", default_value = "0.0.0.0:15021")]
    readiness_address: SocketAddr,
}

impl Flags {
    /// Turns what was given into what is used.
    ///
    /// # Errors
    /// Every mistake found, one a line.
    pub(crate) fn check(self) -> anyhow::Result<Settings> {
        let mut mistakes = Vec::new();
        let pods = self.pod_source(&mut mistakes);
        let certificates = self.certificates(&mut mistakes);
        if SpiffeId::new(&self.trust_domain, "a", "b").is_err() {
            mistakes.push(format!(
                "TRUST_DOMAIN '{}' is no trust domain",
                self.trust_domain
            ));
        }
        let log_format = self.log_format.parse().unwrap_or_else(|e| {
            mistakes.push(format!("LOG_FORMAT: {e}"));
            mesh_telemetry::LogFormat::default()
        });
        let windows = self.windows(&mut mistakes);
        let (Some(pods), Some(certificates)) = (pods, certificates) else {
            anyhow::bail!("{}", mistakes.join("\n"));
        };
        if !mistakes.is_empty() {
            anyhow::bail!("{}", mistakes.join("\n"));
        }
        Ok(Settings {
            source: self.source(),
            proxy: self.proxy(&pods, windows),
            limits: Limits {
                pod_connections_max: self.pod_connections_max,
                connections_max: self.connections_max,
            },
            drain_deadline: self.drain_deadline(),
            workers: self
                .worker_threads
                .unwrap_or_else(mesh_runtime::workers_default),
            admin_address: self.admin_address,
            metrics_address: self.metrics_address,
            readiness_address: self.readiness_address,
            log_filter: self.log_filter,
            log_format,
            pods,
            certificates,
        })
    }

    fn pod_source(&self, mistakes: &mut Vec<String>) -> Option<PodSource> {
        match (self.mode, &self.pods, &self.workload) {
            (Mode::Shared, Some(folder), None) => Some(PodSource::Folder(folder.clone())),
            (Mode::Dedicated, None, Some(text)) => match text.parse() {
                Ok(workload) => Some(PodSource::Dedicated(workload)),
                Err(why) => {
                    mistakes.push(format!("PROXY_WORKLOAD_INFO: {why}"));
                    None
                }
            },
            (Mode::Shared, None, _) => {
                mistakes.push("--pods DIR is needed in shared mode".into());
                None
            }
            (Mode::Shared, _, Some(_)) => {
                mistakes.push("PROXY_WORKLOAD_INFO is for PROXY_MODE=dedicated".into());
                None
            }
            (Mode::Dedicated, Some(_), _) => {
                mistakes.push("--pods is for PROXY_MODE=shared".into());
                None
            }
            (Mode::Dedicated, None, None) => {
                mistakes.push("PROXY_WORKLOAD_INFO is needed in dedicated mode".into());
                None
            }
        }
    }

    /// A certificate of a throw-away root protects nothing, so it must be asked for by name and
    /// is refused on a node.
    fn certificates(&self, mistakes: &mut Vec<String>) -> Option<Certificates> {
        match (self.fake_ca, self.mode) {
            (true, Mode::Shared) => {
                mistakes.push("FAKE_CA=true is for PROXY_MODE=dedicated only".into());
                None
            }
            (true, Mode::Dedicated) => Some(Certificates::SelfSigned),
            (false, mode) => Some(Certificates::Ca {
                channel: self.channel(&self.ca_address, &self.ca_root, &self.ca_server_name),
                impersonate: mode == Mode::Shared,
                ttl: self.secret_ttl,
            }),
        }
    }

    fn windows(&self, mistakes: &mut Vec<String>) -> Windows {
        if self.connection_window_bytes < self.stream_window_bytes {
            mistakes.push(
                "HTTP2_CONNECTION_WINDOW_SIZE must not be below HTTP2_STREAM_WINDOW_SIZE".into(),
            );
        }
        if !(1 << 14..1 << 24).contains(&self.frame_bytes_max) {
            mistakes.push("HTTP2_FRAME_SIZE must be from 16384 to 16777215".into());
        }
        Windows {
            stream_bytes: self.stream_window_bytes,
            connection_bytes: self.connection_window_bytes,
            frame_bytes_max: self.frame_bytes_max,
            ..Windows::default()
        }
    }

    fn source(&self) -> mesh_discovery::Source {
        if let Some(path) = &self.local_xds {
            return mesh_discovery::Source::LocalFile(path.clone());
        }
        mesh_discovery::Source::Xds {
            channel: self.channel(&self.xds_address, &self.xds_root, &self.xds_server_name),
            node: mesh_discovery::NodeInfo {
                role: mesh_discovery::Role::Ztunnel,
                ip: self.instance_ip.to_string(),
                pod: self.pod_name.clone(),
                namespace: self.pod_namespace.clone(),
                service_account: self.service_account.clone(),
                node: self.node_name.clone(),
                cluster: self.cluster().into(),
                network: self.network.clone(),
            },
            kinds: mesh_discovery::codec::TYPES_L4.to_vec(),
        }
    }

    fn channel(
        &self,
        address: &str,
        root: &str,
        server_name: &Option<String>,
    ) -> mesh_grpc::ChannelSettings {
        mesh_grpc::ChannelSettings {
            address: parts::with_scheme(address),
            root: Some(parts::text_source(root)),
            server_name: server_name.clone(),
            token: Some(parts::text_source(&self.auth_token)),
            metadata: vec![("clusterid".into(), self.cluster().into())],
            mark: None,
        }
    }

    fn cluster(&self) -> &str {
        self.cluster_id.as_deref().unwrap_or(&self.cluster)
    }

    fn proxy(&self, pods: &PodSource, windows: Windows) -> Proxy {
        let mark = match pods {
            PodSource::Folder(_) => Some(self.packet_mark.unwrap_or(PACKET_MARK)),
            // There is no redirection to stay clear of, and a mark needs a privilege.
            PodSource::Dedicated(_) => self.packet_mark,
        };
        Proxy {
            bind: self.bind_address,
            mark,
            original_source: self.original_source,
            response_baggage: self.response_baggage,
            node_name: self.node_name.as_str().into(),
            network: self.network.as_str().into(),
            trust_domain: self.trust_domain.as_str().into(),
            pool: PoolSettings {
                streams_max: self.pool_streams_max,
                idle_release: self.pool_idle_release,
                connections_max: self.pod_connections_max,
                windows,
                keep_alive: KeepAlive::default(),
                ..PoolSettings::default()
            },
            server: ServerSettings {
                windows,
                ..ServerSettings::default()
            },
        }
    }

    /// `CONNECTION_TERMINATION_DEADLINE`, else the grace period less 5 s, else 5 s
    /// (interop/hbone.md, "Drain").
    fn drain_deadline(&self) -> Duration {
        const MARGIN: Duration = Duration::from_secs(5);
        self.termination_deadline.unwrap_or_else(|| {
            self.termination_grace_s
                .map_or(MARGIN, |s| Duration::from_secs(s).saturating_sub(MARGIN))
        })
    }
}

#[cfg(test)]
mod tests;
