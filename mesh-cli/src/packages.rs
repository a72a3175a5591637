//! `mesh packages`: the system packages that the demo and the namespace tests need.

use anyhow::Result;
use mesh_lab::packages::{NETWORK, POSTGRES, ensure as ensure_programs};

/// Installs what is missing, when this user may, and says so.
pub(crate) fn ensure() -> Result<()> {
    let needed: Vec<_> = [NETWORK, POSTGRES].concat();
    ensure_programs(&needed, |what| eprintln!("mesh: {what}"))
}
