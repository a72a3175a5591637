//! Which policies each L7 proxy enforces. ztunnel's are `Snapshot::policies_for`.

use crate::WaypointTarget;
use mesh_model::{ObjectName, PolicySet, ServiceName, Snapshot, Workload};
use std::collections::BTreeSet;

/// GatewayClasses of waypoints: ours, and the one whose policies users bring along.
const WAYPOINT_CLASSES: [&str; 2] = ["strata-waypoint", "istio-waypoint"];
/// GatewayClasses of ingress gateways, likewise.
const GATEWAY_CLASSES: [&str; 2] = ["strata", "istio"];

/// The policies of a sidecar, for connections (evaluated without a request) and for requests alike:
/// each in full where it was sent in full, else its L4 projection. The projection of an ALLOW on HTTP
/// fields allows nothing, so a sidecar must not enforce it beside the policy in full.
pub fn sidecar_policies(snapshot: &Snapshot, workload: &Workload) -> PolicySet {
    let mut set = snapshot.http_policies_for(workload);
    let projected = snapshot.policies_for(workload);
    let full: BTreeSet<ObjectName> = set.policies.iter().map(|p| p.name.clone()).collect();
    for policy in projected.policies {
        if !full.contains(&policy.name) {
            set.policies.push(policy);
        }
    }
    let known: BTreeSet<&ObjectName> = set.policies.iter().map(|p| &p.name).collect();
    set.missing.retain(|name| !known.contains(name));
    set
}

/// The policies of the waypoint `me` for a target: those whose `targetRefs` name the service, the
/// waypoint's Gateway or its class (interop/authz.md section 5). The Gateway is known by the services
/// `me` stands behind, which carry its name (interop/waypoint.md section 6).
pub fn waypoint_policies(snapshot: &Snapshot, me: &Workload, target: &WaypointTarget) -> PolicySet {
    let mut set = PolicySet {
        compatibility: snapshot.policy_compatibility(),
        ..PolicySet::default()
    };
    if let WaypointTarget::Service { service, .. } = target {
        for kind in ["Service", "ServiceEntry"] {
            let ServiceName {
                namespace,
                hostname,
            } = &service.name;
            extend(
                &mut set,
                snapshot.http_policies_for_target(kind, namespace, hostname),
            );
        }
    }
    for name in me.services.keys() {
        if let Some(own) = snapshot.service(name) {
            let (namespace, name) = (&own.name.namespace, &own.short_name);
            extend(
                &mut set,
                snapshot.http_policies_for_target("Gateway", namespace, name),
            );
        }
    }
    extend_classes(snapshot, &mut set, &WAYPOINT_CLASSES);
    set
}

/// The policies of the network gateway `me`: those of its workload, and those whose `targetRefs` name
/// its Gateway, which is known by the services `me` stands behind. What is in the tunnels it passes on
/// is judged at their far end.
pub fn network_gateway_policies(snapshot: &Snapshot, me: &Workload) -> PolicySet {
    let mut set = sidecar_policies(snapshot, me);
    for own in me.services.keys().filter_map(|name| snapshot.service(name)) {
        let (namespace, name) = (&own.name.namespace, &own.short_name);
        extend(
            &mut set,
            snapshot.http_policies_for_target("Gateway", namespace, name),
        );
    }
    set
}

/// The policies of an ingress gateway: those whose `targetRefs` name it or its class, and those that
/// select its workload. What PeerAuthentication was turned into is left out: it says how members of
/// the mesh may be reached by each other, and a gateway's clients are not members.
///
/// Of a workload that is not known only the policies that list it are unknown: those of its
/// namespace and of the mesh apply all the same.
pub fn gateway_policies(
    snapshot: &Snapshot,
    gateway: &ObjectName,
    workload: Option<&Workload>,
) -> PolicySet {
    let (namespace, name) = (&gateway.namespace, &gateway.name);
    let mut set = snapshot.http_policies_for_target("Gateway", namespace, name);
    extend_classes(snapshot, &mut set, &GATEWAY_CLASSES);
    let unknown = || Workload::new("", namespace, "");
    let mut own = match workload {
        Some(workload) => sidecar_policies(snapshot, workload),
        None => sidecar_policies(snapshot, &unknown()),
    };
    own.policies
        .retain(|p| !is_from_peer_authentication(&p.name));
    own.missing
        .retain(|name| !is_from_peer_authentication(name));
    extend(&mut set, own);
    set
}

/// Whether a policy is what a PeerAuthentication was turned into (interop/authz.md section 4). The
/// underscore keeps its name apart from every name a user can give.
fn is_from_peer_authentication(policy: &ObjectName) -> bool {
    &*policy.name == "istio_converted_static_strict"
        || policy.name.starts_with("converted_peer_authentication_")
}

fn extend_classes(snapshot: &Snapshot, set: &mut PolicySet, classes: &[&str]) {
    for class in classes {
        extend(
            set,
            snapshot.http_policies_for_target("GatewayClass", "", class),
        );
    }
}

fn extend(set: &mut PolicySet, more: PolicySet) {
    for policy in more.policies {
        if !set.policies.iter().any(|p| p.name == policy.name) {
            set.policies.push(policy);
        }
    }
    set.missing.extend(more.missing);
}

#[cfg(test)]
mod tests;
