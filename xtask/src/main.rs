//! The repository's own tasks: `cargo xtask ci | test | demo | bench | layers`.
//!
//! They need nothing but Rust and a Linux machine: what else is missing they install, and say so.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a developer's tool talks to its terminal"
)]

mod bench;
mod demo;
mod layers;
mod run;
mod test;

use anyhow::{Result, bail};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask <task>

  demo [--once] [--json FILE]   build, then run the demo mesh on this machine
  bench l4 [--peer CMD] ...     measure the node proxy against peers (docs/performance.md)
  test                          every test layer: unit, in-process, network namespaces
  layers [--manifest-path FILE] check that every dependency points to a lower layer
  ci                            format, layers, clippy, documentation, tests";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    match arguments.split_first() {
        Some((task, rest)) => match task.as_str() {
            "demo" => demo::run(rest),
            "bench" => bench::run(rest),
            "test" => test::run(),
            "layers" => layers::run(rest),
            "ci" => ci(),
            _ => bail!("no task '{task}'\n{USAGE}"),
        },
        None => bail!("no task given\n{USAGE}"),
    }
}

/// All that a change must pass; `.ci/run` is this.
fn ci() -> Result<()> {
    run::step("format", run::cargo(&["fmt", "--all", "--check"]))?;
    run::step("layers", run::cargo(&["xtask", "layers"]))?;
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ];
    run::step("clippy", run::cargo(&clippy))?;
    let mut doc = run::cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    run::step("documentation", doc)?;
    test::run()
}
