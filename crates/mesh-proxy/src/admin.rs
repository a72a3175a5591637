//! Admin pages on loopback, metrics and readiness on ports of their own.

use crate::settings::Addresses;
use mesh_discovery::{DiscoveryStatus, StatusReceiver};
use mesh_runtime::{AdminResponse, AdminRoutes, Drain, Readiness, Scope, serve_admin};
use mesh_telemetry::{LogHandle, Metrics};
use std::io;
use std::sync::Arc;

/// What the pages of every proxy show, and what its actions act on.
#[derive(Debug)]
pub struct Pages {
    /// `/metrics`, `/stats/prometheus`, and `/debug/connections` of what is open now.
    pub metrics: Metrics,
    /// `/debug/discovery`: how discovery fares.
    pub discovery: StatusReceiver,
    /// `/healthz/ready`.
    pub readiness: Readiness,
    /// Started by `/quitquitquit`.
    pub drain: Drain,
    /// Set by `/logging?level=`; without it there is no such page.
    pub logging: Option<Arc<LogHandle>>,
}

/// Serves all pages; gives the addresses bound. `config_dump` answers `/config_dump`, the one page
/// that is not the same for every proxy.
///
/// # Errors
/// When an address cannot be bound; the error names it.
pub fn serve(
    scope: &Scope,
    at: Addresses,
    pages: Pages,
    config_dump: impl Fn(&DiscoveryStatus) -> AdminResponse + Send + Sync + 'static,
) -> io::Result<Addresses> {
    let common = Common {
        metrics: pages.metrics.clone(),
        readiness: pages.readiness.clone(),
        logging: pages.logging.clone(),
    };
    serve_common(scope, at, &common, routes(pages, config_dump))
}

/// What the pages of every process of the mesh show, proxy or not.
#[derive(Debug)]
pub struct Common {
    /// `/metrics`, `/stats/prometheus`.
    pub metrics: Metrics,
    /// `/healthz/ready`.
    pub readiness: Readiness,
    /// Set by `/logging?level=`; without it there is no such page.
    pub logging: Option<Arc<LogHandle>>,
}

/// Serves the pages that every process has and, at the admin address, `own` ones; gives the
/// addresses bound.
///
/// # Errors
/// When an address cannot be bound; the error names it.
pub fn serve_common(
    scope: &Scope,
    at: Addresses,
    common: &Common,
    own: AdminRoutes,
) -> io::Result<Addresses> {
    let metrics = common.metrics.clone();
    let show = move |_: &str| AdminResponse::metrics(metrics.encode());
    let stats = AdminRoutes::new()
        .get("/metrics", show.clone())
        .get("/stats/prometheus", show.clone());
    let readiness = AdminRoutes::new().readiness(&common.readiness);
    let admin = own.readiness(&common.readiness).get("/metrics", show);
    let admin = match common.logging.clone() {
        Some(logging) => admin.post("/logging", move |query| set_level(&logging, query)),
        None => admin,
    };
    Ok(Addresses {
        metrics: serve_admin(scope, at.metrics, stats)?,
        readiness: serve_admin(scope, at.readiness, readiness)?,
        admin: serve_admin(scope, at.admin, admin)?,
    })
}

fn routes(
    pages: Pages,
    config_dump: impl Fn(&DiscoveryStatus) -> AdminResponse + Send + Sync + 'static,
) -> AdminRoutes {
    let Pages {
        metrics,
        discovery,
        drain,
        ..
    } = pages;
    let status = discovery.clone();
    AdminRoutes::new()
        .get("/config_dump", move |_| config_dump(&discovery.borrow()))
        .get("/debug/connections", move |_| {
            AdminResponse::json(&metrics.open_connections())
        })
        .get("/debug/discovery", move |_| {
            AdminResponse::json(&**status.borrow())
        })
        .get("/debug/pprof", |_| profiling())
        .get("/debug/pprof/", |_| profiling())
        .post("/quitquitquit", move |_| {
            drain.start();
            AdminResponse::text("shutting down\n")
        })
}

/// As Istio's ztunnel has it: without a query it tells the filter, `level=` changes it, `reset` goes
/// back to the one the process began with. A scope is named `scope=level` or `scope:level`.
fn set_level(logging: &LogHandle, query: &str) -> AdminResponse {
    let mut parameters = query.split('&');
    let changed = if let Some(level) = parameters.find_map(|p| p.strip_prefix("level=")) {
        logging.set_filter(&filter_of(level))
    } else if query
        .split('&')
        .any(|p| p == "reset" || p.starts_with("reset="))
    {
        logging.reset_filter()
    } else if query.is_empty() {
        Ok(())
    } else {
        return AdminResponse::status(400, "give ?level=, such as info or mesh_hbone=debug\n");
    };
    match changed {
        Ok(()) => AdminResponse::text(format!("current log level is {}\n", logging.filter())),
        Err(error) => AdminResponse::status(400, format!("{error}\n")),
    }
}

/// A filter in the syntax of `RUST_LOG`.
fn filter_of(level: &str) -> String {
    let decoded = level
        .replace("%2C", ",")
        .replace("%3D", "=")
        .replace("%3A", ":");
    let clause = |clause: &str| match clause.rsplit_once(':') {
        Some((scope, level)) if !clause.contains('=') && !scope.ends_with(':') => {
            format!("{scope}={level}")
        }
        _ => clause.to_owned(),
    };
    decoded.split(',').map(clause).collect::<Vec<_>>().join(",")
}

/// What there is to profile with: no profiler is built in, as one in the process would slow it.
fn profiling() -> AdminResponse {
    let pid = std::process::id();
    AdminResponse::text(format!(
        "No profiler is built into this process. The binary keeps its symbols and frame tables:\n\
         CPU:    perf record -g -p {pid}\n\
         memory: process_resident_memory_bytes at /metrics; perf trace -p {pid}\n\
         state:  /debug/connections, /debug/discovery, /config_dump\n"
    ))
}

#[cfg(test)]
mod tests;
