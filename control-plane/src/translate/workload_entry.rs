//! WorkloadEntry: a workload that is no pod.

use super::output::Output;
use super::selector::Labels;
use super::service::{ServiceInfo, TargetPort};
use super::waypoint::Asking;
use super::workloads::{WorkloadContext, set_names, set_tunnel};
use crate::objects::{WorkloadEntry, WorkloadEntrySpec};
use mesh_model::{Locality, ObjectName, Resource, ServicePort, Workload};
use std::net::IpAddr;
use std::sync::Arc;

pub(super) fn translate(cx: &WorkloadContext<'_>, out: &mut Output) {
    for (name, entry) in &cx.objects.workload_entries {
        let workload = workload(cx, name, entry, out);
        out.put(Resource::Workload(Arc::new(workload)));
    }
}

fn workload(
    cx: &WorkloadContext<'_>,
    name: &ObjectName,
    entry: &WorkloadEntry,
    out: &mut Output,
) -> Workload {
    let cluster = &cx.mesh.cluster;
    let (namespace, own) = (&name.namespace, &name.name);
    let uid = format!("{cluster}/networking.istio.io/WorkloadEntry/{namespace}/{own}");
    let mut w = Workload::new(&uid, namespace, own);
    fill(cx, &mut w, &entry.spec);
    set_tunnel(&mut w, &entry.metadata);
    let mut labels: Labels = entry.metadata.labels.clone().unwrap_or_default();
    labels.extend(entry.spec.labels.clone());
    set_names(&mut w, &labels, own);
    for service in cx.services.selecting(namespace, &labels) {
        w.services
            .insert(service.name.clone(), ports(service, &entry.spec));
    }
    let bound = cx
        .waypoints
        .bound(Asking::Workload, &entry.metadata, namespace);
    w.waypoint = bound.0;
    if let Some(condition) = bound.1 {
        out.condition("WorkloadEntry", name, condition);
    }
    w.authorization_policies = cx.policies_of(namespace, &labels);
    w
}

/// What WorkloadEntries and inline endpoints have in common.
pub(super) fn fill(cx: &WorkloadContext<'_>, w: &mut Workload, spec: &WorkloadEntrySpec) {
    match spec.address.parse::<IpAddr>() {
        Ok(ip) => w.addresses = vec![ip.to_canonical()],
        Err(_) if !spec.address.is_empty() => w.hostname = Some(spec.address.as_str().into()),
        Err(_) => {}
    }
    w.network = if spec.network.is_empty() {
        cx.mesh.network.clone()
    } else {
        spec.network.as_str().into()
    };
    w.cluster = cx.mesh.cluster.clone();
    w.trust_domain = cx.mesh.trust_domain.clone();
    if !spec.service_account.is_empty() {
        w.service_account = spec.service_account.as_str().into();
    }
    let mut parts = spec.locality.splitn(3, '/');
    let mut part = || -> Arc<str> { parts.next().unwrap_or_default().into() };
    w.locality = Locality {
        region: part(),
        zone: part(),
        subzone: part(),
    };
    w.capacity = spec.weight.unwrap_or(1).max(1);
}

/// The ports served of a service: by the entry's own map of port names, else the service's target.
pub(super) fn ports(service: &ServiceInfo, spec: &WorkloadEntrySpec) -> Vec<ServicePort> {
    let port = |info: &super::service::PortInfo| {
        let target_port = match (spec.ports.get(&info.name), &info.target) {
            (Some(port), _) => *port,
            (None, TargetPort::Number(port)) => *port,
            (None, TargetPort::Named(name)) => *spec.ports.get(name)?,
        };
        Some(ServicePort {
            target_port,
            ..info.port
        })
    };
    service.ports.iter().filter_map(port).collect()
}
