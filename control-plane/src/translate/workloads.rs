//! Everything that has an address: pods, WorkloadEntries, endpoints of ServiceEntries and of
//! EndpointSlices (interop/xds-workload.md section 8).

use super::authorization::Policies;
use super::output::Output;
use super::peer_authentication::Peers;
use super::selector::Labels;
use super::service::Services;
use super::waypoint::Waypoints;
use super::{Mesh, endpoint_slice, pod, service_entry, workload_entry};
use crate::objects::{Objects, annotation, label};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_model::{ObjectName, TunnelProtocol, Workload};

const ANNOTATION_REDIRECTION: &str = "ambient.istio.io/redirection";
const LABEL_TUNNEL: &str = "networking.istio.io/tunnel";

/// What workloads are translated with.
pub(super) struct WorkloadContext<'a> {
    pub(super) objects: &'a Objects,
    pub(super) mesh: &'a Mesh,
    pub(super) waypoints: &'a Waypoints<'a>,
    pub(super) services: &'a Services,
    pub(super) policies: &'a Policies,
    pub(super) peers: &'a Peers,
}

impl WorkloadContext<'_> {
    /// The policies that a workload lists: those with a selector, and what PeerAuthentication asks.
    pub(super) fn policies_of(&self, namespace: &str, labels: &Labels) -> Vec<ObjectName> {
        let mut names = self.policies.selecting(namespace, labels);
        names.extend(self.peers.policies_of(namespace, labels));
        names.sort();
        names.dedup();
        names
    }
}

/// Translates all workloads.
pub(super) fn translate(cx: &WorkloadContext<'_>, out: &mut Output) {
    let slices = endpoint_slice::Slices::collect(cx);
    pod::translate(cx, &slices, out);
    workload_entry::translate(cx, out);
    service_entry::workloads(cx, out);
    slices.translate(cx, out);
}

/// Label or annotation: with `encrypt` connections are encrypted even between pods of one node.
const SAME_NODE: &str = "strata.dev/same-node";

/// How a workload is reached, by what its object says of itself.
pub(super) fn set_tunnel(workload: &mut Workload, metadata: &ObjectMeta) {
    let native = label(metadata, LABEL_TUNNEL)
        .is_some_and(|value| value.split(',').any(|protocol| protocol.trim() == "http"));
    let captured = annotation(metadata, ANNOTATION_REDIRECTION) == Some("enabled");
    workload.native_tunnel = native;
    let said = label(metadata, SAME_NODE).or_else(|| annotation(metadata, SAME_NODE));
    workload.encrypt_same_node = said == Some("encrypt");
    if native || captured {
        workload.protocol = TunnelProtocol::Hbone;
    }
}

/// The names telemetry shows.
pub(super) fn set_names(workload: &mut Workload, labels: &Labels, owner: &str) {
    let first = |keys: &[&str]| keys.iter().find_map(|k| labels.get(*k)).cloned();
    let name = first(&["service.istio.io/workload-name"]).unwrap_or_else(|| owner.to_owned());
    let canonical = first(&[
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ]);
    workload.canonical_name = canonical.unwrap_or_else(|| name.clone()).into();
    workload.canonical_revision = first(&[
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ])
    .unwrap_or_else(|| "latest".into())
    .into();
    workload.workload_name = name.into();
}
