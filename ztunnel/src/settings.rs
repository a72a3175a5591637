//! Flags and environment: the only reader of both. All mistakes are reported at once.

mod dns;
mod parts;
mod proxy_config;

pub(crate) use parts::{Dns, Limits, PodSource, Proxy, Settings};

use clap::Parser;
use mesh_hbone::{KeepAlive, PoolSettings, ServerSettings, Windows};
use mesh_identity::CertificateSource;
use mesh_model::{PACKET_MARK, SpiffeId};
use mesh_proxy::settings::{
    ControlFlags, Mistakes, PlaceFlags, ProcessFlags, XDS_ADDRESS_DEFAULT, duration,
};
use proxy_config::ProxyConfig;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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

/// How connections between two pods of this process are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SameNode {
    /// By the process, without TLS.
    Direct,
    /// As between nodes.
    Encrypt,
}

/// Flags and environment as given. Names follow interop/migrate.md section 2.
#[derive(Debug, Parser)]
#[command(
    name = "ztunnel",
    version,
    about = "Node proxy: L4 mutual TLS for every pod on the node"
)]
pub(crate) struct Flags {
    /// What Istio's chart gives the program: `proxy ztunnel`.
    #[arg(hide = true, num_args = 0..=2, value_parser = ["proxy", "ztunnel"])]
    part: Vec<String>,
    /// Watched folder, one YAML file a pod: {uid, name, namespace, serviceAccount, netns}.
    #[arg(long, env = "ZTUNNEL_PODS", value_name = "DIR")]
    pods: Option<PathBuf>,
    /// Socket of the node agent that tells the pods, instead of a folder; under Kubernetes
    /// /var/run/ztunnel/ztunnel.sock unless given.
    #[arg(long, env = "INPOD_UDS", value_name = "SOCKET")]
    inpod_uds: Option<PathBuf>,
    /// With `false` nobody else can listen on our ports in a pod, and two proxies cannot overlap.
    #[arg(long, env = "INPOD_PORT_REUSE", default_value_t = true, action = clap::ArgAction::Set)]
    inpod_port_reuse: bool,
    /// Set in every pod of Kubernetes.
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", hide = true)]
    kubernetes_host: Option<String>,
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

    #[command(flatten)]
    control: ControlFlags,
    #[command(flatten)]
    place: PlaceFlags,
    /// This pod's name.
    #[arg(long, env = "POD_NAME", default_value = "ztunnel")]
    pod_name: String,
    /// This pod's namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "strata-system")]
    pod_namespace: String,
    /// This pod's service account.
    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "ztunnel")]
    service_account: String,

    /// Istio's ProxyConfig, as YAML: its discoveryAddress, proxyAdminPort, statsPort, concurrency and
    /// proxyMetadata count where no variable of their own says otherwise.
    #[arg(long, env = "PROXY_CONFIG", value_name = "YAML", default_value = "")]
    proxy_config: String,
    #[command(flatten)]
    dns: dns::DnsFlags,
    #[command(flatten)]
    process: ProcessFlags,
    /// Worker threads for connections.
    #[arg(long, env = "ZTUNNEL_WORKER_THREADS")]
    worker_threads: Option<usize>,
    /// Mark on our own packets; in dedicated mode none unless given.
    #[arg(long, env = "PACKET_MARK")]
    packet_mark: Option<u32>,

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
    /// Connect to applications that are told who connects (PROXY protocol) on loopback; with `false`
    /// on the pod's address.
    #[arg(
        long,
        env = "LOCALHOST_APP_TUNNEL",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    localhost_app_tunnel: bool,
    /// Connections between two pods of this process: `direct` carries them without TLS, `encrypt` as
    /// between nodes. A pod may ask for `encrypt` itself.
    #[arg(long, env = "SAME_NODE", value_enum, default_value = "direct")]
    same_node: SameNode,
    /// Address the pods' listeners bind: `::` takes both families, and falls back to IPv4.
    #[arg(long, env = "BIND_ADDRESS", default_value_t = IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
    bind_address: IpAddr,
    /// With `false` the pods' listeners bind IPv4 only.
    #[arg(long, env = "IPV6_ENABLED", default_value_t = true, action = clap::ArgAction::Set)]
    ipv6_enabled: bool,
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
        value_parser = duration
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
}

/// Variables of Istio's ztunnel that are taken and have no effect here, each with the reason.
const WITHOUT_EFFECT: [(&str, &str); 5] = [
    ("XDS_ON_DEMAND", "everything is subscribed to"),
    ("LOCAL_XDS", "give a file in LOCAL_XDS_PATH"),
    ("ENABLE_PROXY", "there is nothing else to enable"),
    ("UNSTABLE_ENABLE_SOCKS5", "there is no SOCKS proxy"),
    ("ZTUNNEL_CPU_LIMIT", "give ZTUNNEL_WORKER_THREADS"),
];

/// What is set in the environment and has no effect, to be said at the start (docs/ztunnel.md).
pub(crate) fn without_effect() -> Vec<String> {
    let set =
        |(name, why): &(&str, &str)| std::env::var_os(name).map(|_| format!("{name} ({why})"));
    WITHOUT_EFFECT.iter().filter_map(set).collect()
}

impl Flags {
    /// Turns what was given into what is used.
    ///
    /// # Errors
    /// Every mistake found, one a line.
    pub(crate) fn check(mut self) -> anyhow::Result<Settings> {
        let mut mistakes = Mistakes::default();
        let config = mistakes.value("PROXY_CONFIG", proxy_config::parse(&self.proxy_config));
        let config = config.unwrap_or_default();
        self.take(&config);
        let pods = self.pod_source(&mut mistakes);
        let certificates = self.certificates(&mut mistakes);
        let trust_domain = &self.place.trust_domain;
        if SpiffeId::new(trust_domain, "a", "b").is_err() {
            mistakes.add(format!("TRUST_DOMAIN '{trust_domain}' is no trust domain"));
        }
        let process = self.process.check(self.worker_threads, &mut mistakes);
        let windows = self.windows(&mut mistakes);
        let dns = self.dns.check(self.mode, self.ipv6_enabled, &mut mistakes);
        let (Some(pods), Some(certificates), true) = (pods, certificates, mistakes.is_empty())
        else {
            return Err(mistakes.into_error().into());
        };
        Ok(Settings {
            source: self.source(&config),
            proxy: self.proxy(&pods, windows, dns),
            limits: Limits {
                pod_connections_max: self.pod_connections_max,
                connections_max: self.connections_max,
            },
            process,
            pods,
            certificates,
        })
    }

    fn pod_source(&self, mistakes: &mut Mistakes) -> Option<PodSource> {
        match self.mode {
            Mode::Shared => {
                if self.workload.is_some() {
                    mistakes.add("PROXY_WORKLOAD_INFO is for PROXY_MODE=dedicated");
                }
                self.node_pods(mistakes)
            }
            Mode::Dedicated => {
                if self.pods.is_some() {
                    mistakes.add("--pods is for PROXY_MODE=shared");
                }
                let Some(text) = &self.workload else {
                    mistakes.add("PROXY_WORKLOAD_INFO is needed in dedicated mode");
                    return None;
                };
                let info = mistakes.value("PROXY_WORKLOAD_INFO", text.parse())?;
                Some(PodSource::Dedicated(info))
            }
        }
    }

    fn node_pods(&self, mistakes: &mut Mistakes) -> Option<PodSource> {
        match (&self.pods, &self.inpod_uds) {
            (Some(folder), None) => Some(PodSource::Folder(folder.clone())),
            (None, Some(socket)) => Some(PodSource::Agent(socket.clone())),
            (None, None) if self.kubernetes_host.is_some() => {
                Some(PodSource::Agent(mesh_zds::SOCKET_DEFAULT.into()))
            }
            (None, None) => {
                mistakes.add("--pods DIR or INPOD_UDS is needed in shared mode");
                None
            }
            (Some(_), Some(_)) => {
                mistakes.add("the pods come from --pods or from INPOD_UDS, not from both");
                None
            }
        }
    }

    /// A certificate of a throw-away root protects nothing, so it must be asked for by name and
    /// is refused on a node.
    fn certificates(&self, mistakes: &mut Mistakes) -> Option<CertificateSource> {
        match (self.fake_ca, self.mode) {
            (true, Mode::Shared) => {
                mistakes.add("FAKE_CA=true is for PROXY_MODE=dedicated only");
                None
            }
            (true, Mode::Dedicated) => Some(CertificateSource::SelfSigned),
            (false, mode) => {
                let cluster = self.place.cluster();
                Some(self.control.authority(cluster, None, mode == Mode::Shared))
            }
        }
    }

    fn windows(&self, mistakes: &mut Mistakes) -> Windows {
        if self.connection_window_bytes < self.stream_window_bytes {
            mistakes.add("HTTP2_CONNECTION_WINDOW_SIZE must not be below HTTP2_STREAM_WINDOW_SIZE");
        }
        if !(1 << 14..1 << 24).contains(&self.frame_bytes_max) {
            mistakes.add("HTTP2_FRAME_SIZE must be from 16384 to 16777215");
        }
        Windows {
            stream_bytes: self.stream_window_bytes,
            connection_bytes: self.connection_window_bytes,
            frame_bytes_max: self.frame_bytes_max,
            ..Windows::default()
        }
    }

    /// Takes what the configuration says and no flag or variable does.
    fn take(&mut self, config: &ProxyConfig) {
        // A value that is the default leaves room, also where someone wrote the default down.
        if let Some(address) = &config.discovery_address
            && self.control.xds_address == XDS_ADDRESS_DEFAULT
        {
            self.control.xds_address = if address.contains("://") {
                address.clone()
            } else {
                format!("https://{address}")
            };
        }
        for (port, default, address) in [
            (
                config.proxy_admin_port,
                15000,
                &mut self.process.admin_address,
            ),
            (config.stats_port, 15020, &mut self.process.metrics_address),
        ] {
            if let Some(port) = port
                && address.port() == default
            {
                address.set_port(port);
            }
        }
        self.worker_threads = self.worker_threads.or(config.concurrency);
    }

    fn source(&self, config: &ProxyConfig) -> mesh_discovery::Source {
        if let Some(path) = &self.local_xds {
            return mesh_discovery::Source::LocalFile(path.clone());
        }
        let (namespace, pod) = (&self.pod_namespace, &self.pod_name);
        let mut node = self.place.node_info(
            mesh_discovery::Role::Ztunnel,
            namespace,
            pod,
            &self.service_account,
        );
        for (name, value) in config.metadata() {
            node.metadata.entry(name).or_insert(value);
        }
        mesh_discovery::Source::Xds {
            channel: self.control.control_plane(self.place.cluster(), None),
            node,
            kinds: mesh_discovery::codec::TYPES_L4.to_vec(),
        }
    }

    fn proxy(&self, pods: &PodSource, windows: Windows, dns: Dns) -> Proxy {
        let mark = match pods {
            PodSource::Folder(_) | PodSource::Agent(_) => {
                Some(self.packet_mark.unwrap_or(PACKET_MARK))
            }
            // There is no redirection to stay clear of, and a mark needs a privilege.
            PodSource::Dedicated(_) => self.packet_mark,
        };
        Proxy {
            bind: match self.bind_address {
                IpAddr::V6(_) if !self.ipv6_enabled => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                address => address,
            },
            port_reuse: self.inpod_port_reuse,
            mark,
            original_source: self.original_source,
            app_tunnel_on_loopback: self.localhost_app_tunnel,
            same_node: self.same_node == SameNode::Direct,
            response_baggage: self.response_baggage,
            policy_info_logging: self.process.policy.policy_info_logging,
            node_name: self.place.node_name.as_str().into(),
            network: self.place.network.as_str().into(),
            trust_domain: self.place.trust_domain.as_str().into(),
            dns,
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
}

#[cfg(test)]
mod tests;
