//! A small mesh for this crate's tests.

use crate::Client;
use mesh_model::{
    AppProtocol, AuthorizationPolicy, Backend, Cidr, GatewayAddress, GatewayDestination,
    HttpRouteRule, ObjectName, ParentRef, Resource, RouteRuleName, RouteTimeouts, Service,
    ServiceName, ServicePort, Snapshot, SnapshotBuilder, TunnelProtocol, WeightedBackend, Workload,
};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub(crate) fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

pub(crate) fn vip(last: u8) -> IpAddr {
    IpAddr::from([10, 96, 0, last])
}

pub(crate) fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

pub(crate) fn name(short: &str) -> ServiceName {
    ServiceName::new("demo", &format!("{short}.demo.svc.cluster.local"))
}

/// A pod in `demo` with a ztunnel in front of it; its service account is its name.
pub(crate) fn pod(short: &str, last: u8) -> Workload {
    let mut w = Workload::new(&format!("c//Pod/demo/{short}"), "demo", short);
    w.addresses = vec![ip(last)];
    w.protocol = TunnelProtocol::Hbone;
    w.service_account = short.into();
    w
}

pub(crate) fn port(service: u16, target: u16, app_protocol: AppProtocol) -> ServicePort {
    ServicePort {
        service_port: service,
        target_port: target,
        app_protocol,
    }
}

/// A service of HTTP on port 80, target 8080.
pub(crate) fn service(short: &str, last: u8) -> Service {
    let mut s = Service::new(name(short), short);
    s.vips = vec![("".into(), Cidr::host(vip(last)))];
    s.ports = vec![port(80, 8080, AppProtocol::Http11)];
    s
}

pub(crate) fn behind(mut pod: Workload, services: &[&str]) -> Workload {
    for short in services {
        pod.services.insert(name(short), Vec::new());
    }
    pod
}

pub(crate) fn by_name(short: &str) -> GatewayAddress {
    GatewayAddress {
        destination: GatewayDestination::Hostname(name(short)),
        hbone_port: 15008,
    }
}

/// The waypoint service `wp` at 10.96.0.9, which maps 15008 to 16008, and its pod at 10.0.0.9.
pub(crate) fn wp() -> Vec<Resource> {
    let mut s = service("wp", 9);
    s.ports = vec![port(15008, 16008, AppProtocol::Unknown)];
    let mut w = behind(pod("wp", 9), &["wp"]);
    w.native_tunnel = true;
    vec![
        Resource::Service(Arc::new(s)),
        Resource::Workload(Arc::new(w)),
    ]
}

pub(crate) fn mesh(resources: impl IntoIterator<Item = Resource>) -> Arc<Snapshot> {
    let mut builder = SnapshotBuilder::new();
    for resource in resources {
        builder.upsert(resource);
    }
    builder.snapshot()
}

pub(crate) fn w(workload: Workload) -> Resource {
    Resource::Workload(Arc::new(workload))
}

pub(crate) fn s(service: Service) -> Resource {
    Resource::Service(Arc::new(service))
}

pub(crate) fn l4_policy(policy: AuthorizationPolicy) -> Resource {
    Resource::Policy(Arc::new(policy))
}

pub(crate) fn client(workload: &Workload) -> Client {
    Client::of(&Arc::new(workload.clone()))
}

pub(crate) fn weighted(short: &str, weight: u32) -> WeightedBackend {
    WeightedBackend {
        backend: Backend::Service {
            name: name(short),
            port: 80,
        },
        weight,
        filters: Vec::new(),
    }
}

/// A rule of the route `demo/<route>` that takes everything.
pub(crate) fn rule(
    route: &str,
    parent: ParentRef,
    backends: Vec<WeightedBackend>,
) -> HttpRouteRule {
    HttpRouteRule {
        name: RouteRuleName {
            route: ObjectName::new("demo", route),
            rule: 0,
        },
        created_unix_s: 0,
        parents: vec![parent],
        hostnames: Vec::new(),
        matches: Vec::new(),
        filters: Vec::new(),
        backends,
        timeouts: RouteTimeouts::default(),
    }
}

pub(crate) fn on_service(short: &str) -> ParentRef {
    ParentRef::Service {
        name: name(short),
        port: None,
    }
}
