//! `ingress-gateway`: the edge of the mesh.
//!
//! Rooms: `settings` reads flags and environment, `app` puts the parts together, `listeners` keeps
//! the sockets as the Gateway wants them, `http` and `stream` carry what comes in.

mod admin;
mod app;
mod http;
mod listeners;
mod settings;
mod stream;
mod worker;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let flags = settings::Flags::parse();
    match flags.check().and_then(app::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            #[expect(clippy::print_stderr, reason = "logging may not be set up yet")]
            {
                eprintln!("ingress-gateway: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
