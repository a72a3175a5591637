//! `mesh packages`: the system packages that the demo and the namespace tests need.

use anyhow::Result;
use mesh_lab::packages::{NETWORK, POSTGRES, ensure as ensure_programs, missing};

/// Installs what is missing, when this user may, and says so. PostgreSQL is wanted, not needed.
pub(crate) fn ensure() -> Result<()> {
    ensure_programs(NETWORK, |what| eprintln!("mesh: {what}"))?;
    if let Err(error) = ensure_programs(POSTGRES, |what| eprintln!("mesh: {what}")) {
        eprintln!("mesh: PostgreSQL: {error:#}");
    }
    Ok(())
}

/// Whether PostgreSQL and its client are installed.
pub(crate) fn has_postgres() -> bool {
    missing(POSTGRES).is_empty()
}
