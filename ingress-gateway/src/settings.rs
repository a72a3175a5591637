//! Flags and environment: the only reader of both. All mistakes are reported at once.

mod parts;

pub(crate) use parts::{Edge, Settings};

use clap::Parser;
use mesh_discovery::{NodeInfo, Role, Source};
use mesh_grpc::ChannelSettings;
use mesh_hbone::PoolSettings;
use mesh_identity::CertificateSource;
use mesh_model::{ObjectName, SpiffeId, TRUST_DOMAIN_DEFAULT};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Time kept back from the pod's grace period, for the end records and the last log lines.
const GRACE_MARGIN: Duration = Duration::from_secs(5);
/// Where a pod finds the root of the mesh.
const ROOT_DEFAULT: &str = "/var/run/secrets/istio/root-cert.pem";

/// Flags and environment as given. Names are those of the mesh's other proxies.
#[derive(Debug, Parser)]
#[command(
    name = "ingress-gateway",
    version,
    about = "Edge proxy: Gateway API listeners to backends"
)]
pub(crate) struct Flags {
    /// The Gateway to serve: namespace/name.
    #[arg(long, env = "GATEWAY", value_name = "NS/NAME")]
    gateway: String,
    /// Sign the certificate in this process: no other process trusts it.
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
    #[arg(long, env = "XDS_ROOT_CA", default_value = ROOT_DEFAULT)]
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
    #[arg(long, env = "CA_ROOT_CA", default_value = ROOT_DEFAULT)]
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

    /// Cluster; sent to the control plane and the certificate authority.
    #[arg(long, env = "ISTIO_META_CLUSTER_ID")]
    cluster_id: Option<String>,
    /// Cluster, under its other name.
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes")]
    cluster: String,
    /// The node this runs on.
    #[arg(long, env = "NODE_NAME", default_value = "")]
    node_name: String,
    /// This pod's name; the Gateway's when not given.
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
    /// This pod's namespace; the Gateway's when not given.
    #[arg(long, env = "POD_NAMESPACE")]
    pod_namespace: Option<String>,
    /// This pod's service account; the Gateway's name when not given.
    #[arg(long, env = "SERVICE_ACCOUNT")]
    service_account: Option<String>,
    /// This pod's address.
    #[arg(long, env = "INSTANCE_IP", default_value = "127.0.0.1")]
    instance_ip: IpAddr,
    /// Trust domain of this gateway's identity.
    #[arg(long, env = "TRUST_DOMAIN", default_value = TRUST_DOMAIN_DEFAULT)]
    trust_domain: String,
    /// Network of this gateway; empty on a mesh of one network.
    #[arg(long, env = "NETWORK", default_value = "")]
    network: String,

    /// Log filter.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log_filter: String,
    /// Log format: plain or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "plain")]
    log_format: String,
    /// Where traces are sent, OTLP over gRPC; none given: no traces.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// PEM root of the trace collector: a file, or the text itself.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_CERTIFICATE")]
    otlp_root: Option<String>,
    /// Worker threads for connections.
    #[arg(long, env = "WORKER_THREADS")]
    worker_threads: Option<usize>,
    /// Worker threads, under the name of the node proxy.
    #[arg(long, env = "ZTUNNEL_WORKER_THREADS", hide = true)]
    ztunnel_worker_threads: Option<usize>,
    /// Mark on our own packets; none unless given.
    #[arg(long, env = "PACKET_MARK")]
    packet_mark: Option<u32>,
    /// The pod's grace period, seconds: connections get 5 s less.
    #[arg(long, env = "TERMINATION_GRACE_PERIOD_SECONDS")]
    termination_grace_s: Option<u64>,
    /// How long connections may run on after SIGTERM.
    #[arg(long, env = "CONNECTION_TERMINATION_DEADLINE", value_parser = parts::duration)]
    termination_deadline: Option<Duration>,

    /// Address the listeners bind: `::` takes both families, and falls back to IPv4.
    #[arg(long, env = "BIND_ADDRESS", default_value_t = IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
    bind_address: IpAddr,
    /// Connections of clients, all listeners together; further ones wait in the kernel's queue.
    #[arg(long, env = "CONNECTIONS_MAX", default_value_t = 65_536)]
    connections_max: usize,
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
        let gateway = self.gateway.parse::<ObjectName>();
        let identity = gateway.as_ref().ok().map(|gateway| self.identity(gateway));
        let log_format = self.log_format.parse();
        mistakes.extend(gateway.as_ref().err().map(|e| format!("GATEWAY: {e}")));
        if let Some(Err(error)) = &identity {
            mistakes.push(format!("this gateway's identity: {error}"));
        }
        mistakes.extend(
            log_format
                .as_ref()
                .err()
                .map(|e| format!("LOG_FORMAT: {e}")),
        );
        let (Ok(gateway), Some(Ok(identity)), Ok(log_format)) = (gateway, identity, log_format)
        else {
            anyhow::bail!("{}", mistakes.join("\n"));
        };
        let workers = self
            .worker_threads
            .or(self.ztunnel_worker_threads)
            .unwrap_or_else(mesh_runtime::workers_default)
            .max(1);
        Ok(Settings {
            source: self.source(&gateway, &identity),
            certificates: self.certificates(),
            tracing: self.tracing(),
            edge: Edge {
                pod_name: self.pod_name(&gateway).into(),
                instance_ip: self.instance_ip,
                network: self.network.as_str().into(),
                bind: self.bind_address,
                mark: self.packet_mark,
                worker_connections_max: self.connections_max.div_ceil(workers).max(1),
                pool: PoolSettings::default(),
                gateway,
                identity,
            },
            drain_deadline: self.drain_deadline(),
            workers,
            admin_address: self.admin_address,
            metrics_address: self.metrics_address,
            readiness_address: self.readiness_address,
            log_filter: self.log_filter,
            log_format,
        })
    }

    fn identity(&self, gateway: &ObjectName) -> Result<SpiffeId, mesh_model::IdentityError> {
        let namespace = self.pod_namespace.as_deref();
        let account = self.service_account.as_deref();
        SpiffeId::new(
            &self.trust_domain,
            namespace.unwrap_or(&gateway.namespace),
            account.unwrap_or(&gateway.name),
        )
    }

    fn pod_name(&self, gateway: &ObjectName) -> String {
        let name = self.pod_name.as_deref();
        name.unwrap_or(&gateway.name).into()
    }

    fn source(&self, gateway: &ObjectName, identity: &SpiffeId) -> Source {
        let server_name = self.xds_server_name.clone();
        Source::Xds {
            channel: self.channel(&self.xds_address, &self.xds_root, server_name),
            node: NodeInfo {
                role: Role::Gateway,
                ip: self.instance_ip.to_string(),
                pod: self.pod_name(gateway),
                namespace: identity.namespace().into(),
                service_account: identity.service_account().into(),
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
        let server_name = self.ca_server_name.clone();
        CertificateSource::Ca {
            channel: self.channel(&self.ca_address, &self.ca_root, server_name),
            impersonate: false,
            ttl: self.secret_ttl,
        }
    }

    fn tracing(&self) -> Option<ChannelSettings> {
        let endpoint = self.otlp_endpoint.as_ref().filter(|e| !e.is_empty())?;
        Some(ChannelSettings {
            address: endpoint.clone(),
            root: self.otlp_root.as_deref().map(parts::text_source),
            server_name: None,
            token: None,
            metadata: Vec::new(),
            mark: self.packet_mark,
        })
    }

    fn channel(&self, address: &str, root: &str, server_name: Option<String>) -> ChannelSettings {
        ChannelSettings {
            address: parts::with_scheme(address),
            root: Some(parts::text_source(root)),
            server_name,
            token: Some(parts::text_source(&self.auth_token)),
            metadata: vec![("clusterid".into(), self.cluster().into())],
            mark: self.packet_mark,
        }
    }

    fn cluster(&self) -> &str {
        self.cluster_id.as_deref().unwrap_or(&self.cluster)
    }

    /// `CONNECTION_TERMINATION_DEADLINE`, else the grace period less 5 s, else 5 s.
    fn drain_deadline(&self) -> Duration {
        let grace = self.termination_grace_s.map(Duration::from_secs);
        self.termination_deadline.unwrap_or_else(|| {
            grace.map_or(GRACE_MARGIN, |grace| grace.saturating_sub(GRACE_MARGIN))
        })
    }
}

#[cfg(test)]
mod tests;
