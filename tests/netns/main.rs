//! The namespace layer: the real binaries in network namespaces, real iptables, real peers.
//!
//! First the demo, as a user runs it; then this program runs itself again inside namespaces of its
//! own, starts one mesh there and puts it through what the demo does not.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test runner talks to its terminal"
)]

#[path = "../shared/bytes.rs"]
mod bytes;
mod demo;
mod dns;
mod faults;
mod load;
mod pods;
mod trace;
mod transfers;
mod world;

use libtest_mimic::{Arguments, Trial};
use mesh_lab::isolate::{self, Side};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if isolate::is_isolated() {
        return inside(&arguments);
    }
    let demo = libtest_mimic::run(&arguments, demo::trials());
    let listing = arguments.list;
    match isolate::isolate(Vec::new()) {
        Ok(Side::Outside(code)) if demo.has_failed() => {
            println!("the demo's tests failed; those inside ended with {code:?}");
            ExitCode::FAILURE
        }
        Ok(Side::Outside(code)) => code,
        Ok(Side::Inside(_)) => ExitCode::FAILURE,
        Err(_) if listing => ExitCode::SUCCESS,
        Err(error) => skipped(&format!("{error:#}"), demo.has_failed()),
    }
}

/// Without namespaces this layer proves nothing: loud anywhere, a failure in CI.
#[expect(clippy::disallowed_methods, reason = "the test runner's one setting")]
fn skipped(why: &str, failed: bool) -> ExitCode {
    eprintln!("SKIPPED: the namespace tests did not run: {why}");
    if failed || std::env::var("CI").is_ok() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn inside(arguments: &Arguments) -> ExitCode {
    let user_namespace = match isolate::isolate(Vec::new()) {
        Ok(Side::Inside(inside)) => inside.user_namespace,
        Ok(Side::Outside(code)) => return code,
        Err(error) => return skipped(&format!("{error:#}"), false),
    };
    if let Err(error) = dns::resolv_conf() {
        return skipped(&format!("{error:#}"), false);
    }
    let world = world::Shared::new(user_namespace);
    let mut trials: Vec<Trial> = Vec::new();
    trials.extend(trace::trials(&world));
    trials.extend(dns::trials(&world));
    trials.extend(load::trials(&world));
    trials.extend(faults::trials(&world));
    trials.extend(transfers::trials(&world));
    trials.extend(pods::trials(&world));
    let conclusion = libtest_mimic::run(arguments, trials);
    world.stop();
    conclusion.exit_code()
}
