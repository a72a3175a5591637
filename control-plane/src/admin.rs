//! Admin pages: configuration and its conditions, what is served, metrics, readiness.

use crate::app::State;
use crate::settings::Settings;
use crate::status::StreamStatus;
use mesh_model::Resource;
use mesh_proxy::Addresses;
use mesh_proxy::admin::Common;
use mesh_runtime::{AdminResponse, AdminRoutes, Scope, panics_total};
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use tokio::sync::watch;

/// What the pages show.
pub(crate) struct Pages {
    pub(crate) state: watch::Receiver<Arc<State>>,
    pub(crate) streams: Arc<StreamStatus>,
    pub(crate) common: Common,
}

/// Opens the three ports.
///
/// # Errors
/// When one is taken.
pub(crate) fn serve(scope: &Scope, settings: &Settings, pages: &Pages) -> io::Result<()> {
    let (state, streams) = (pages.state.clone(), pages.streams.clone());
    let served = pages.state.clone();
    let admin = AdminRoutes::new()
        .get("/debug/config", move |_| {
            AdminResponse::json(&config(&state.borrow(), &streams))
        })
        .get("/debug/resources", move |query| {
            AdminResponse::json(&resources(&served.borrow(), query))
        });
    let at = Addresses {
        metrics: settings.metrics_address,
        readiness: settings.readiness_address,
        admin: settings.admin_address,
    };
    mesh_proxy::admin::serve_common(scope, at, &pages.common, admin)?;
    Ok(())
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
