//! Admin pages on loopback, metrics and readiness on ports of their own.

use crate::listeners::ListenerStatus;
use crate::worker::Shared;
use mesh_discovery::{DiscoveryStatus, StatusReceiver};
use mesh_identity::{CertificateStatus, Identities};
use mesh_model::ParentKey;
use mesh_runtime::{AdminResponse, AdminRoutes, Readiness, Scope, serve_admin};
use mesh_telemetry::LogHandle;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// What the pages show.
pub(crate) struct Pages {
    /// What the workers share.
    pub(crate) shared: Arc<Shared>,
    /// Our certificate.
    pub(crate) identities: Identities,
    /// How discovery fares.
    pub(crate) discovery: StatusReceiver,
    /// Readiness.
    pub(crate) readiness: Readiness,
    /// The settings, as text.
    pub(crate) settings: String,
    /// The log filter; none in tests.
    pub(crate) logging: Option<Arc<LogHandle>>,
}

/// Where the pages are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// `/config_dump`, `/debug/connections`, …
    pub(crate) admin: SocketAddr,
    /// `/metrics`, `/stats/prometheus`.
    pub(crate) metrics: SocketAddr,
    /// `/healthz/ready`.
    pub(crate) readiness: SocketAddr,
}

/// Serves all pages; gives the addresses bound.
///
/// # Errors
/// When an address cannot be bound; the error names it.
pub(crate) fn serve(pages: Pages, scope: &Scope, at: Addresses) -> io::Result<Addresses> {
    let metrics = pages.shared.metrics.clone();
    let show = move || AdminResponse::metrics(metrics.encode());
    let again = show.clone();
    let stats = AdminRoutes::new()
        .get("/metrics", move |_| show())
        .get("/stats/prometheus", move |_| again());
    let readiness = AdminRoutes::new().readiness(&pages.readiness);
    Ok(Addresses {
        metrics: serve_admin(scope, at.metrics, stats)?,
        readiness: serve_admin(scope, at.readiness, readiness)?,
        admin: serve_admin(scope, at.admin, routes(pages))?,
    })
}

fn routes(pages: Pages) -> AdminRoutes {
    let Pages {
        shared,
        identities,
        discovery,
        readiness,
        settings,
        logging,
    } = pages;
    let (metrics, drain) = (shared.metrics.clone(), shared.drain.clone());
    let status = discovery.clone();
    let routes = AdminRoutes::new()
        .readiness(&readiness)
        .get("/config_dump", move |_| {
            let dump = ConfigDump::of(&shared, &identities, &discovery.borrow(), &settings);
            AdminResponse::json(&dump)
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
