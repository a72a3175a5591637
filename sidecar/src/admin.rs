//! `/config_dump`; the other pages are those of every proxy.

use crate::proxy::Node;
use mesh_discovery::DiscoveryStatus;
use mesh_identity::CertificateStatus;
use mesh_model::{Resource, Snapshot};
use mesh_runtime::AdminResponse;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Shows the process, with the settings as text.
pub(crate) fn config_dump(
    node: Arc<Node>,
    settings: String,
) -> impl Fn(&DiscoveryStatus) -> AdminResponse {
    move |discovery| AdminResponse::json(&ConfigDump::of(&node, discovery, &settings))
}

/// `/config_dump`: what this process knows.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfigDump<'a> {
    role: &'static str,
    identity: String,
    workload: Option<String>,
    /// By kind and name, each as it is evaluated.
    resources: BTreeMap<String, BTreeMap<String, String>>,
    certificates: Vec<CertificateStatus>,
    discovery: &'a DiscoveryStatus,
    config: &'a str,
    version: &'static str,
    connections: usize,
    /// Endpoints put aside because they could not be reached.
    avoided: Vec<mesh_l4::Avoidance>,
}

impl<'a> ConfigDump<'a> {
    fn of(node: &Node, discovery: &'a DiscoveryStatus, config: &'a str) -> Self {
        let workload = node.local.borrow().clone();
        Self {
            role: node.proxy.role.as_str(),
            identity: node.proxy.identity.to_string(),
            workload: workload.map(|w| w.uid.to_string()),
            resources: resources(&node.snapshots.borrow()),
            certificates: node.identities.list(),
            discovery,
            config,
            version: env!("CARGO_PKG_VERSION"),
            connections: node.connections_used(),
            avoided: node.ejector.list(),
        }
    }
}

fn resources(snapshot: &Snapshot) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for resource in snapshot.resources() {
        let key = resource.key();
        let shown = match &resource {
            Resource::Workload(w) => format!("{w:?}"),
            Resource::Service(s) => format!("{s:?}"),
            Resource::Policy(p) | Resource::HttpPolicy(p) => format!("{p:?}"),
            Resource::HttpRoute(r) => format!("{r:?}"),
            Resource::TcpRoute(r) => format!("{r:?}"),
            Resource::Listener(l) => format!("{l:?}"),
        };
        all.entry(format!("{:?}", key.kind))
            .or_default()
            .insert(key.name.to_string(), shown);
    }
    all
}
