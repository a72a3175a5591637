//! Control plane: reads configuration, translates it to the model and serves it over delta xDS.
//!
//! The way of an object: `watch` → `objects` (typed, strictly) → `translate` (pure) → `published`
//! (encoded once) → `serve` (differences, a stream at a time).

mod admin;
mod app;
mod check;
mod objects;
mod published;
mod serve;
mod settings;
mod status;
mod tokens;
mod translate;
mod watch;

use clap::Parser;
use settings::{Settings, Task};
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

fn main() -> anyhow::Result<ExitCode> {
    match settings::Flags::parse().check()? {
        Task::Run(settings) => run(&settings)?,
        Task::Token { state, caller, ttl } => {
            let token = tokens::Tokens::open(&state)?.issue(&caller, ttl)?;
            writeln!(std::io::stdout(), "{token}")?;
        }
        Task::Check { config, mesh } => return check::run(&config, &mesh),
    }
    Ok(ExitCode::SUCCESS)
}

fn run(settings: &Settings) -> anyhow::Result<()> {
    let (filter, format) = &settings.log;
    let log = Arc::new(mesh_telemetry::init_logging(*format, filter)?);
    mesh_tls::install_provider_with(settings.key_exchange);
    let options = mesh_runtime::RunOptions {
        // No data plane here; the runtime wants one worker.
        workers: 1,
        drain_deadline: Duration::ZERO,
    };
    let handle = log.clone();
    mesh_runtime::run(options, |context| async move {
        let inputs = app::Inputs {
            scope: context.scope,
            readiness: context.readiness,
            metrics: mesh_telemetry::Metrics::new("mesh-control"),
            log: Some(handle),
        };
        app::start(settings, &inputs).await.map(drop)
    })?;
    // What was logged on the way down is written before the process ends.
    log.flush();
    Ok(())
}
