//! `/config_dump`: what this process knows, under the names that existing tools read
//! (interop/telemetry.md section 3).

use crate::node::Node;
use mesh_discovery::DiscoveryStatus;
use mesh_identity::CertificateStatus;
use mesh_model::{
    Action, AuthorizationPolicy, GatewayAddress, GatewayDestination, Health, NetworkMode,
    PolicyScope, Service, Snapshot, TunnelProtocol, Workload,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// The whole page.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConfigDump<'a> {
    workloads: Vec<WorkloadDump>,
    services: Vec<ServiceDump>,
    policies: Vec<PolicyDump>,
    certificates: Vec<CertificateStatus>,
    discovery: &'a DiscoveryStatus,
    config: &'a str,
    version: &'static str,
    connections: usize,
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
            certificates: node.identities.list(),
            discovery,
            config,
            version: env!("CARGO_PKG_VERSION"),
            connections: node.limit.used(),
        }
    }
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
    services: Vec<String>,
    authorization_policies: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint: Option<GatewayDump>,
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
            status: match workload.health {
                Health::Healthy => "Healthy",
                Health::Unhealthy => "Unhealthy",
            },
            network_mode: match workload.network_mode {
                NetworkMode::Standard => "Standard",
                NetworkMode::HostNetwork => "HostNetwork",
            },
            native_tunnel: workload.native_tunnel,
            capacity: workload.capacity,
            services: workload.services.keys().map(ToString::to_string).collect(),
            authorization_policies: workload
                .authorization_policies
                .iter()
                .map(ToString::to_string)
                .collect(),
            waypoint: workload.waypoint.as_ref().map(GatewayDump::of),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GatewayDump {
    destination: String,
    hbone_mtls_port: u16,
}

impl GatewayDump {
    fn of(gateway: &GatewayAddress) -> Self {
        Self {
            destination: match &gateway.destination {
                GatewayDestination::Hostname(name) => name.to_string(),
                GatewayDestination::Address(address) => address.to_string(),
            },
            hbone_mtls_port: gateway.hbone_port,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceDump {
    name: String,
    namespace: String,
    hostname: String,
    vips: Vec<String>,
    ports: BTreeMap<u16, u16>,
    endpoints: Vec<String>,
    subject_alt_names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint: Option<GatewayDump>,
}

impl ServiceDump {
    fn of(snapshot: &Snapshot, service: &Service) -> Self {
        Self {
            name: service.short_name.to_string(),
            namespace: service.name.namespace.to_string(),
            hostname: service.name.hostname.to_string(),
            vips: service
                .vips
                .iter()
                .map(|(network, range)| format!("{network}/{range}"))
                .collect(),
            ports: service
                .ports
                .iter()
                .map(|p| (p.service_port, p.target_port))
                .collect(),
            endpoints: snapshot
                .endpoints(&service.name)
                .map(|w| w.uid.to_string())
                .collect(),
            subject_alt_names: service
                .subject_alt_names
                .iter()
                .map(ToString::to_string)
                .collect(),
            waypoint: service.waypoint.as_ref().map(GatewayDump::of),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PolicyDump {
    name: String,
    namespace: String,
    scope: &'static str,
    action: &'static str,
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    invalid: Option<String>,
    /// The rules as they are evaluated.
    rules: Vec<String>,
}

impl PolicyDump {
    fn of(policy: &AuthorizationPolicy) -> Self {
        Self {
            name: policy.name.name.to_string(),
            namespace: policy.name.namespace.to_string(),
            scope: match policy.scope {
                PolicyScope::Global => "Global",
                PolicyScope::Namespace => "Namespace",
                PolicyScope::WorkloadSelector => "WorkloadSelector",
                PolicyScope::Targets => "Targets",
            },
            action: match policy.action {
                Action::Allow => "Allow",
                Action::Deny => "Deny",
            },
            dry_run: policy.dry_run,
            invalid: policy.invalid.as_ref().map(ToString::to_string),
            rules: policy.rules.iter().map(|r| format!("{r:?}")).collect(),
        }
    }
}
