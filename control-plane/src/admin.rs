//! Admin pages: configuration and its conditions, what is served, metrics, readiness.

use crate::app::State;
use crate::settings::Settings;
use crate::status::StreamStatus;
use mesh_model::Resource;
use mesh_runtime::{AdminResponse, AdminRoutes, Readiness, Scope, panics_total, serve_admin};
use mesh_telemetry::{LogHandle, Metrics};
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use tokio::sync::watch;

/// What the pages show.
pub(crate) struct Pages {
    pub(crate) state: watch::Receiver<Arc<State>>,
    pub(crate) streams: Arc<StreamStatus>,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    pub(crate) log: Option<Arc<LogHandle>>,
}

/// Opens the three ports.
///
/// # Errors
/// When one is taken.
pub(crate) fn serve(scope: &Scope, settings: &Settings, pages: &Pages) -> io::Result<()> {
    let metrics = pages.metrics.clone();
    let show_metrics = move |_: &str| AdminResponse::metrics(metrics.encode());
    let stats = AdminRoutes::new()
        .get("/metrics", show_metrics.clone())
        .get("/stats/prometheus", show_metrics.clone());
    serve_admin(scope, settings.metrics_address, stats)?;

    let ready = AdminRoutes::new().readiness(&pages.readiness);
    serve_admin(scope, settings.readiness_address, ready)?;

    let (state, streams) = (pages.state.clone(), pages.streams.clone());
    let served = pages.state.clone();
    let log = pages.log.clone();
    let admin = AdminRoutes::new()
        .readiness(&pages.readiness)
        .get("/metrics", show_metrics)
        .get("/debug/config", move |_| {
            AdminResponse::json(&config(&state.borrow(), &streams))
        })
        .get("/debug/resources", move |query| {
            AdminResponse::json(&resources(&served.borrow(), query))
        })
        .post("/logging", move |query| {
            set_log_level(log.as_deref(), query)
        });
    serve_admin(scope, settings.admin_address, admin)?;
    Ok(())
}

fn set_log_level(log: Option<&LogHandle>, query: &str) -> AdminResponse {
    let level = query.split('&').find_map(|p| p.strip_prefix("level="));
    match (log, level) {
        (None, _) => AdminResponse::status(503, "logging is not set up here\n"),
        (_, None) => AdminResponse::status(400, "usage: POST /logging?level=FILTER\n"),
        (Some(log), Some(level)) => match log.set_filter(level) {
            Ok(()) => AdminResponse::text("done\n"),
            Err(error) => AdminResponse::status(400, format!("{error}\n")),
        },
    }
}

fn config(state: &State, streams: &StreamStatus) -> Value {
    json!({
        "objects": state.configuration.objects.ids(),
        "status": state.status,
        "refused_files": state.configuration.refused,
        "ignored": state.configuration.ignored,
        "refused_by_proxies": streams.refusals(),
        "panics_total": panics_total(),
    })
}

/// Every resource as it is served, by type and name. TLS keys are never shown: `Debug` of a
/// certificate leaves them out. `?name=TEXT` keeps those whose name holds the text.
fn resources(state: &State, query: &str) -> Value {
    let wanted = query.split('&').find_map(|p| p.strip_prefix("name="));
    let mut types = serde_json::Map::new();
    for (type_url, resources) in &state.published.types {
        let mut of_type = serde_json::Map::new();
        for (name, served) in resources.iter() {
            if wanted.is_none_or(|w| name.contains(w)) {
                let shown = json!({
                    "version": served.version,
                    "resource": text(&served.resource),
                });
                of_type.insert(name.clone(), shown);
            }
        }
        types.insert((*type_url).to_owned(), Value::Object(of_type));
    }
    Value::Object(types)
}

fn text(resource: &Resource) -> String {
    match resource {
        Resource::Workload(w) => format!("{w:?}"),
        Resource::Service(s) => format!("{s:?}"),
        Resource::Policy(p) | Resource::HttpPolicy(p) => format!("{p:?}"),
        Resource::HttpRoute(r) => format!("{r:?}"),
        Resource::TcpRoute(r) => format!("{r:?}"),
        Resource::Listener(l) => format!("{l:?}"),
    }
}
