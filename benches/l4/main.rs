//! The data path at L4, measured against named peers: `cargo xtask bench l4`, docs/performance.md.
//!
//! Two nodes in network namespaces, a pair of proxies between a client pod and a server pod, and the
//! same load for each contender in turn, round after round. Only differences within one run mean
//! anything, and nothing here passes or fails by a time.
//!
//! Rooms: `settings` what to run, `mesh` the nodes and proxies, `load` the load itself, `usage` what
//! a proxy cost, `rows` one sample of each row, `report` what comes out.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark talks to its terminal"
)]

mod contender;
mod limit;
mod load;
mod mesh;
mod net;
mod report;
mod rows;
mod run;
mod settings;
mod usage;

use clap::Parser;
use mesh_lab::isolate::{Side, isolate};
use settings::Settings;
use std::process::ExitCode;

/// Ended because there is nowhere to make namespaces; a test takes it for "skipped".
const EXIT_NO_NAMESPACES: u8 = 77;

fn main() -> ExitCode {
    let settings = Settings::parse();
    match isolate(Vec::new()) {
        Ok(Side::Outside(code)) => code,
        Ok(Side::Inside(_)) => match run::run(&settings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bench l4: {error:#}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprintln!("bench l4: {error:#}");
            ExitCode::from(EXIT_NO_NAMESPACES)
        }
    }
}
