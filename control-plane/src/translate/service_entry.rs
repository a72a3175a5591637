//! ServiceEntry: services by host name, with their inline endpoints (interop/xds-workload.md 8, 9).

use super::Mesh;
use super::output::{Condition, Output};
use super::ports::app_protocol;
use super::service::{PortInfo, ServiceInfo, Services, TargetPort};
use super::waypoint::{Asking, Waypoints};
use super::workloads::WorkloadContext;
use crate::objects::{Objects, ServiceEntry, WorkloadEntrySpec, created_unix_s};
use mesh_model::{
    Cidr, HealthPolicy, Host, LoadBalancing, LoadBalancingMode, ObjectName, Resource, Service,
    ServiceName, ServicePort, Workload,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// First two bytes of addresses allotted to entries that name none (240.240.0.0/16).
const ALLOTTED: [u8; 2] = [240, 240];
/// The IPv6 address allotted beside one of IPv4, but for its last two bytes (2001:2::/48).
const ALLOTTED_V6: [u16; 7] = [0x2001, 2, 0, 0, 0, 0, 0];

/// Translates the services of all entries.
pub(super) fn services(
    objects: &Objects,
    mesh: &Mesh,
    waypoints: &Waypoints<'_>,
    services: &mut Services,
    out: &mut Output,
) {
    let mut allotted = BTreeSet::new();
    // The oldest entry of a host name is the one for clients in other namespaces.
    let mut canonical: BTreeMap<&str, (i64, &ObjectName)> = BTreeMap::new();
    for (name, entry) in &objects.service_entries {
        for host in hosts(entry) {
            let age = (created_unix_s(&entry.metadata), name);
            let oldest = canonical.entry(host).or_insert(age);
            *oldest = age.min(*oldest);
        }
    }
    for (name, entry) in &objects.service_entries {
        let (waypoint, condition) =
            waypoints.bound(Asking::Service, &entry.metadata, &name.namespace);
        if let Some(condition) = condition {
            out.condition("ServiceEntry", name, condition);
        }
        refuse_hosts(name, entry, out);
        for host in hosts(entry) {
            let info = ServiceInfo {
                name: ServiceName::new(name.namespace.clone(), host),
                namespace: name.namespace.clone(),
                selector: entry
                    .spec
                    .workload_selector
                    .as_ref()
                    .map(|s| s.match_labels.clone()),
                ports: ports(entry),
            };
            let mut service = Service::new(info.name.clone(), &name.name);
            service.vips = vips(mesh, entry, name, &info.name, &mut allotted, out);
            service.ports = info.ports.iter().map(|p| p.port).collect();
            service.subject_alt_names = entry
                .spec
                .subject_alt_names
                .iter()
                .filter_map(|s| s.parse().ok())
                .collect();
            service.waypoint = waypoint.clone();
            service.weighted_waypoints =
                waypoints.canary(waypoint.as_ref(), &entry.metadata, &name.namespace);
            service.ingress_use_waypoint =
                waypoint.is_some() && waypoints.for_ingress(&entry.metadata, &name.namespace);
            service.canonical = services.of_hostname("", host).is_none()
                && canonical
                    .get(host.as_str())
                    .is_some_and(|(_, n)| *n == name);
            if entry.spec.resolution == crate::objects::Resolution::None {
                service.load_balancing = LoadBalancing {
                    mode: LoadBalancingMode::Passthrough,
                    health: HealthPolicy::AllowAll,
                    ..LoadBalancing::default()
                };
            }
            if out.put(Resource::Service(Arc::new(service))) {
                services.add(info);
            } else {
                let message = format!("{} is taken by an older object", info.name);
                let condition = Condition::new("Accepted", false, "Conflicted", message);
                out.condition("ServiceEntry", name, condition);
            }
        }
    }
}

/// The hosts that are host names: others could not be asked for, and no proxy would take them.
fn hosts(entry: &ServiceEntry) -> impl Iterator<Item = &String> {
    let hosts = entry.spec.hosts.iter();
    hosts.filter(|host| host.parse::<Host>().is_ok())
}

fn refuse_hosts(name: &ObjectName, entry: &ServiceEntry, out: &mut Output) {
    for host in &entry.spec.hosts {
        if let Err(error) = host.parse::<Host>() {
            let message = format!("spec.hosts: {error}");
            let condition = Condition::new("Accepted", false, "InvalidHost", message);
            out.condition("ServiceEntry", name, condition);
        }
    }
}

fn ports(entry: &ServiceEntry) -> Vec<PortInfo> {
    let port = |p: &crate::objects::ServiceEntryPort| {
        let target = p.target_port.unwrap_or(p.number);
        PortInfo {
            port: ServicePort {
                service_port: p.number,
                target_port: target,
                app_protocol: app_protocol(p.protocol.as_deref(), Some(&p.name)),
            },
            name: p.name.clone(),
            target: TargetPort::Number(target),
        }
    };
    entry.spec.ports.iter().map(port).collect()
}

fn vips(
    mesh: &Mesh,
    entry: &ServiceEntry,
    object: &ObjectName,
    service: &ServiceName,
    allotted: &mut BTreeSet<Ipv4Addr>,
    out: &mut Output,
) -> Vec<(Arc<str>, Cidr)> {
    let mut vips = Vec::new();
    for text in &entry.spec.addresses {
        match text.parse() {
            Ok(range) => vips.push((mesh.network.clone(), range)),
            Err(error) => {
                let message = format!("spec.addresses: {error}");
                let condition = Condition::new("Accepted", false, "InvalidAddress", message);
                out.condition("ServiceEntry", object, condition);
            }
        }
    }
    let resolved = entry.spec.resolution != crate::objects::Resolution::None;
    if entry.spec.addresses.is_empty() && resolved && !service.hostname.starts_with('*') {
        let ip = allot(&service.to_string(), allotted);
        vips.push((mesh.network.clone(), Cidr::host(IpAddr::V4(ip))));
        vips.push((mesh.network.clone(), Cidr::host(beside(ip))));
    }
    vips
}

/// The IPv6 address that goes with an allotted one.
fn beside(ip: Ipv4Addr) -> IpAddr {
    let [_, _, a, b] = ip.octets();
    let [c, d, e, f, g, h, i] = ALLOTTED_V6;
    IpAddr::V6(Ipv6Addr::new(
        c,
        d,
        e,
        f,
        g,
        h,
        i,
        u16::from_be_bytes([a, b]),
    ))
}

/// An address of the allotted range by the name's hash, so that it does not depend on what other
/// entries there are (but for the rare clash).
fn allot(name: &str, taken: &mut BTreeSet<Ipv4Addr>) -> Ipv4Addr {
    // FNV-1a, 32 bit: stable for ever, unlike the standard library's hasher.
    let mut hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    loop {
        let [_, _, a, b] = hash.to_be_bytes();
        let ip = Ipv4Addr::new(ALLOTTED[0], ALLOTTED[1], a, b);
        // With every address taken, sharing one is all that is left.
        if b != 0 && b != 255 && (taken.insert(ip) || taken.len() >= 65_000) {
            return ip;
        }
        hash = hash.wrapping_add(1);
    }
}

/// Translates the inline endpoints of all entries. An entry resolved by DNS without endpoints has
/// its host name for one.
pub(super) fn workloads(cx: &WorkloadContext<'_>, out: &mut Output) {
    use crate::objects::Resolution;
    for (name, entry) in &cx.objects.service_entries {
        if entry.spec.resolution == Resolution::None || entry.spec.workload_selector.is_some() {
            continue;
        }
        if entry.spec.endpoints.is_empty() && entry.spec.resolution != Resolution::Static {
            for host in hosts(entry) {
                let implicit = WorkloadEntrySpec {
                    address: host.clone(),
                    ..WorkloadEntrySpec::default()
                };
                endpoint(cx, name, &implicit, std::slice::from_ref(host), out);
            }
        }
        for spec in &entry.spec.endpoints {
            endpoint(cx, name, spec, &entry.spec.hosts, out);
        }
    }
}

fn endpoint(
    cx: &WorkloadContext<'_>,
    entry: &ObjectName,
    spec: &WorkloadEntrySpec,
    hosts: &[String],
    out: &mut Output,
) {
    let (namespace, name, address) = (&entry.namespace, &entry.name, &spec.address);
    let cluster = &cx.mesh.cluster;
    let uid = format!("{cluster}/networking.istio.io/ServiceEntry/{namespace}/{name}/{address}");
    let mut workload = Workload::new(&uid, namespace, name);
    super::workload_entry::fill(cx, &mut workload, spec);
    for host in hosts {
        let service = ServiceName::new(namespace.clone(), host);
        if let Some(info) = cx.services.get(&service) {
            let ports = super::workload_entry::ports(info, spec);
            workload.services.insert(service, ports);
        }
    }
    if !out.put(Resource::Workload(Arc::new(workload))) {
        let message = format!("spec.endpoints: {address} is there twice");
        let condition = Condition::new("Accepted", false, "Conflicted", message);
        out.condition("ServiceEntry", entry, condition);
    }
}
