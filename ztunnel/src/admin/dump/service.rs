//! Services in the page.

use super::{GatewayDump, port_map};
use mesh_model::{HealthPolicy, LoadBalancingMode, RoutingScope, Service, Snapshot, Workload};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceDump {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) hostname: String,
    vips: Vec<String>,
    ports: BTreeMap<u16, u16>,
    /// By workload uid.
    endpoints: BTreeMap<String, EndpointDump>,
    subject_alt_names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint: Option<GatewayDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    weighted_waypoints: Vec<WeightedDump>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_balancer: Option<LoadBalancerDump>,
    canonical: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointDump {
    workload_uid: String,
    /// Service port to target port.
    port: BTreeMap<u16, u16>,
    status: &'static str,
}

#[derive(Serialize)]
struct WeightedDump {
    destination: GatewayDump,
    weight: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LoadBalancerDump {
    routing_preferences: Vec<&'static str>,
    mode: &'static str,
    health_policy: &'static str,
}

impl ServiceDump {
    pub(super) fn of(snapshot: &Snapshot, service: &Service) -> Self {
        let endpoint = |w: &std::sync::Arc<Workload>| {
            let uid = w.uid.to_string();
            let ports = w.services.get(&service.name).map(Vec::as_slice);
            let shown = EndpointDump {
                workload_uid: uid.clone(),
                port: port_map(ports.unwrap_or_default()),
                status: super::health(w.health),
            };
            (uid, shown)
        };
        let vip = |(network, range): &(std::sync::Arc<str>, mesh_model::Cidr)| {
            let host = *range == mesh_model::Cidr::host(range.address());
            if host {
                format!("{network}/{}", range.address())
            } else {
                format!("{network}/{range}")
            }
        };
        Self {
            name: service.short_name.to_string(),
            namespace: service.name.namespace.to_string(),
            hostname: service.name.hostname.to_string(),
            vips: service.vips.iter().map(vip).collect(),
            ports: port_map(&service.ports),
            endpoints: snapshot.endpoints(&service.name).map(endpoint).collect(),
            subject_alt_names: service
                .subject_alt_names
                .iter()
                .map(ToString::to_string)
                .collect(),
            waypoint: service.waypoint.as_ref().map(GatewayDump::of),
            weighted_waypoints: service
                .weighted_waypoints
                .iter()
                .map(|w| WeightedDump {
                    destination: GatewayDump::of(&w.destination),
                    weight: w.weight,
                })
                .collect(),
            load_balancer: LoadBalancerDump::of(service),
            canonical: service.canonical,
        }
    }
}

impl LoadBalancerDump {
    /// None when nothing is asked for.
    fn of(service: &Service) -> Option<Self> {
        let asked = &service.load_balancing;
        if *asked == mesh_model::LoadBalancing::default() {
            return None;
        }
        let scope = |scope: &RoutingScope| match scope {
            RoutingScope::Region => "Region",
            RoutingScope::Zone => "Zone",
            RoutingScope::Subzone => "Subzone",
            RoutingScope::Node => "Node",
            RoutingScope::Cluster => "Cluster",
            RoutingScope::Network => "Network",
        };
        Some(Self {
            routing_preferences: asked.preferences.iter().map(scope).collect(),
            mode: match asked.mode {
                LoadBalancingMode::Unspecified => "Standard",
                LoadBalancingMode::Strict => "Strict",
                LoadBalancingMode::Failover => "Failover",
                LoadBalancingMode::Passthrough => "Passthrough",
            },
            health_policy: match asked.health {
                HealthPolicy::OnlyHealthy => "OnlyHealthy",
                HealthPolicy::AllowAll => "AllowAll",
            },
        })
    }
}
