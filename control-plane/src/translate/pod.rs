//! Pods.

use super::LABEL_GATEWAY_NAME;
use super::endpoint_slice::Slices;
use super::networks;
use super::output::Output;
use super::service::{ServiceInfo, TargetPort};
use super::waypoint::Asking;
use super::workloads::{WorkloadContext, set_names, set_tunnel};
use crate::objects::label;
use k8s_openapi::api::core::v1::Pod;
use mesh_model::{Health, Locality, NetworkMode, ObjectName, Resource, ServicePort, Workload};
use std::net::IpAddr;
use std::sync::Arc;

pub(super) fn translate(cx: &WorkloadContext<'_>, slices: &Slices<'_>, out: &mut Output) {
    for (name, pod) in &cx.objects.pods {
        if let Some(workload) = workload(cx, slices, name, pod, out) {
            out.put(Resource::Workload(Arc::new(workload)));
        }
    }
}

/// The addresses of a pod, its main one first.
pub(super) fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let many = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut ips = Vec::new();
    for text in status.pod_ip.as_deref().into_iter().chain(many) {
        // What is no address is not one a pod can be reached at.
        let Ok(ip) = text.parse::<IpAddr>() else {
            continue;
        };
        let ip = ip.to_canonical();
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    ips
}

/// `None` for pods that have ended or have no address yet.
fn workload(
    cx: &WorkloadContext<'_>,
    slices: &Slices<'_>,
    name: &ObjectName,
    pod: &Pod,
    out: &mut Output,
) -> Option<Workload> {
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let addresses = addresses(pod);
    if addresses.is_empty() {
        return None;
    }
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let uid = format!("{}//Pod/{}/{}", cx.mesh.cluster, name.namespace, name.name);
    let mut w = Workload::new(&uid, &name.namespace, &name.name);
    w.addresses = addresses;
    w.network = networks::of_pod(cx.mesh, &labels);
    w.cluster = cx.mesh.cluster.clone();
    w.trust_domain = cx.mesh.trust_domain.clone();
    if let Some(spec) = &pod.spec {
        w.service_account = account(pod);
        w.node = spec.node_name.as_deref().unwrap_or_default().into();
        if spec.host_network == Some(true) {
            w.network_mode = NetworkMode::HostNetwork;
        }
    }
    w.locality = locality(cx, &w.node);
    w.health = health(pod);
    set_tunnel(&mut w, &pod.metadata);
    w.encrypt_same_node |= cx.mesh.encrypt_same_node;
    set_names(&mut w, &labels, &owner(pod, &name.name));
    for service in cx.services.selecting(&name.namespace, &labels) {
        w.services.insert(service.name.clone(), ports(service, pod));
    }
    for (service, ports) in slices.of_pod(name, &w.addresses) {
        w.services.entry(service).or_insert(ports);
    }
    set_waypoint(cx, &mut w, name, pod, out);
    w.authorization_policies = cx.policies_of(&name.namespace, &labels);
    Some(w)
}

fn set_waypoint(
    cx: &WorkloadContext<'_>,
    workload: &mut Workload,
    name: &ObjectName,
    pod: &Pod,
    out: &mut Output,
) {
    // A waypoint's own pods are never behind one.
    if label(&pod.metadata, LABEL_GATEWAY_NAME)
        .is_some_and(|gateway| cx.waypoints.is_waypoint(&name.namespace, gateway))
    {
        return;
    }
    let (waypoint, condition) =
        cx.waypoints
            .bound(Asking::Workload, &pod.metadata, &name.namespace);
    workload.waypoint = waypoint;
    // Only the pod's own label is worth a word: a namespace's is mostly meant for services.
    if let Some(condition) = condition
        && label(&pod.metadata, "istio.io/use-waypoint").is_some()
    {
        out.condition("Pod", name, condition);
    }
}

/// Where a node stands, by its labels.
fn locality(cx: &WorkloadContext<'_>, node: &str) -> Locality {
    let node = cx.objects.nodes.get(&ObjectName::new("", node));
    let part = |key: &str| -> Arc<str> {
        let value = node.and_then(|n| label(&n.metadata, key));
        value.unwrap_or_default().into()
    };
    Locality {
        region: part("topology.kubernetes.io/region"),
        zone: part("topology.kubernetes.io/zone"),
        subzone: part("topology.istio.io/subzone"),
    }
}

/// Ready by its condition. A pod written by hand without any conditions counts as ready.
fn health(pod: &Pod) -> Health {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let ready = match conditions {
        None => true,
        Some(list) => list
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True"),
    };
    if ready && pod.metadata.deletion_timestamp.is_none() {
        Health::Healthy
    } else {
        Health::Unhealthy
    }
}

/// The Deployment behind a ReplicaSet, else the owner, else the pod.
fn owner(pod: &Pod, name: &str) -> String {
    let owners = pod.metadata.owner_references.iter().flatten();
    let mut owners = owners.filter(|o| o.controller == Some(true));
    let Some(owner) = owners.next() else {
        return name.to_owned();
    };
    let hash = label(&pod.metadata, "pod-template-hash");
    let deployment = match (owner.kind.as_str(), hash) {
        ("ReplicaSet", Some(hash)) => owner.name.strip_suffix(&format!("-{hash}")),
        _ => None,
    };
    deployment.unwrap_or(&owner.name).to_owned()
}

/// The ports a pod serves of a service; a named target port that the pod lacks is left out.
pub(super) fn ports(service: &ServiceInfo, pod: &Pod) -> Vec<ServicePort> {
    let port = |info: &super::service::PortInfo| {
        let target_port = match &info.target {
            TargetPort::Number(number) => *number,
            TargetPort::Named(name) => container_port(pod, name)?,
        };
        Some(ServicePort {
            target_port,
            ..info.port
        })
    };
    service.ports.iter().filter_map(port).collect()
}

fn container_port(pod: &Pod, name: &str) -> Option<u16> {
    let spec = pod.spec.as_ref()?;
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    let mut tcp = ports.filter(|p| p.protocol.as_deref().is_none_or(|p| p == "TCP"));
    let port = tcp.find(|p| p.name.as_deref() == Some(name))?;
    u16::try_from(port.container_port).ok()
}

/// The service account a pod runs as.
pub(super) fn account(pod: &Pod) -> Arc<str> {
    let name = pod.spec.as_ref().and_then(|s| {
        let current = s.service_account_name.as_deref();
        // The field's former name, still taken by the API server.
        current.or(s.service_account.as_deref())
    });
    name.filter(|n| !n.is_empty()).unwrap_or("default").into()
}
