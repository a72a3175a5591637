//! Services, and the index of them that workloads and routes are translated with
//! (interop/xds-workload.md section 9).

use super::output::Output;
use super::ports::app_protocol;
use super::selector::Labels;
use super::waypoint::{Asking, Waypoints};
use super::{Mesh, selector, service_entry};
use crate::objects::{Objects, annotation};
use k8s_openapi::api::core::v1::{Service as K8sService, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mesh_model::{
    Cidr, HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, ObjectName, Resource,
    RoutingScope, Service, ServiceName, ServicePort,
};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

const ANNOTATION_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// How a service port finds the port of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TargetPort {
    Number(u16),
    Named(String),
}

/// A port with what its endpoints need.
#[derive(Debug, Clone)]
pub(super) struct PortInfo {
    pub(super) port: ServicePort,
    pub(super) name: String,
    pub(super) target: TargetPort,
}

/// A service with what its endpoints need.
pub(super) struct ServiceInfo {
    pub(super) name: ServiceName,
    pub(super) namespace: Arc<str>,
    /// `None`: endpoints are given by other means than labels.
    pub(super) selector: Option<Labels>,
    pub(super) ports: Vec<PortInfo>,
}

/// Every service.
pub(super) struct Services {
    /// In order of translation: Kubernetes Services first.
    pub(super) all: Vec<ServiceInfo>,
    /// The host names of Kubernetes Services, by object.
    by_object: BTreeMap<ObjectName, usize>,
    by_name: BTreeMap<ServiceName, usize>,
}

impl Services {
    pub(super) fn collect(
        objects: &Objects,
        mesh: &Mesh,
        waypoints: &Waypoints<'_>,
        out: &mut Output,
    ) -> Self {
        let mut services = Self {
            all: Vec::new(),
            by_object: BTreeMap::new(),
            by_name: BTreeMap::new(),
        };
        for (name, object) in &objects.services {
            let spec = object.spec.as_ref();
            if spec.and_then(|s| s.type_.as_deref()) == Some("ExternalName") {
                continue;
            }
            let (service, info) = translate(objects, mesh, waypoints, name, object, out);
            out.put(Resource::Service(Arc::new(service)));
            services.by_object.insert(name.clone(), services.all.len());
            services.add(info);
        }
        service_entry::services(objects, mesh, waypoints, &mut services, out);
        services
    }

    pub(super) fn add(&mut self, info: ServiceInfo) {
        self.by_name.insert(info.name.clone(), self.all.len());
        self.all.push(info);
    }

    /// The service of a Kubernetes Service object.
    pub(super) fn of_object(&self, name: &ObjectName) -> Option<&ServiceInfo> {
        self.by_object.get(name).and_then(|i| self.all.get(*i))
    }

    /// The service of a name.
    pub(super) fn get(&self, name: &ServiceName) -> Option<&ServiceInfo> {
        self.by_name.get(name).and_then(|i| self.all.get(*i))
    }

    /// The service of a host name; one in the given namespace is preferred.
    pub(super) fn of_hostname(&self, namespace: &str, hostname: &str) -> Option<&ServiceInfo> {
        let own = self.get(&ServiceName::new(namespace, hostname));
        own.or_else(|| self.all.iter().find(|s| *s.name.hostname == *hostname))
    }

    /// The services of a namespace whose selector takes the labels.
    pub(super) fn selecting<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a ServiceInfo> {
        self.all.iter().filter(move |s| {
            let by = s.selector.as_ref();
            *s.namespace == *namespace
                && by.is_some_and(|by| !by.is_empty() && selector::matches(by, labels))
        })
    }
}

fn translate(
    objects: &Objects,
    mesh: &Mesh,
    waypoints: &Waypoints<'_>,
    name: &ObjectName,
    object: &K8sService,
    out: &mut Output,
) -> (Service, ServiceInfo) {
    let default = ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&default);
    let info = ServiceInfo {
        name: mesh.service_name(&name.namespace, &name.name),
        namespace: name.namespace.clone(),
        selector: spec.selector.clone().filter(|s| !s.is_empty()),
        ports: ports(spec),
    };
    let mut service = Service::new(info.name.clone(), &name.name);
    service.vips = vips(spec)
        .map(|ip| (mesh.network.clone(), Cidr::host(ip)))
        .collect();
    service.ports = info.ports.iter().map(|p| p.port).collect();
    service.canonical = true;
    service.ip_families = ip_families(spec);
    service.load_balancing = load_balancing(objects, name, object, spec);
    // `sessionAffinityConfig`'s timeout is not kept: nothing is remembered, and a client stays as long
    // as the endpoints do (docs/balancing.md).
    service.sticky_by_source = spec.session_affinity.as_deref() == Some("ClientIP");
    if !waypoints.is_waypoint(&name.namespace, &name.name) {
        let bound = waypoints.bound(Asking::Service, &object.metadata, &name.namespace);
        service.waypoint = bound.0;
        service.weighted_waypoints =
            waypoints.canary(service.waypoint.as_ref(), &object.metadata, &name.namespace);
        if let Some(condition) = bound.1 {
            out.condition("Service", name, condition);
        }
        service.ingress_use_waypoint =
            service.waypoint.is_some() && waypoints.for_ingress(&object.metadata, &name.namespace);
    }
    (service, info)
}

fn vips(spec: &ServiceSpec) -> impl Iterator<Item = IpAddr> {
    let many = spec.cluster_ips.clone().unwrap_or_default();
    let mut texts = many;
    if texts.is_empty() {
        texts.extend(spec.cluster_ip.clone());
    }
    // `None` is how a headless service is written.
    texts.into_iter().filter_map(|t| t.parse().ok())
}

/// What tells the addresses of a headless service's endpoints from those its owner did not choose.
fn ip_families(spec: &ServiceSpec) -> IpFamilies {
    let families = spec.ip_families.iter().flatten().map(String::as_str);
    match families.collect::<Vec<_>>().as_slice() {
        ["IPv4"] => IpFamilies::V4Only,
        ["IPv6"] => IpFamilies::V6Only,
        [_, _] => IpFamilies::Dual,
        _ => IpFamilies::Automatic,
    }
}

fn ports(spec: &ServiceSpec) -> Vec<PortInfo> {
    let tcp = |p: &&k8s_openapi::api::core::v1::ServicePort| {
        p.protocol
            .as_deref()
            .is_none_or(|protocol| protocol == "TCP")
    };
    let port = |p: &k8s_openapi::api::core::v1::ServicePort| {
        let service_port = u16::try_from(p.port).ok().filter(|p| *p != 0)?;
        let target = match &p.target_port {
            None => TargetPort::Number(service_port),
            Some(IntOrString::Int(n)) => TargetPort::Number(u16::try_from(*n).ok()?),
            Some(IntOrString::String(name)) => match name.parse() {
                Ok(number) => TargetPort::Number(number),
                Err(_) => TargetPort::Named(name.clone()),
            },
        };
        Some(PortInfo {
            port: ServicePort {
                service_port,
                target_port: match target {
                    TargetPort::Number(n) => n,
                    TargetPort::Named(_) => 0,
                },
                app_protocol: app_protocol(p.app_protocol.as_deref(), p.name.as_deref()),
            },
            name: p.name.clone().unwrap_or_default(),
            target,
        })
    };
    let ports = spec.ports.iter().flatten();
    ports.filter(tcp).filter_map(port).collect()
}

fn load_balancing(
    objects: &Objects,
    name: &ObjectName,
    object: &K8sService,
    spec: &ServiceSpec,
) -> LoadBalancing {
    use RoutingScope::{Network, Node, Region, Subzone, Zone};
    let namespace = objects
        .namespaces
        .get(&ObjectName::new("", name.namespace.clone()));
    let distribution = spec
        .traffic_distribution
        .as_deref()
        .or_else(|| annotation(&object.metadata, ANNOTATION_DISTRIBUTION))
        .or_else(|| annotation(&namespace?.metadata, ANNOTATION_DISTRIBUTION));
    let (preferences, mode) = if spec.internal_traffic_policy.as_deref() == Some("Local") {
        (vec![Node], LoadBalancingMode::Strict)
    } else {
        match distribution {
            Some("PreferClose" | "PreferSameZone") => {
                (vec![Network, Region, Zone], LoadBalancingMode::Failover)
            }
            Some("PreferSameNode") => (
                vec![Network, Region, Zone, Subzone, Node],
                LoadBalancingMode::Failover,
            ),
            _ => (Vec::new(), LoadBalancingMode::Unspecified),
        }
    };
    LoadBalancing {
        preferences,
        mode,
        health: if spec.publish_not_ready_addresses == Some(true) {
            HealthPolicy::AllowAll
        } else {
            HealthPolicy::OnlyHealthy
        },
    }
}
