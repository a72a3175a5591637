//! Which pods the demo has: read from the same YAML that the control plane reads.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What serves a pod's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodRole {
    /// The node's ztunnel.
    Ambient,
    /// A sidecar of its own.
    Sidecar,
    /// It is an ingress gateway.
    Gateway,
    /// It is a waypoint.
    Waypoint,
    /// It leads into another network.
    NetworkGateway,
}

/// A pod of the demo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSpec {
    /// Name; its network namespace is called the same.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Address on the pod network.
    pub address: IpAddr,
    /// Node.
    pub node: String,
    /// Service account.
    pub service_account: String,
    /// What serves its traffic.
    pub role: PodRole,
    /// Its network, when its label `topology.istio.io/network` names one.
    pub network: Option<String>,
}

#[derive(Deserialize)]
struct PodObject {
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: String,
    service_account_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(rename = "podIP")]
    pod_ip: IpAddr,
}

/// Reads a multi-document file of Pod objects.
///
/// # Errors
/// When the file is none, or no part of the mesh is named to serve a pod.
pub fn read(yaml: &str) -> Result<Vec<PodSpec>> {
    let objects: Vec<PodObject> =
        serde_saphyr::from_multiple(yaml).context("the demo's pods.yaml")?;
    objects.into_iter().map(pod).collect()
}

fn pod(object: PodObject) -> Result<PodSpec> {
    let Metadata {
        name,
        namespace,
        labels,
        annotations,
    } = object.metadata;
    let gateway = labels
        .get("gateway.networking.k8s.io/gateway-name")
        .map(String::as_str);
    let network = labels.get("topology.istio.io/network").cloned();
    let role = if gateway == Some("waypoint") {
        PodRole::Waypoint
    } else if gateway.is_some() && network.is_some() {
        PodRole::NetworkGateway
    } else if gateway.is_some() {
        PodRole::Gateway
    } else if annotations.contains_key("ambient.istio.io/redirection") {
        PodRole::Ambient
    } else if annotations.contains_key("sidecar.istio.io/status") {
        PodRole::Sidecar
    } else {
        bail!("pod {name}: its labels and annotations name no part of the mesh to serve it");
    };
    Ok(PodSpec {
        name,
        namespace,
        address: object.status.pod_ip,
        node: object.spec.node_name,
        service_account: object.spec.service_account_name,
        role,
        network,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_own_pods_are_read() {
        let pods = read(super::super::configuration::PODS).unwrap();
        assert!(pods.len() >= 8);
        let role = |name: &str| pods.iter().find(|p| p.name == name).unwrap().role;
        assert_eq!(role("gateway"), PodRole::Gateway);
        assert_eq!(role("waypoint"), PodRole::Waypoint);
        assert_eq!(role("frontend"), PodRole::Sidecar);
        assert_eq!(role("ratings"), PodRole::Ambient);
    }

    #[test]
    fn a_gateway_with_a_network_leads_there() {
        let pod = "
apiVersion: v1
kind: Pod
metadata:
  name: edge
  namespace: demo
  labels: {gateway.networking.k8s.io/gateway-name: edge, topology.istio.io/network: west}
spec: {nodeName: node-1, serviceAccountName: edge}
status: {podIP: 10.42.1.9}
";
        let pod = read(pod).unwrap().remove(0);
        assert_eq!(
            (pod.role, pod.network.as_deref()),
            (PodRole::NetworkGateway, Some("west"))
        );
    }
}
