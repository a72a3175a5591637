//! Short ways to resources of the model.

use mesh_model::{
    Action, AppProtocol, AuthorizationPolicy, Backend, Cidr, GatewayAddress, GatewayDestination,
    Health, HttpRouteRule, NetworkAddress, ObjectName, ParentRef, PolicyClause, PolicyMatch,
    PolicyRule, PolicyScope, Resource, RouteRuleName, RouteTimeouts, Service, ServiceName,
    ServicePort, Snapshot, SnapshotBuilder, StringMatch, TunnelProtocol, WeightedBackend, Workload,
};
use std::net::IpAddr;
use std::sync::Arc;

/// A snapshot of resources.
pub fn snapshot(resources: impl IntoIterator<Item = Resource>) -> Arc<Snapshot> {
    let mut builder = SnapshotBuilder::new();
    for resource in resources {
        builder.upsert(resource);
    }
    builder.snapshot()
}

/// The address of a waypoint or gateway, on the network without a name.
pub fn gateway_at(address: &str) -> GatewayAddress {
    GatewayAddress {
        destination: GatewayDestination::Address(NetworkAddress {
            network: "".into(),
            address: ip(address),
        }),
        hbone_port: mesh_model::PORT_HBONE,
    }
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// A pod, with HBONE, to be filled in. Its key is `Kubernetes//Pod/<namespace>/<name>`; its service
/// account is its name.
#[derive(Debug, Clone)]
pub struct Pod(Workload);

impl Pod {
    /// A pod of a namespace at an address.
    pub fn new(namespace: &str, name: &str, address: &str) -> Self {
        let uid = format!("Kubernetes//Pod/{namespace}/{name}");
        let mut workload = Workload::new(&uid, namespace, name);
        workload.addresses = vec![ip(address)];
        workload.service_account = name.into();
        workload.protocol = TunnelProtocol::Hbone;
        Self(workload)
    }

    /// Outside the mesh: reached in plain TCP.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.0.protocol = TunnelProtocol::None;
        self
    }

    /// Has a proxy of its own (sidecar, waypoint, gateway).
    #[must_use]
    pub fn native(mut self) -> Self {
        self.0.native_tunnel = true;
        self
    }

    /// Its service account.
    #[must_use]
    pub fn account(mut self, name: &str) -> Self {
        self.0.service_account = name.into();
        self
    }

    /// Its node.
    #[must_use]
    pub fn node(mut self, name: &str) -> Self {
        self.0.node = name.into();
        self
    }

    /// Takes no traffic.
    #[must_use]
    pub fn unhealthy(mut self) -> Self {
        self.0.health = Health::Unhealthy;
        self
    }

    /// Traffic to its address goes through a waypoint.
    #[must_use]
    pub fn waypoint(mut self, address: &str) -> Self {
        self.0.waypoint = Some(gateway_at(address));
        self
    }

    /// An endpoint of a service: serves its service port on a port of its own.
    #[must_use]
    pub fn serves(mut self, service: &ServiceName, service_port: u16, target_port: u16) -> Self {
        let port = ServicePort {
            service_port,
            target_port,
            app_protocol: AppProtocol::Unknown,
        };
        let ports = self.0.services.entry(service.clone()).or_default();
        ports.push(port);
        self
    }

    /// A selector policy applies to it.
    #[must_use]
    pub fn policy(mut self, name: &str) -> Self {
        self.0.authorization_policies.push(name.parse().unwrap());
        self
    }

    /// Anything else.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Workload)) -> Self {
        change(&mut self.0);
        self
    }

    /// The workload.
    pub fn workload(self) -> Arc<Workload> {
        Arc::new(self.0)
    }

    /// The resource.
    pub fn resource(self) -> Resource {
        Resource::Workload(self.workload())
    }
}

/// The name of a Kubernetes service.
pub fn service_name(namespace: &str, name: &str) -> ServiceName {
    ServiceName::new(namespace, &format!("{name}.{namespace}.svc.cluster.local"))
}

/// A service, to be filled in.
#[derive(Debug, Clone)]
pub struct Svc(Service);

impl Svc {
    /// A service of a namespace with a virtual address.
    pub fn new(namespace: &str, name: &str, vip: &str) -> Self {
        let mut service = Service::new(service_name(namespace, name), name);
        service.vips = vec![("".into(), Cidr::host(ip(vip)))];
        Self(service)
    }

    /// Adds a port.
    #[must_use]
    pub fn port(mut self, service_port: u16, target_port: u16, app_protocol: AppProtocol) -> Self {
        self.0.ports.push(ServicePort {
            service_port,
            target_port,
            app_protocol,
        });
        self
    }

    /// Traffic to it goes through a waypoint.
    #[must_use]
    pub fn waypoint(mut self, address: &str) -> Self {
        self.0.waypoint = Some(gateway_at(address));
        self
    }

    /// Anything else.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Service)) -> Self {
        change(&mut self.0);
        self
    }

    /// The service.
    pub fn service(self) -> Arc<Service> {
        Arc::new(self.0)
    }

    /// The resource.
    pub fn resource(self) -> Resource {
        Resource::Service(self.service())
    }
}

/// A policy with one rule that matches the principals given (`td/ns/../sa/..`, with wildcards).
/// With no principal at all it has no rule, so it never matches: an ALLOW that lets nobody through.
pub fn policy(
    name: &str,
    scope: PolicyScope,
    action: Action,
    principals: &[&str],
) -> AuthorizationPolicy {
    let matching = PolicyMatch {
        principals: principals
            .iter()
            .map(|p| StringMatch::from_pattern(p))
            .collect(),
        ..PolicyMatch::default()
    };
    let rule = PolicyRule {
        clauses: vec![PolicyClause {
            matches: vec![matching],
        }],
    };
    AuthorizationPolicy {
        name: name.parse::<ObjectName>().unwrap(),
        scope,
        action,
        rules: if principals.is_empty() {
            Vec::new()
        } else {
            vec![rule]
        },
        dry_run: false,
        targets: Vec::new(),
        invalid: None,
        http_dropped: false,
    }
}

/// A rule without conditions that sends a parent's traffic to services by weight.
pub fn http_rule(
    route: &str,
    rule: u16,
    parent: ParentRef,
    backends: &[(&ServiceName, u16, u32)],
) -> HttpRouteRule {
    HttpRouteRule {
        name: RouteRuleName {
            route: route.parse().unwrap(),
            rule,
        },
        created_unix_s: 0,
        parents: vec![parent],
        hostnames: Vec::new(),
        matches: Vec::new(),
        filters: Vec::new(),
        backends: backends
            .iter()
            .map(|(name, port, weight)| WeightedBackend {
                backend: Backend::Service {
                    name: (*name).clone(),
                    port: *port,
                },
                weight: *weight,
                filters: Vec::new(),
            })
            .collect(),
        timeouts: RouteTimeouts::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_a_few_lines() {
        let reviews = service_name("demo", "reviews");
        let world = snapshot([
            Svc::new("demo", "reviews", "10.96.0.1")
                .port(80, 8080, AppProtocol::Http11)
                .resource(),
            Pod::new("demo", "reviews-1", "10.0.0.2")
                .serves(&reviews, 80, 8080)
                .policy("demo/p")
                .resource(),
            Resource::Policy(Arc::new(policy(
                "demo/p",
                PolicyScope::WorkloadSelector,
                Action::Allow,
                &["cluster.local/ns/demo/sa/shop"],
            ))),
        ]);
        let pod = world.workload_at("", ip("10.0.0.2")).unwrap();
        assert_eq!(world.endpoints(&reviews).count(), 1);
        assert!(world.policies_for(pod).missing.is_empty());
        assert_eq!(
            world.service_at("", ip("10.96.0.1"), "demo").unwrap().name,
            reviews
        );
    }
}
