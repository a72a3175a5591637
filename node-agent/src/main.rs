//! `node-agent`: redirects the pods of a node and tells the node's proxy of them (interop/zds-cni.md).
//!
//! The way of a pod: `pods` hears of it, `rules` redirects its traffic, and the ZDS server of
//! `mesh-zds` tells the proxy. `admin` shows how far each has come.

mod admin;
mod app;
mod pods;
mod rules;
mod settings;

use clap::Parser;
use std::sync::Arc;

fn main() -> anyhow::Result<()> {
    let settings = settings::Flags::parse().check()?;
    let (filter, format) = (&settings.log_filter, settings.log_format);
    let log = Arc::new(mesh_telemetry::init_logging(format, filter)?);
    let ended = app::run(settings, &log);
    // What was logged on the way down is written before the process ends.
    log.flush();
    ended
}
