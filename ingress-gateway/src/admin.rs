//! `/config_dump`; the other pages are those of every proxy.

use crate::listeners::ListenerStatus;
use crate::worker::Shared;
use mesh_discovery::DiscoveryStatus;
use mesh_identity::{CertificateStatus, Identities};
use mesh_model::ParentKey;
use mesh_runtime::AdminResponse;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Shows the gateway, with the settings as text.
pub(crate) fn config_dump(
    shared: Arc<Shared>,
    identities: Identities,
    settings: String,
) -> impl Fn(&DiscoveryStatus) -> AdminResponse {
    move |discovery| {
        let dump = ConfigDump::of(&shared, &identities, discovery, &settings);
        AdminResponse::json(&dump)
    }
}

/// What this gateway serves, and from what.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfigDump {
    gateway: String,
    identity: String,
    workload: Option<String>,
    listeners: Vec<ListenerStatus>,
    /// Ports that cannot be bound, and why.
    unbound: BTreeMap<u16, String>,
    http_routes: Vec<Route>,
    tcp_routes: Vec<Route>,
    /// Endpoints put aside because they could not be reached.
    avoided: Vec<mesh_l4::Avoidance>,
    certificates: Vec<CertificateStatus>,
    discovery: DiscoveryStatus,
    settings: Vec<String>,
}

/// One rule of a route that hangs on the Gateway.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Route {
    rule: String,
    hostnames: Vec<String>,
    backends: Vec<String>,
}

impl ConfigDump {
    fn of(
        shared: &Shared,
        identities: &Identities,
        discovery: &DiscoveryStatus,
        settings: &str,
    ) -> Self {
        let table = shared.table.borrow().clone();
        let snapshot = shared.snapshots.borrow().clone();
        let parent = ParentKey::Gateway(shared.edge.gateway.clone());
        let workload = table.client.workload.as_ref();
        let http = snapshot.http_routes(&parent).iter().map(|r| Route {
            rule: r.name.to_string(),
            hostnames: r.hostnames.iter().map(ToString::to_string).collect(),
            backends: r.backends.iter().map(backend).collect(),
        });
        let tcp = snapshot.tcp_routes(&parent).iter().map(|r| Route {
            rule: r.name.to_string(),
            hostnames: Vec::new(),
            backends: r.backends.iter().map(backend).collect(),
        });
        Self {
            gateway: shared.edge.gateway.to_string(),
            identity: shared.edge.identity.to_string(),
            workload: workload.map(|w| w.uid.to_string()),
            listeners: table.listeners.clone(),
            unbound: shared.unbound.list(),
            http_routes: http.collect(),
            tcp_routes: tcp.collect(),
            avoided: shared.ejector.list(),
            certificates: identities.list(),
            discovery: discovery.clone(),
            settings: settings.lines().map(str::to_owned).collect(),
        }
    }
}

fn backend(weighted: &mesh_model::WeightedBackend) -> String {
    match &weighted.backend {
        mesh_model::Backend::Service { name, port } => {
            format!("{name}:{port} weight {}", weighted.weight)
        }
        mesh_model::Backend::Invalid { why } => {
            format!("invalid ({why}) weight {}", weighted.weight)
        }
    }
}
