//! `sidecar`: the proxy of one pod, L4 and L7 both ways, and with `--role waypoint` the L7 proxy in
//! front of the services bound to it, or with `--role network-gateway` the gateway between its network
//! and others.
//!
//! Rooms: `settings` reads flags and environment, `app` puts the parts together, and `outbound`,
//! `inbound`, `plaintext`, `waypoint` and `network_gateway` carry connections. `sidecar init` sets up the redirection.

mod admin;
mod admission;
mod app;
mod arrival;
mod detect;
mod facts;
mod inbound;
mod init;
mod local;
mod network_gateway;
mod outbound;
mod plaintext;
mod proxy;
mod session;
mod settings;
mod tunnel;
mod waypoint;
mod worker;

#[cfg(test)]
mod tests;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match settings::Command::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "logging may not be set up")]
            {
                eprintln!("sidecar: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
