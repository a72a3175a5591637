//! Flags and environment: the only reader of both. All mistakes are reported at once.

mod parts;

pub(crate) use parts::{Edge, Settings};

use clap::Parser;
use mesh_discovery::{Role, Source};
use mesh_grpc::TextSource;
use mesh_hbone::PoolSettings;
use mesh_identity::CertificateSource;
use mesh_model::{ObjectName, SpiffeId};
use mesh_proxy::settings::{
    ControlFlags, Mistakes, PlaceFlags, ProcessFlags, TracingFlags, text_source,
};
use mesh_tls::KeyExchange;
use std::net::{IpAddr, Ipv6Addr};

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

    #[command(flatten)]
    control: ControlFlags,
    #[command(flatten)]
    place: PlaceFlags,
    /// This pod's name; the Gateway's when not given.
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
    /// This pod's namespace; the Gateway's when not given.
    #[arg(long, env = "POD_NAMESPACE")]
    pod_namespace: Option<String>,
    /// This pod's service account; the Gateway's name when not given.
    #[arg(long, env = "SERVICE_ACCOUNT")]
    service_account: Option<String>,

    #[command(flatten)]
    process: ProcessFlags,
    #[command(flatten)]
    tracing: TracingFlags,
    /// PEM root of the trace collector: a file, or the text itself.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_CERTIFICATE", value_parser = text_source)]
    otlp_root: Option<TextSource>,
    /// Worker threads for connections.
    #[arg(long, env = "WORKER_THREADS")]
    worker_threads: Option<usize>,
    /// Worker threads, under the name of the node proxy.
    #[arg(long, env = "ZTUNNEL_WORKER_THREADS", hide = true)]
    ztunnel_worker_threads: Option<usize>,
    /// Mark on our own packets; none unless given.
    #[arg(long, env = "PACKET_MARK")]
    packet_mark: Option<u32>,

    /// Address the listeners bind: `::` takes both families, and falls back to IPv4.
    #[arg(long, env = "BIND_ADDRESS", default_value_t = IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
    bind_address: IpAddr,
    /// Connections of clients, all listeners together; further ones wait in the kernel's queue.
    #[arg(long, env = "CONNECTIONS_MAX", default_value_t = 65_536)]
    connections_max: usize,
    /// `pqc`: HTTPS listeners take TLS 1.3 with the key exchange X25519MLKEM768 and nothing else.
    #[arg(long, env = "EDGE_COMPLIANCE_POLICY", default_value = "")]
    edge_compliance_policy: KeyExchange,
}

impl Flags {
    /// Turns what was given into what is used.
    ///
    /// # Errors
    /// Every mistake found, one a line.
    pub(crate) fn check(self) -> anyhow::Result<Settings> {
        let mut mistakes = Mistakes::default();
        let gateway = mistakes.value("GATEWAY", self.gateway.parse::<ObjectName>());
        let identity = gateway
            .as_ref()
            .and_then(|gateway| mistakes.value("this gateway's identity", self.identity(gateway)));
        let workers = self.worker_threads.or(self.ztunnel_worker_threads);
        let mut process = self.process.check(workers, &mut mistakes);
        process.workers = process.workers.max(1);
        let (Some(gateway), Some(identity), true) = (gateway, identity, mistakes.is_empty()) else {
            return Err(mistakes.into_error().into());
        };
        Ok(Settings {
            source: self.source(&gateway, &identity),
            certificates: self.certificates(),
            tracing: self
                .tracing
                .collector(self.otlp_root.clone(), self.packet_mark),
            edge: Edge {
                pod_name: self.pod_name(&gateway).into(),
                instance_ip: self.place.instance_ip,
                network: self.place.network.as_str().into(),
                bind: self.bind_address,
                mark: self.packet_mark,
                worker_connections_max: self.connections_max.div_ceil(process.workers).max(1),
                pool: PoolSettings::default(),
                key_exchange: self.edge_compliance_policy,
                gateway,
                identity,
            },
            process,
        })
    }

    fn identity(&self, gateway: &ObjectName) -> Result<SpiffeId, mesh_model::IdentityError> {
        let namespace = self.pod_namespace.as_deref();
        let account = self.service_account.as_deref();
        SpiffeId::new(
            &self.place.trust_domain,
            namespace.unwrap_or(&gateway.namespace),
            account.unwrap_or(&gateway.name),
        )
    }

    fn pod_name<'a>(&'a self, gateway: &'a ObjectName) -> &'a str {
        self.pod_name.as_deref().unwrap_or(&gateway.name)
    }

    fn source(&self, gateway: &ObjectName, identity: &SpiffeId) -> Source {
        let (namespace, account) = (identity.namespace(), identity.service_account());
        let pod = self.pod_name(gateway);
        Source::Xds {
            channel: self
                .control
                .control_plane(self.place.cluster(), self.packet_mark),
            node: self.place.node_info(Role::Gateway, namespace, pod, account),
            kinds: mesh_discovery::codec::TYPES_ALL.to_vec(),
        }
    }

    fn certificates(&self) -> CertificateSource {
        if self.fake_ca {
            return CertificateSource::SelfSigned;
        }
        let cluster = self.place.cluster();
        self.control.authority(cluster, self.packet_mark, false)
    }
}

#[cfg(test)]
mod tests;
