//! `mesh-control check`: the configuration read once, as the server would read it.

use crate::translate::{Mesh, translate};
use crate::watch::Watch;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Prints every refused file and every condition that does not hold; failure when there is one.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) fn run(config: &Path, mesh: &Mesh) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let configuration = runtime.block_on(Watch::open(config, None))?.configuration();
    let translation = translate(&configuration.objects, mesh);
    let mut out = std::io::stdout().lock();
    let mut mistakes = 0_usize;
    for r in &configuration.refused {
        let parts = [
            Some(&r.file),
            r.object.as_ref(),
            r.field.as_ref(),
            Some(&r.why),
        ];
        let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
        writeln!(out, "{}", parts.join(": "))?;
        mistakes += 1;
    }
    for status in &translation.status {
        // `Conflicted` is bad when it holds, every other kind when it does not.
        let bad = |c: &&crate::translate::Condition| c.status == (c.kind == "Conflicted");
        for c in status.conditions.iter().filter(bad) {
            let about = c.about.as_deref().unwrap_or_default();
            writeln!(
                out,
                "{}: {about} {} {}: {}",
                status.object, c.kind, c.reason, c.message
            )?;
            mistakes += 1;
        }
    }
    if mistakes > 0 {
        return Ok(ExitCode::FAILURE);
    }
    let objects = configuration.objects.ids().len();
    writeln!(
        out,
        "{objects} objects, {} resources",
        translation.resources.len()
    )?;
    Ok(ExitCode::SUCCESS)
}
