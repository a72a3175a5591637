//! Certificate authority: authenticates callers and signs workload CSRs (interop/ca.md).
//!
//! The way of a request: `service` → `authenticate` → `csr` → `grant` (pure) → `issuer`.

mod admin;
mod app;
mod authenticate;
mod csr;
mod grant;
mod incoming;
mod issuer;
mod roots;
mod service;
mod settings;

use clap::Parser;
use std::sync::Arc;

fn main() -> anyhow::Result<()> {
    let settings = settings::Flags::parse().check()?;
    let log = Arc::new(mesh_telemetry::init_logging(
        settings.log.1,
        &settings.log.0,
    )?);
    mesh_tls::install_provider_with(settings.key_exchange);
    let ended = app::run(&settings, &log);
    // What was logged on the way down is written before the process ends.
    log.flush();
    ended
}
