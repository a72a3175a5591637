//! `cargo xtask demo`: build, then `mesh demo`, which sees to the rest.

use crate::run;
use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// The packages whose binaries the demo starts.
pub(crate) const BINARIES: &[&str] = &[
    "ztunnel",
    "node-agent",
    "sidecar",
    "ingress-gateway",
    "mesh-ca",
    "mesh-control",
    "mesh-cli",
];

/// Builds every binary of the mesh and gives the path of `mesh`.
pub(crate) fn build() -> Result<PathBuf> {
    let mut arguments = vec!["build", "--locked"];
    for package in BINARIES {
        arguments.extend(["--package", package]);
    }
    run::step("build", run::cargo(&arguments))?;
    mesh()
}

/// Where `mesh` is once it is built.
pub(crate) fn mesh() -> Result<PathBuf> {
    let mesh = run::root().join("target/debug/mesh");
    if !mesh.is_file() {
        bail!("{} was not built", mesh.display());
    }
    Ok(mesh)
}

/// Runs the demo; this process becomes it.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mesh = build()?;
    let error = Command::new(&mesh).arg("demo").args(arguments).exec();
    Err(error).with_context(|| format!("{} cannot start", mesh.display()))
}
