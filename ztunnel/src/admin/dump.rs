//! `/config_dump`: what this process knows, under the names that existing tools read
//! (interop/telemetry.md section 3).

mod certificate;
mod pod;
mod policy;
mod service;

use crate::node::Node;
use crate::pods::Pod;
use certificate::CertificateDump;
use mesh_discovery::DiscoveryStatus;
use mesh_l4::Avoidance;
use mesh_model::{
    GatewayAddress, GatewayDestination, Health, NetworkMode, ServicePort, TunnelProtocol, Workload,
};
use pod::PodDump;
use policy::PolicyDump;
use serde::Serialize;
use service::ServiceDump;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The whole page.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConfigDump<'a> {
    workloads: Vec<WorkloadDump>,
    services: Vec<ServiceDump>,
    policies: Vec<PolicyDump>,
    certificates: Vec<CertificateDump>,
    /// The pods of this node, by `namespace/name`, with their connections.
    workload_state: BTreeMap<String, PodDump>,
    discovery: &'a DiscoveryStatus,
    config: ConfigText<'a>,
    version: VersionDump,
    connections: usize,
    /// Endpoints put aside because they could not be reached, by the pod that failed.
    avoided: BTreeMap<String, Vec<Avoidance>>,
}

impl<'a> ConfigDump<'a> {
    pub(super) fn of(node: &Node, discovery: &'a DiscoveryStatus, config: &'a str) -> Self {
        let snapshot = node.snapshots.borrow().clone();
        let mut workloads: Vec<_> = snapshot.workloads().map(|w| WorkloadDump::of(w)).collect();
        workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
        let mut services: Vec<_> = snapshot
            .services()
            .map(|s| ServiceDump::of(&snapshot, s))
            .collect();
        services.sort_by(|a, b| (&a.namespace, &a.hostname).cmp(&(&b.namespace, &b.hostname)));
        Self {
            workloads,
            services,
            policies: snapshot.policies().map(|p| PolicyDump::of(p)).collect(),
            certificates: certificates(node),
            workload_state: PodDump::all(node),
            discovery,
            config: ConfigText { settings: config },
            version: VersionDump::new(),
            connections: node.limit.used(),
            avoided: avoided(node),
        }
    }
}

fn certificates(node: &Node) -> Vec<CertificateDump> {
    let list = node.identities.list();
    list.into_iter().map(CertificateDump::of).collect()
}

#[derive(Serialize)]
struct ConfigText<'a> {
    settings: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VersionDump {
    version: &'static str,
    /// What `istioctl` shows as the proxy's version.
    istio_version: &'static str,
}

impl VersionDump {
    const fn new() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            istio_version: env!("CARGO_PKG_VERSION"),
        }
    }
}

fn avoided(node: &Node) -> BTreeMap<String, Vec<Avoidance>> {
    let of_pod = |pod: &Arc<Pod>| {
        let info = &pod.spec.info;
        let name = format!("{}/{}", info.namespace, info.name);
        (name, pod.ejector.list())
    };
    let all = node.running.list();
    let all = all.iter().map(of_pod);
    all.filter(|(_, list)| !list.is_empty()).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WorkloadDump {
    uid: String,
    name: String,
    namespace: String,
    workload_ips: Vec<String>,
    network: String,
    protocol: &'static str,
    trust_domain: String,
    service_account: String,
    workload_name: String,
    workload_type: &'static str,
    canonical_name: String,
    canonical_revision: String,
    node: String,
    cluster_id: String,
    status: &'static str,
    network_mode: &'static str,
    native_tunnel: bool,
    capacity: u32,
    /// Service port to target port, by `namespace/hostname`.
    services: BTreeMap<String, BTreeMap<u16, u16>>,
    authorization_policies: Vec<String>,
    locality: LocalityDump,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint: Option<GatewayDump>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_gateway: Option<GatewayDump>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_tunnel: Option<ApplicationTunnelDump>,
}

#[derive(Serialize)]
struct LocalityDump {
    region: String,
    zone: String,
    subzone: String,
}

#[derive(Serialize)]
struct ApplicationTunnelDump {
    protocol: &'static str,
    port: Option<u16>,
}

impl WorkloadDump {
    fn of(workload: &Workload) -> Self {
        Self {
            uid: workload.uid.to_string(),
            name: workload.name.to_string(),
            namespace: workload.namespace.to_string(),
            workload_ips: workload.addresses.iter().map(ToString::to_string).collect(),
            network: workload.network.to_string(),
            protocol: match workload.protocol {
                TunnelProtocol::Hbone => "HBONE",
                TunnelProtocol::None => "TCP",
            },
            trust_domain: workload.trust_domain.to_string(),
            service_account: workload.service_account.to_string(),
            workload_name: workload.workload_name.to_string(),
            workload_type: workload.workload_type,
            canonical_name: workload.canonical_name.to_string(),
            canonical_revision: workload.canonical_revision.to_string(),
            node: workload.node.to_string(),
            cluster_id: workload.cluster.to_string(),
            status: health(workload.health),
            network_mode: match workload.network_mode {
                NetworkMode::Standard => "Standard",
                NetworkMode::HostNetwork => "HostNetwork",
            },
            native_tunnel: workload.native_tunnel,
            capacity: workload.capacity,
            services: workload
                .services
                .iter()
                .map(|(name, ports)| (name.to_string(), port_map(ports)))
                .collect(),
            authorization_policies: workload
                .authorization_policies
                .iter()
                .map(ToString::to_string)
                .collect(),
            locality: LocalityDump {
                region: workload.locality.region.to_string(),
                zone: workload.locality.zone.to_string(),
                subzone: workload.locality.subzone.to_string(),
            },
            hostname: workload.hostname.as_ref().map(ToString::to_string),
            waypoint: workload.waypoint.as_ref().map(GatewayDump::of),
            network_gateway: workload.network_gateway.as_ref().map(GatewayDump::of),
            application_tunnel: workload
                .application_tunnel
                .map(|tunnel| ApplicationTunnelDump {
                    protocol: if tunnel.proxy_protocol {
                        "PROXY"
                    } else {
                        "NONE"
                    },
                    port: tunnel.port,
                }),
        }
    }
}

const fn health(health: Health) -> &'static str {
    match health {
        Health::Healthy => "Healthy",
        Health::Unhealthy => "Unhealthy",
    }
}

fn port_map(ports: &[ServicePort]) -> BTreeMap<u16, u16> {
    ports
        .iter()
        .map(|p| (p.service_port, p.target_port))
        .collect()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GatewayDump {
    destination: DestinationDump,
    hbone_mtls_port: u16,
}

#[derive(Serialize)]
#[serde(untagged)]
enum DestinationDump {
    /// `network/ip`.
    Address(String),
    Hostname {
        namespace: String,
        hostname: String,
    },
}

impl GatewayDump {
    fn of(gateway: &GatewayAddress) -> Self {
        Self {
            destination: match &gateway.destination {
                GatewayDestination::Hostname(name) => DestinationDump::Hostname {
                    namespace: name.namespace.to_string(),
                    hostname: name.hostname.to_string(),
                },
                GatewayDestination::Address(a) => {
                    DestinationDump::Address(format!("{}/{}", a.network, a.address))
                }
            },
            hbone_mtls_port: gateway.hbone_port,
        }
    }
}
