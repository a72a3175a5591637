//! Certificate authority: authenticates callers and signs workload CSRs (interop/ca.md).
//!
//! The way of a request: `service` → `authenticate` → `csr` → `grant` (pure) → `issuer`.

mod admin;
mod app;
mod authenticate;
mod csr;
mod grant;
mod issuer;
mod roots;
mod service;
mod settings;

use clap::Parser;
use mesh_runtime::RunOptions;
use std::sync::Arc;

fn main() -> anyhow::Result<()> {
    let settings = settings::Flags::parse().check()?;
    let log = Arc::new(mesh_telemetry::init_logging(
        settings.log.1,
        &settings.log.0,
    )?);
    mesh_tls::install_provider();
    let inputs_log = log.clone();
    let options = RunOptions {
        // No data plane here; the runtime wants one worker.
        workers: 1,
        drain_deadline: settings.drain_deadline,
    };
    mesh_runtime::run(options, |context| async move {
        let inputs = app::Inputs {
            scope: context.scope,
            connections: context.connections,
            drain: context.drain,
            readiness: context.readiness,
            metrics: mesh_telemetry::Metrics::new("mesh-ca"),
            log: Some(inputs_log),
        };
        app::start(&settings, &inputs).map(drop)
    })?;
    // What was logged on the way down is written before the process ends.
    log.flush();
    Ok(())
}
