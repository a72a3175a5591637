//! `cargo xtask demo`: packages, build, then `mesh demo`.

use crate::{packages, run};
use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The packages whose binaries the demo starts.
pub(crate) const BINARIES: &[&str] = &[
    "ztunnel",
    "sidecar",
    "ingress-gateway",
    "mesh-ca",
    "mesh-control",
    "mesh-cli",
];

/// Builds every binary of the mesh.
pub(crate) fn build() -> Result<()> {
    let mut arguments = vec!["build", "--locked"];
    for package in BINARIES {
        arguments.extend(["--package", package]);
    }
    run::step("build", run::cargo(&arguments))
}

/// Runs the demo; this process becomes it.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    packages::ensure()?;
    build()?;
    let mesh = run::root().join("target/debug/mesh");
    if !mesh.is_file() {
        bail!("{} was not built", mesh.display());
    }
    let error = Command::new(&mesh).arg("demo").args(arguments).exec();
    Err(error).with_context(|| format!("{} cannot start", mesh.display()))
}
