//! A root that takes the place of another, as an operator does it without a gap: first everybody trusts
//! both, then the authority signs by the new one (interop/ca.md, "Migrating without downtime").

use crate::mesh::{Mesh, binaries};
use anyhow::{Context, Result};
use mesh_lab::process::Process;
use mesh_lab::world::processes;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The files of an authority, beside the roots all trust.
const SIGNER: [&str; 2] = ["ca-key.pem", "ca-cert.pem"];
const ROOTS: &str = "root-cert.pem";
/// How often it is looked whether a root is made.
const STEP: Duration = Duration::from_millis(20);
const STEPS_MAX: u32 = 1000;

/// Makes a key and its root: another authority's first start. Gives its folder.
pub(crate) async fn make(mesh: &Mesh) -> Result<PathBuf> {
    let base = tempfile::Builder::new()
        .prefix("next-root-")
        .tempdir_in(mesh.folder())?
        .keep();
    let binaries = binaries()?;
    let token = mesh.folder().join("tokens/mesh-ca");
    let mut spec = processes::authority(&binaries, &base, &token);
    // Not the log of the one that runs.
    spec.name = "next mesh-ca".to_owned();
    fs::create_dir_all(base.join("logs"))?;
    let state = base.join("ca");
    // Its signer is written before its roots. It has nobody to serve, and ends here.
    let process = Process::start(mesh.topology.outside(), spec)?;
    for _ in 0..STEPS_MAX {
        if state.join(ROOTS).exists() {
            drop(process);
            return Ok(state);
        }
        tokio::time::sleep(STEP).await;
    }
    anyhow::bail!("no root in {}", state.display())
}

/// Has every proxy trust the next root beside those it trusts: they are told with their next
/// certificate. Gives how many roots that makes.
pub(crate) async fn trust_also(mesh: &mut Mesh, next: &Path) -> Result<usize> {
    let file = mesh.folder().join("ca").join(ROOTS);
    let roots = fs::read_to_string(&file)? + &fs::read_to_string(next.join(ROOTS))?;
    replace(&file, &roots, 0o644)?;
    mesh.restart_authority().await?;
    Ok(roots.matches("BEGIN CERTIFICATE").count())
}

/// Has the authority sign by the next root.
pub(crate) async fn sign_by(mesh: &mut Mesh, next: &Path) -> Result<()> {
    let state = mesh.folder().join("ca");
    for (name, mode) in SIGNER.into_iter().zip([0o600, 0o644]) {
        let text = fs::read_to_string(next.join(name)).with_context(|| name.to_owned())?;
        replace(&state.join(name), &text, mode)?;
    }
    mesh.restart_authority().await
}

/// Whole or not at all: others read it meanwhile.
fn replace(file: &Path, text: &str, mode: u32) -> Result<()> {
    use std::io::Write;
    let beside = file.with_extension("new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    options.open(&beside)?.write_all(text.as_bytes())?;
    fs::rename(&beside, file).with_context(|| file.display().to_string())
}
