//! `ztunnel`: mutual TLS at L4 for every pod of a node.
//!
//! Rooms: `settings` reads flags and environment, `app` puts the parts together, `pods` starts and
//! stops pods, and `outbound`, `inbound` and `inbound_plaintext` carry their connections.

mod admin;
mod app;
mod application;
mod dns;
mod facts;
mod hostnames;
mod inbound;
mod inbound_plaintext;
mod local;
mod node;
mod outbound;
mod pods;
mod same_node;
mod settings;

use clap::Parser;
use mesh_proxy::limits;
use std::process::ExitCode;

fn main() -> ExitCode {
    let flags = settings::Flags::parse();
    match flags.check().and_then(app::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "logging may not be set up")]
            {
                eprintln!("ztunnel: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
