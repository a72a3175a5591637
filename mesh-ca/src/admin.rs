//! Admin pages: what the authority signs with and for whom, metrics, readiness.

use crate::roots::Authority;
use crate::settings::Settings;
use mesh_discovery::StatusReceiver;
use mesh_proxy::Addresses;
use mesh_proxy::admin::Common;
use mesh_runtime::{AdminResponse, AdminRoutes, Scope, panics_total};
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

/// What the pages show.
pub(crate) struct Pages {
    pub(crate) authority: Arc<Authority>,
    pub(crate) common: Common,
    pub(crate) discovery: Option<StatusReceiver>,
}

/// Opens the three ports.
///
/// # Errors
/// When one is taken.
pub(crate) fn serve(scope: &Scope, settings: &Settings, pages: &Pages) -> io::Result<()> {
    let config = config(settings, &pages.authority);
    let discovery = pages.discovery.clone();
    let roots = pages.authority.roots_pem.clone();
    let admin = AdminRoutes::new()
        .get("/root-cert.pem", move |_| {
            AdminResponse::text(roots.clone())
        })
        .get("/config_dump", move |_| {
            let mut config = config.clone();
            config["panics_total"] = json!(panics_total());
            config["discovery"] = json!(discovery.as_ref().map(|d| d.borrow().clone()));
            AdminResponse::json(&config)
        });
    let at = Addresses {
        metrics: settings.metrics_address,
        readiness: settings.readiness_address,
        admin: settings.admin_address,
    };
    mesh_proxy::admin::serve_common(scope, at, &pages.common, admin)?;
    Ok(())
}

/// What does not change while the process lives. No secret is in it.
fn config(settings: &Settings, authority: &Authority) -> Value {
    let rules = &settings.rules;
    let text = |name: &mesh_model::ObjectName| name.to_string();
    let unix_s = authority
        .not_after
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let serving: serde_json::Map<String, Value> = rules
        .serving_names
        .iter()
        .map(|(account, names)| (account.to_string(), json!(names)))
        .collect();
    json!({
        "signer": {
            "subject": authority.subject,
            "serial": authority.serial,
            "not_after_unix_s": unix_s,
            "intermediates_pem": authority.intermediates_pem,
        },
        "roots_pem": authority.roots_pem,
        "trust_domain": rules.trust_domain,
        "trusted_node_accounts": rules.trusted_node_accounts.iter().map(text).collect::<Vec<_>>(),
        "serving_names": serving,
        "ttl_default_s": rules.ttl_default.as_secs(),
        "ttl_max_s": rules.ttl_max.as_secs(),
        "token_keys": settings.token_keys,
        "token_audiences": settings.token_audiences,
        "own_dns_names": settings.own.1,
    })
}
