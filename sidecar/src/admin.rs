//! Admin pages on loopback, metrics and readiness on ports of their own.

use crate::proxy::Node;
use mesh_discovery::{DiscoveryStatus, StatusReceiver};
use mesh_identity::CertificateStatus;
use mesh_model::{Resource, Snapshot};
use mesh_proxy::Addresses;
use mesh_runtime::{AdminResponse, AdminRoutes, Readiness, Scope, serve_admin};
use mesh_telemetry::LogHandle;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// What the pages show.
pub(crate) struct Pages {
    /// The process.
    pub(crate) node: Arc<Node>,
    /// How discovery fares.
    pub(crate) discovery: StatusReceiver,
    /// Readiness.
    pub(crate) readiness: Readiness,
    /// The settings, as text.
    pub(crate) settings: String,
    /// The log filter; none in tests.
    pub(crate) logging: Option<Arc<LogHandle>>,
}

/// Serves all pages.
///
/// # Errors
/// When an address cannot be bound; the error names it.
pub(crate) fn serve(pages: Pages, scope: &Scope, at: Addresses) -> io::Result<()> {
    let metrics = pages.node.metrics.clone();
    let show = move || AdminResponse::metrics(metrics.encode());
    let again = show.clone();
    let stats = AdminRoutes::new()
        .get("/metrics", move |_| show())
        .get("/stats/prometheus", move |_| again());
    let readiness = AdminRoutes::new().readiness(&pages.readiness);
    serve_admin(scope, at.metrics, stats)?;
    serve_admin(scope, at.readiness, readiness)?;
    serve_admin(scope, at.admin, routes(pages))?;
    Ok(())
}

fn routes(pages: Pages) -> AdminRoutes {
    let Pages {
        node,
        discovery,
        readiness,
        settings,
        logging,
    } = pages;
    let (metrics, drain) = (node.metrics.clone(), node.drain.clone());
    let status = discovery.clone();
    let routes = AdminRoutes::new()
        .readiness(&readiness)
        .get("/config_dump", move |_| {
            AdminResponse::json(&ConfigDump::of(&node, &discovery.borrow(), &settings))
        })
        .get("/debug/connections", move |_| {
            AdminResponse::json(&metrics.open_connections())
        })
        .get("/debug/discovery", move |_| {
            AdminResponse::json(&**status.borrow())
        })
        .post("/quitquitquit", move |_| {
            drain.start();
            AdminResponse::text("shutting down\n")
        });
    match logging {
        Some(logging) => routes.post("/logging", move |query| set_level(&logging, query)),
        None => routes,
    }
}

fn set_level(logging: &LogHandle, query: &str) -> AdminResponse {
    let Some(level) = query.split('&').find_map(|p| p.strip_prefix("level=")) else {
        return AdminResponse::status(400, "give ?level=, such as info or mesh_l7=debug\n");
    };
    match logging.set_filter(level) {
        Ok(()) => AdminResponse::text(format!("log filter is now {level}\n")),
        Err(error) => AdminResponse::status(400, format!("{error}\n")),
    }
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
