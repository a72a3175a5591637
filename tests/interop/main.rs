//! The wire against another implementation of it: Istio's ztunnel in pods of its own, fed by our
//! control plane and our authority, talks to our node proxy, both ways.
//!
//! The peer is no part of this project. `STRATA_PEER_ZTUNNEL` names its binary; without it nothing is
//! tested:
//!
//! ```text
//! STRATA_PEER_ZTUNNEL=/path/to/ztunnel cargo test -p mesh-tests --test interop
//! ```
//!
//! The proxies of the build folder are used as they are: build them first. At the end stands the
//! matrix. Its outer columns, each side with itself, tell a fault of the set-up from one of the wire.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test runner talks to its terminal"
)]

mod apps;
#[path = "../shared/bytes.rs"]
mod bytes;
mod matrix;
mod mesh;
mod names;
mod pattern;
mod roots;
mod rows;
mod shared;
mod talk;

use libtest_mimic::Arguments;
use mesh_lab::isolate::{Side, isolate};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let peer = match peer() {
        Ok(Some(peer)) => peer,
        Ok(None) => {
            println!("SKIPPED: STRATA_PEER_ZTUNNEL does not name a ztunnel to test against");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("STRATA_PEER_ZTUNNEL: {why}");
            return ExitCode::FAILURE;
        }
    };
    match isolate(Vec::new()) {
        Ok(Side::Outside(code)) => code,
        Ok(Side::Inside(_)) => inside(&arguments, peer),
        // Asked for by name, so not to be passed over.
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The peer's binary, when one is named.
#[expect(clippy::disallowed_methods, reason = "the test runner's one setting")]
fn peer() -> std::io::Result<Option<PathBuf>> {
    match std::env::var("STRATA_PEER_ZTUNNEL") {
        Ok(path) if !path.is_empty() => PathBuf::from(path).canonicalize().map(Some),
        _ => Ok(None),
    }
}

fn inside(arguments: &Arguments, peer: PathBuf) -> ExitCode {
    let matrix = matrix::Shared::new(peer);
    let mut trials = matrix.trials();
    trials.push(matrix.trial("their_ztunnel_under_our_node_agent", shared::run));
    let conclusion = libtest_mimic::run(arguments, trials);
    matrix.finish(conclusion.has_failed());
    conclusion.exit_code()
}
