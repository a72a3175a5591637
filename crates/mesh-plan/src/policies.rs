//! Which policies each L7 proxy enforces. ztunnel's are `Snapshot::policies_for`.

use crate::WaypointTarget;
use mesh_model::{ObjectName, PolicySet, Snapshot, Workload};

/// The policies of a sidecar, for connections (evaluated without a request) and for requests alike:
/// each in full where it was sent in full, else its L4 projection.
pub fn sidecar_policies(snapshot: &Snapshot, workload: &Workload) -> PolicySet {
    snapshot.http_policies_for(workload)
}

/// The policies of the waypoint `me` for a target: those whose `targetRefs` name the service, the
/// waypoint's Gateway or its class (interop/authz.md section 5).
pub fn waypoint_policies(snapshot: &Snapshot, me: &Workload, target: &WaypointTarget) -> PolicySet {
    let _ = (snapshot, me, target);
    PolicySet::default()
}

/// The policies of an ingress gateway: those whose `targetRefs` name it, and those that select its
/// workload.
pub fn gateway_policies(
    snapshot: &Snapshot,
    gateway: &ObjectName,
    workload: Option<&Workload>,
) -> PolicySet {
    let _ = (snapshot, gateway, workload);
    PolicySet::default()
}
