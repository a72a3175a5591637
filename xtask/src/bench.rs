//! `cargo xtask bench l4`: build what is measured as it is shipped, then measure.

use crate::run;
use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The programs that are not measured: the harness, control plane and authority.
const HELPERS: &[&str] = &["mesh-benches", "mesh-control", "mesh-ca"];

/// Builds and becomes the benchmark. `--strata FILE` among the arguments measures that program
/// instead of a build of this tree.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let Some(("l4", arguments)) = arguments.split_first().map(|(b, rest)| (b.as_str(), rest))
    else {
        bail!("the benchmark there is: bench l4 [--help]");
    };
    let mut build = vec!["build", "--locked"];
    for package in HELPERS {
        build.extend(["--package", package]);
    }
    run::step("build of the harness", run::cargo(&build))?;
    let root = run::root();
    let mut bench = Command::new(root.join("target/debug/bench-l4"));
    bench.args(arguments);
    let given = |flag: &str| {
        let is = |a: &String| a == flag || a.starts_with(&format!("{flag}="));
        arguments.iter().any(is)
    };
    if !given("--strata") && !given("--help") {
        let release = ["build", "--locked", "--release", "--package", "ztunnel"];
        run::step("release build of ztunnel", run::cargo(&release))?;
        bench
            .arg("--strata")
            .arg(root.join("target/release/ztunnel"));
    }
    if !given("--note") {
        bench.args(["--note", &commit(&root)]);
    }
    let error = bench.exec();
    Err(error).context("the benchmark cannot start")
}

/// What is measured, as git names it.
fn commit(root: &Path) -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty"])
        .current_dir(root);
    let output = git.output().map(|output| output.stdout);
    let name = String::from_utf8_lossy(&output.unwrap_or_default())
        .trim()
        .to_owned();
    if name.is_empty() {
        name
    } else {
        format!("Commit {name}.")
    }
}
