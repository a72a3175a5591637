//! Admin pages on loopback, metrics and readiness on ports of their own.

mod dump;

use crate::node::Node;
use dump::ConfigDump;
use mesh_discovery::StatusReceiver;
use mesh_runtime::{AdminResponse, AdminRoutes, Readiness, Scope, serve_admin};
use mesh_telemetry::LogHandle;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// What the pages show.
pub(crate) struct Pages {
    /// The node.
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
    let metrics = pages.node.metrics.clone();
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
        return AdminResponse::status(400, "give ?level=, such as info or mesh_hbone=debug\n");
    };
    match logging.set_filter(level) {
        Ok(()) => AdminResponse::text(format!("log filter is now {level}\n")),
        Err(error) => AdminResponse::status(400, format!("{error}\n")),
    }
}
