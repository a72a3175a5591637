//! Flags and environment: the only reader of both. All mistakes are reported at once.

mod parts;

pub(crate) use parts::{Proxy, Role, Settings};

use crate::{app, init};
use clap::Parser;
use mesh_identity::CertificateSource;
use mesh_l7::{HttpSettings, UpstreamSettings};
use mesh_model::{PACKET_MARK, SpiffeId};
use mesh_proxy::WorkloadInfo;
use mesh_proxy::settings::{
    ControlFlags, Mistakes, PlaceFlags, ProcessFlags, TracingFlags, duration,
};
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

/// The program's command line.
#[derive(Debug, Parser)]
#[command(
    name = "sidecar",
    version,
    about = "Per-pod proxy, L4 and L7 both ways; also waypoint and network gateway",
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
    /// `sidecar` in a pod, `waypoint` in front of services, `network-gateway` between networks.
    #[arg(long, env = "PROXY_ROLE", value_enum, default_value = "sidecar")]
    role: Role,
    /// Workloads, services and policies from a YAML file instead of a control plane.
    #[arg(long, env = "LOCAL_XDS_PATH", value_name = "FILE")]
    local_xds: Option<PathBuf>,
    /// Sign certificates in this process: nobody else trusts them. For trials of one proxy.
    #[arg(long, env = "FAKE_CA", default_value_t = false, action = clap::ArgAction::Set)]
    fake_ca: bool,

    #[command(flatten)]
    control: ControlFlags,
    #[command(flatten)]
    tracing: TracingFlags,
    /// Share of the traces begun here that are recorded, 0 to 1.
    #[arg(long, env = "TRACE_SAMPLE_RATIO", default_value_t = 1.0)]
    trace_sample_ratio: f64,

    #[command(flatten)]
    place: PlaceFlags,
    /// This pod's name.
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
    /// This pod's namespace.
    #[arg(long, env = "POD_NAMESPACE")]
    pod_namespace: Option<String>,
    /// This pod's service account.
    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "default")]
    service_account: String,

    #[command(flatten)]
    process: ProcessFlags,
    /// Worker threads for connections.
    #[arg(long, env = "WORKER_THREADS")]
    worker_threads: Option<usize>,
    /// Mark on our own packets; waypoints and gateways set none unless told.
    #[arg(long, env = "PACKET_MARK")]
    packet_mark: Option<u32>,
    /// Set no mark, which needs a privilege: for a sidecar without redirection.
    #[arg(long, env = "PACKET_MARK_OFF", default_value_t = false, action = clap::ArgAction::Set)]
    packet_mark_off: bool,

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
        value_parser = duration
    )]
    detect_grace: Duration,
    /// An HTTP connection without a request is closed after this time.
    #[arg(
        long,
        env = "HTTP_IDLE_TIMEOUT",
        default_value = "5m",
        value_parser = duration
    )]
    http_idle_timeout: Duration,
    /// How long the head of a request may take.
    #[arg(
        long,
        env = "HTTP_HEADER_TIMEOUT",
        default_value = "10s",
        value_parser = duration
    )]
    http_header_timeout: Duration,
    /// Bytes of the head of a request.
    #[arg(long, env = "HTTP_HEADER_BYTES_MAX", default_value_t = 64 * 1024)]
    http_header_bytes_max: usize,
}

impl Flags {
    /// Turns what was given into what is used.
    ///
    /// # Errors
    /// Every mistake found, one a line.
    pub(crate) fn check(self) -> anyhow::Result<Settings> {
        let mut mistakes = Mistakes::default();
        let info = self.info(&mut mistakes);
        let trust_domain = &self.place.trust_domain;
        let identity = SpiffeId::new(trust_domain, &info.namespace, &info.service_account);
        let identity = mistakes.value("identity", identity);
        let process = self.process.check(self.worker_threads, &mut mistakes);
        if !(0.0..=1.0).contains(&self.trace_sample_ratio) {
            mistakes.add("TRACE_SAMPLE_RATIO must be from 0 to 1");
        }
        if !(8 * 1024..=1 << 20).contains(&self.http_header_bytes_max) {
            mistakes.add("HTTP_HEADER_BYTES_MAX must be from 8192 to 1048576");
        }
        let (Some(identity), true) = (identity, mistakes.is_empty()) else {
            return Err(mistakes.into_error().into());
        };
        Ok(Settings {
            source: self.source(&info),
            certificates: self.certificates(),
            tracing: self.tracing.collector(None, self.mark()),
            trace_sample_ratio: self.trace_sample_ratio,
            proxy: self.proxy(info, identity),
            process,
        })
    }

    fn info(&self, mistakes: &mut Mistakes) -> WorkloadInfo {
        let mut needed = |name: &str, value: &Option<String>| {
            let value = value.clone().unwrap_or_default();
            if value.is_empty() {
                mistakes.add(format!("{name} is needed"));
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
            (Role::Waypoint | Role::NetworkGateway, false) => self.packet_mark,
        }
    }

    fn source(&self, info: &WorkloadInfo) -> mesh_discovery::Source {
        if let Some(path) = &self.local_xds {
            return mesh_discovery::Source::LocalFile(path.clone());
        }
        let role = match self.role {
            Role::Sidecar => mesh_discovery::Role::Sidecar,
            Role::Waypoint => mesh_discovery::Role::Waypoint,
            Role::NetworkGateway => mesh_discovery::Role::Gateway,
        };
        let (namespace, account) = (&info.namespace, &info.service_account);
        mesh_discovery::Source::Xds {
            channel: self
                .control
                .control_plane(self.place.cluster(), self.mark()),
            node: self.place.node_info(role, namespace, &info.name, account),
            kinds: mesh_discovery::codec::TYPES_ALL.to_vec(),
        }
    }

    fn certificates(&self) -> CertificateSource {
        if self.fake_ca {
            return CertificateSource::SelfSigned;
        }
        let cluster = self.place.cluster();
        self.control.authority(cluster, self.mark(), false)
    }

    fn proxy(&self, info: WorkloadInfo, identity: SpiffeId) -> Proxy {
        Proxy {
            role: self.role,
            info,
            identity,
            network: self.place.network.as_str().into(),
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
}

#[cfg(test)]
mod tests;
