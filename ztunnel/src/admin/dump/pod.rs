//! Pods and their connections in the page, as `istioctl ztunnel-config connections` reads them.

use crate::node::Node;
use mesh_telemetry::LiveConnection;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
pub(super) struct PodDump {
    /// `Up` once the control plane knows the pod's workload, else `Pending`.
    state: &'static str,
    connections: Connections,
    info: Info,
}

#[derive(Serialize, Default)]
struct Connections {
    inbound: Vec<ConnectionDump>,
    outbound: Vec<ConnectionDump>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionDump {
    src: Option<String>,
    /// Outbound: where the application meant to go; inbound: the service it was for.
    original_dst: Option<String>,
    actual_dst: Option<String>,
    protocol: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    name: String,
    namespace: String,
    service_account: String,
}

impl PodDump {
    /// Every pod whose workload is looked up, by `namespace/name`.
    pub(super) fn all(node: &Node) -> BTreeMap<String, Self> {
        let mut of_pod: BTreeMap<String, Connections> = BTreeMap::new();
        for open in node.metrics.open_connections() {
            let inbound = open.direction == "inbound";
            let own = if inbound {
                &open.destination
            } else {
                &open.source
            };
            let Some(pod) = own.workload.clone() else {
                continue;
            };
            let connections = of_pod.entry(pod).or_default();
            let list = if inbound {
                &mut connections.inbound
            } else {
                &mut connections.outbound
            };
            list.push(ConnectionDump::of(open, inbound));
        }
        let pod = |(info, known): (mesh_proxy::WorkloadInfo, bool)| {
            let name = format!("{}/{}", info.namespace, info.name);
            let shown = Self {
                state: if known { "Up" } else { "Pending" },
                connections: of_pod.remove(&name).unwrap_or_default(),
                info: Info {
                    name: info.name.to_string(),
                    namespace: info.namespace.to_string(),
                    service_account: info.service_account.to_string(),
                },
            };
            (name, shown)
        };
        node.locals.list().into_iter().map(pod).collect()
    }
}

impl ConnectionDump {
    fn of(open: LiveConnection, inbound: bool) -> Self {
        let reached = if inbound {
            open.hbone_address.or(open.destination.address)
        } else {
            open.destination.address
        };
        Self {
            src: open.source.address,
            original_dst: open.service.or_else(|| reached.clone()),
            actual_dst: reached,
            protocol: match open.transport {
                "hbone" => "HBONE",
                "double_hbone" => "DOUBLEHBONE",
                "node" => "NODE",
                _ => "TCP",
            },
        }
    }
}
