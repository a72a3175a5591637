//! Admin pages on loopback, metrics and readiness on ports of their own.

use crate::pods::Shown;
use mesh_proxy::Addresses;
use mesh_proxy::admin::{Common, serve_common};
use mesh_runtime::{AdminResponse, AdminRoutes, Scope};
use std::io;

/// Opens the three ports.
///
/// # Errors
/// When one is taken.
pub(crate) fn serve(scope: &Scope, at: Addresses, common: &Common, pods: Shown) -> io::Result<()> {
    let own = AdminRoutes::new().get("/debug/pods", move |_| AdminResponse::json(&pods.all()));
    serve_common(scope, at, common, own)?;
    Ok(())
}
