//! Flags and environment: the only reader of both. All mistakes are reported at once.

mod parts;

pub(crate) use parts::{Addresses, Proxy, Role, Settings, WorkloadInfo};

use crate::{app, init};
use clap::Parser;
use mesh_grpc::ChannelSettings;
use mesh_identity::CertificateSource;
use mesh_l7::{HttpSettings, UpstreamSettings};
use mesh_model::{PACKET_MARK, SpiffeId, TRUST_DOMAIN_DEFAULT};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The program's command line.
#[derive(Debug, Parser)]
#[command(
    name = "sidecar",
    version,
    about = "Per-pod proxy, L4 and L7 both ways; also the waypoint",
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Command {
    #[command(subcommand)]
    task: Option<Task>,
    #[command(flatten)]
    flags: Flags,
}

/// What the program does beside being a proxy.
#[derive(Debug, clap::Subcommand)]
enum Task {
    /// Set up the redirection of the current network namespace, then exit.
    Init(Box<init::Flags>),
}

impl Command {
    /// Does what was asked for.
    ///
    /// # Errors
    /// Mistakes in the settings, or why the proxy did not come up.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.task {
            Some(Task::Init(flags)) => init::run(&flags),
            None => app::run(self.flags.check()?),
        }
    }
}

/// Flags and environment as given. Names follow interop/migrate.md section 2.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// `sidecar` in a pod, `waypoint` in front of services.
    #[arg(long, env = "PROXY_ROLE", value_enum, default_value = "sidecar")]
    role: Role,
    /// Workloads, services and policies from a YAML file instead of a control plane.
    #[arg(long, env = "LOCAL_XDS_PATH", value_name = "FILE")]
    local_xds: Option<PathBuf>,
    /// Sign certificates in this process: nobody else trusts them. For trials of one proxy.
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
    /// Lifetime asked of the certificate.
    #[arg(long, env = "SECRET_TTL", default_value = "24h", value_parser = parts::duration)]
    secret_ttl: Duration,
    /// Collector of request spans, OTLP over gRPC; none: no spans.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// Share of the traces begun here that are recorded, 0 to 1.
    #[arg(long, env = "TRACE_SAMPLE_RATIO", default_value_t = 1.0)]
    trace_sample_ratio: f64,

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
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
    /// This pod's namespace.
    #[arg(long, env = "POD_NAMESPACE")]
    pod_namespace: Option<String>,
    /// This pod's service account.
    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "default")]
    service_account: String,
    /// This pod's address.
    #[arg(long, env = "INSTANCE_IP", default_value = "127.0.0.1")]
    instance_ip: IpAddr,
    /// Trust domain of this pod.
    #[arg(long, env = "TRUST_DOMAIN", default_value = TRUST_DOMAIN_DEFAULT)]
    trust_domain: String,
    /// Network of this pod; empty on a mesh of one network.
    #[arg(long, env = "NETWORK", default_value = "")]
    network: String,

    /// Log filter.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log_filter: String,
    /// Log format: plain or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "plain")]
    log_format: String,
    /// Worker threads for connections.
    #[arg(long, env = "WORKER_THREADS")]
    worker_threads: Option<usize>,
    /// Mark on our own packets; a waypoint sets none unless told.
    #[arg(long, env = "PACKET_MARK")]
    packet_mark: Option<u32>,
    /// Set no mark, which needs a privilege: for a sidecar without redirection.
    #[arg(long, env = "PACKET_MARK_OFF", default_value_t = false, action = clap::ArgAction::Set)]
    packet_mark_off: bool,
    /// The pod's grace period, seconds: connections get 5 s less.
    #[arg(long, env = "TERMINATION_GRACE_PERIOD_SECONDS")]
    termination_grace_s: Option<u64>,
    /// How long connections may run on after SIGTERM.
    #[arg(long, env = "CONNECTION_TERMINATION_DEADLINE", value_parser = parts::duration)]
    termination_deadline: Option<Duration>,

    /// Address the traffic listeners bind: `::` takes both families, and falls back to IPv4.
    #[arg(long, env = "BIND_ADDRESS", default_value_t = IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
    bind_address: IpAddr,
    /// Connections of the process, tunnelled ones counted; past it they are refused.
    #[arg(long, env = "CONNECTIONS_MAX", default_value_t = 16_384)]
    connections_max: usize,
    /// How long a client may be silent before the server is asked whether it speaks first.
    #[arg(
        long,
        env = "DETECT_GRACE",
        default_value = "1ms",
        value_parser = parts::duration
    )]
    detect_grace: Duration,
    /// An HTTP connection without a request is closed after this time.
    #[arg(
        long,
        env = "HTTP_IDLE_TIMEOUT",
        default_value = "5m",
        value_parser = parts::duration
    )]
    http_idle_timeout: Duration,
    /// How long the head of a request may take.
    #[arg(
        long,
        env = "HTTP_HEADER_TIMEOUT",
        default_value = "10s",
        value_parser = parts::duration
    )]
    http_header_timeout: Duration,
    /// Bytes of the head of a request.
    #[arg(long, env = "HTTP_HEADER_BYTES_MAX", default_value_t = 64 * 1024)]
    http_header_bytes_max: usize,

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
        let info = self.info(&mut mistakes);
        let identity = SpiffeId::new(&self.trust_domain, &info.namespace, &info.service_account);
        let identity = identity
            .map_err(|e| mistakes.push(format!("identity: {e}")))
            .ok();
        let log_format = self.log_format.parse().unwrap_or_else(|e| {
            mistakes.push(format!("LOG_FORMAT: {e}"));
            mesh_telemetry::LogFormat::default()
        });
        if !(0.0..=1.0).contains(&self.trace_sample_ratio) {
            mistakes.push("TRACE_SAMPLE_RATIO must be from 0 to 1".into());
        }
        if !(8 * 1024..=1 << 20).contains(&self.http_header_bytes_max) {
            mistakes.push("HTTP_HEADER_BYTES_MAX must be from 8192 to 1048576".into());
        }
        let (Some(identity), true) = (identity, mistakes.is_empty()) else {
            anyhow::bail!("{}", mistakes.join("\n"));
        };
        Ok(Settings {
            source: self.source(&info),
            certificates: self.certificates(),
            tracing: self
                .otlp_endpoint
                .as_deref()
                .filter(|e| !e.is_empty())
                .map(|e| self.collector(e)),
            trace_sample_ratio: self.trace_sample_ratio,
            proxy: self.proxy(info, identity),
            drain_deadline: self.drain_deadline(),
            workers: self
                .worker_threads
                .unwrap_or_else(mesh_runtime::workers_default),
            addresses: Addresses {
                admin: self.admin_address,
                metrics: self.metrics_address,
                readiness: self.readiness_address,
            },
            log_filter: self.log_filter,
            log_format,
        })
    }

    fn info(&self, mistakes: &mut Vec<String>) -> WorkloadInfo {
        let mut needed = |name: &str, value: &Option<String>| {
            let value = value.clone().unwrap_or_default();
            if value.is_empty() {
                mistakes.push(format!("{name} is needed"));
            }
            value
        };
        WorkloadInfo {
            namespace: needed("POD_NAMESPACE", &self.pod_namespace).into(),
            name: needed("POD_NAME", &self.pod_name).into(),
            service_account: self.service_account.as_str().into(),
        }
    }

    /// Our own packets must be known to the redirection, which only a sidecar has around it.
    fn mark(&self) -> Option<u32> {
        match (self.role, self.packet_mark_off) {
            (_, true) => None,
            (Role::Sidecar, false) => Some(self.packet_mark.unwrap_or(PACKET_MARK)),
            (Role::Waypoint, false) => self.packet_mark,
        }
    }

    fn source(&self, info: &WorkloadInfo) -> mesh_discovery::Source {
        if let Some(path) = &self.local_xds {
            return mesh_discovery::Source::LocalFile(path.clone());
        }
        mesh_discovery::Source::Xds {
            channel: self.channel(&self.xds_address, &self.xds_root, &self.xds_server_name),
            node: mesh_discovery::NodeInfo {
                role: match self.role {
                    Role::Sidecar => mesh_discovery::Role::Sidecar,
                    Role::Waypoint => mesh_discovery::Role::Waypoint,
                },
                ip: self.instance_ip.to_string(),
                pod: info.name.to_string(),
                namespace: info.namespace.to_string(),
                service_account: info.service_account.to_string(),
                node: self.node_name.clone(),
                cluster: self.cluster().into(),
                network: self.network.clone(),
            },
            kinds: mesh_discovery::codec::TYPES_ALL.to_vec(),
        }
    }

    fn certificates(&self) -> CertificateSource {
        if self.fake_ca {
            return CertificateSource::SelfSigned;
        }
        CertificateSource::Ca {
            channel: self.channel(&self.ca_address, &self.ca_root, &self.ca_server_name),
            impersonate: false,
            ttl: self.secret_ttl,
        }
    }

    fn channel(&self, address: &str, root: &str, server_name: &Option<String>) -> ChannelSettings {
        ChannelSettings {
            address: parts::with_scheme(address),
            root: Some(parts::text_source(root)),
            server_name: server_name.clone(),
            token: Some(parts::text_source(&self.auth_token)),
            metadata: vec![("clusterid".into(), self.cluster().into())],
            mark: self.mark(),
        }
    }

    /// The collector gets no token: it is none of the mesh's own.
    fn collector(&self, endpoint: &str) -> ChannelSettings {
        ChannelSettings {
            address: endpoint.to_owned(),
            root: None,
            server_name: None,
            token: None,
            metadata: Vec::new(),
            mark: self.mark(),
        }
    }

    fn cluster(&self) -> &str {
        self.cluster_id.as_deref().unwrap_or(&self.cluster)
    }

    fn proxy(&self, info: WorkloadInfo, identity: SpiffeId) -> Proxy {
        Proxy {
            role: self.role,
            info,
            identity,
            network: self.network.as_str().into(),
            bind: self.bind_address,
            mark: self.mark(),
            connections_max: self.connections_max,
            detect_grace: self.detect_grace,
            pool: mesh_hbone::PoolSettings::default(),
            server: mesh_hbone::ServerSettings::default(),
            http: HttpSettings {
                idle_timeout: self.http_idle_timeout,
                header_read_timeout: self.http_header_timeout,
                header_bytes_max: self.http_header_bytes_max,
                ..HttpSettings::default()
            },
            upstream: UpstreamSettings::default(),
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
