//! Where a tunnelled connection ends: the decision of the proxy in front of a workload.

use crate::{Authority, Refusal};
use mesh_model::{Reason, Snapshot, Workload};
use std::net::{IpAddr, SocketAddr};

/// The application's address for a CONNECT that reached `local` at `local_ip` (interop/hbone.md,
/// authority-IP rule). The address is always `local_ip`; only the port comes from the authority.
///
/// # Errors
/// [`Reason::WrongDestination`] when the authority names something else than this workload;
/// [`Reason::ConnectFailed`] for the proxy's own ports; [`Reason::NoEndpoint`] when a host name or
/// its port is not known.
pub fn inbound(
    snapshot: &Snapshot,
    local: &Workload,
    local_ip: IpAddr,
    authority: &Authority,
) -> Result<SocketAddr, Refusal> {
    let _ = (snapshot, local, local_ip, authority);
    Err(Refusal::new(Reason::Internal, "no plan"))
}
