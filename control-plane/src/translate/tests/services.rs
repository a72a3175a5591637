//! Services, ServiceEntries, and the waypoints they are bound to.

use super::*;
use mesh_model::{
    AppProtocol, GatewayDestination, HealthPolicy, LoadBalancingMode, RoutingScope, ServiceName,
};

const WAYPOINT: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: demo}
spec:
  gatewayClassName: strata-waypoint
  listeners:
  - {name: mesh, port: 15008, protocol: HBONE}
";

#[test]
fn a_service_has_its_addresses_ports_and_name() {
    let made = translated(&[&service("shop", "10.96.0.1", "")]);
    let s = made.service("demo/shop.demo.svc.cluster.local");
    assert_eq!(&*s.short_name, "shop");
    assert_eq!(s.vip(""), Some("10.96.0.1".parse().unwrap()));
    assert!(s.canonical);
    let ports: Vec<_> = s
        .ports
        .iter()
        .map(|p| (p.service_port, p.target_port, p.app_protocol))
        .collect();
    assert_eq!(
        ports,
        [(80, 0, AppProtocol::Http11), (81, 9090, AppProtocol::Grpc)]
    );
}

#[test]
fn headless_and_external_services() {
    let made = translated(&["
apiVersion: v1
kind: Service
metadata: {name: db, namespace: demo}
spec: {clusterIP: None, ports: [{port: 5432, name: tcp-db}, {port: 53, protocol: UDP, name: dns}], publishNotReadyAddresses: true}
---
apiVersion: v1
kind: Service
metadata: {name: out, namespace: demo}
spec: {type: ExternalName, externalName: example.com}
"]);
    let s = made.service("demo/db.demo.svc.cluster.local");
    assert!(s.vips.is_empty());
    assert_eq!(s.ports.len(), 1, "UDP is left out");
    assert_eq!(s.load_balancing.health, HealthPolicy::AllowAll);
    assert!(
        made.get(ResourceKind::Service, "demo/out.demo.svc.cluster.local")
            .is_none()
    );
}

#[test]
fn traffic_distribution_of_service_annotation_and_namespace() {
    let service = |name: &str, meta: &str, spec: &str| {
        format!(
            "
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: demo{meta}}}
spec: {{ports: [{{port: 80}}]{spec}}}
"
        )
    };
    let made = translated(&[
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo, annotations: {networking.istio.io/traffic-distribution: PreferClose}}",
        &service("a", "", ", internalTrafficPolicy: Local"),
        &service("b", "", ", trafficDistribution: PreferSameNode"),
        &service("c", "", ""),
    ]);
    let of = |name: &str| {
        &made
            .service(&format!("demo/{name}.demo.svc.cluster.local"))
            .load_balancing
    };
    assert_eq!(of("a").mode, LoadBalancingMode::Strict);
    assert_eq!(of("a").preferences, [RoutingScope::Node]);
    assert_eq!(of("b").preferences.len(), 5);
    assert_eq!(
        of("c").preferences,
        [
            RoutingScope::Network,
            RoutingScope::Region,
            RoutingScope::Zone
        ]
    );
    assert_eq!(of("c").mode, LoadBalancingMode::Failover);
}

#[test]
fn a_service_is_bound_to_its_waypoint_by_pod_or_by_service() {
    let label =
        ", labels: {istio.io/use-waypoint: waypoint, istio.io/ingress-use-waypoint: \"true\"}";
    let orders = service("orders", "10.96.0.7", label);
    let waypoint_pod = pod(
        "wp",
        "10.0.0.9",
        "{gateway.networking.k8s.io/gateway-name: waypoint, networking.istio.io/tunnel: http}",
        "{}",
    );
    let orders_name = "demo/orders.demo.svc.cluster.local";
    // Not ready is not "go direct": it leads to a name that is not there.
    let made = translated(&[WAYPOINT, &orders]);
    let nowhere = made.service(orders_name).waypoint.clone().unwrap();
    assert!(
        matches!(nowhere.destination, GatewayDestination::Hostname(n) if &*n.hostname == "waypoint.demo.svc.cluster.local")
    );
    assert_eq!(
        made.reason("Service demo/orders", "istio.io/WaypointBound"),
        "WaypointNotReady"
    );

    let made = translated(&[WAYPOINT, &orders, &waypoint_pod]);
    let bound = made.service(orders_name).waypoint.clone().unwrap();
    assert_eq!(bound.hbone_port, 15008);
    assert!(
        matches!(bound.destination, GatewayDestination::Address(a) if a.address.to_string() == "10.0.0.9")
    );
    assert!(made.service(orders_name).ingress_use_waypoint);

    let waypoint_service = "
apiVersion: v1
kind: Service
metadata: {name: waypoint, namespace: demo}
spec: {clusterIP: 10.96.0.10, ports: [{name: hbone, port: 15008}], selector: {gateway.networking.k8s.io/gateway-name: waypoint}}
";
    let all = "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo, labels: {istio.io/use-waypoint: waypoint}}";
    let made = translated(&[
        WAYPOINT,
        all,
        &service("orders", "10.96.0.7", ""),
        &waypoint_pod,
        waypoint_service,
    ]);
    let bound = made.service(orders_name).waypoint.clone().unwrap();
    let name = ServiceName::new("demo", "waypoint.demo.svc.cluster.local");
    assert_eq!(bound.destination, GatewayDestination::Hostname(name));
    assert!(
        made.service("demo/waypoint.demo.svc.cluster.local")
            .waypoint
            .is_none()
    );
    assert!(made.pod("demo/wp").waypoint.is_none());
}

#[test]
fn a_waypoint_may_be_declined_missing_or_elsewhere() {
    let all = "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo, labels: {istio.io/use-waypoint: waypoint}}";
    let of = |labels: &str, more: &[&str]| {
        let text = service("orders", "10.96.0.7", labels);
        let mut texts = vec![all, text.as_str()];
        texts.extend(more);
        let made = translated(&texts);
        let bound = made
            .service("demo/orders.demo.svc.cluster.local")
            .waypoint
            .is_some();
        (
            bound,
            made.reason("Service demo/orders", "istio.io/WaypointBound"),
        )
    };
    assert_eq!(
        of(", labels: {istio.io/use-waypoint: none}", &[]),
        (false, "none")
    );
    assert_eq!(of("", &[]), (true, "WaypointMissing"));
    let for_workloads = WAYPOINT.replace(
        "namespace: demo}",
        "namespace: demo, labels: {istio.io/waypoint-for: workload}}",
    );
    assert_eq!(of("", &[&for_workloads]), (false, "UnsupportedTrafficType"));
    let elsewhere =
        ", labels: {istio.io/use-waypoint: waypoint, istio.io/use-waypoint-namespace: infra}";
    let closed = WAYPOINT.replace("namespace: demo", "namespace: infra");
    assert_eq!(of(elsewhere, &[&closed]), (true, "AttachmentDenied"));
    let open = closed.replace(
        "protocol: HBONE}",
        "protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}",
    );
    assert_eq!(of(elsewhere, &[&open]).1, "WaypointNotReady");
}

const ENTRY: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: demo}
spec:
  hosts: [api.example.com]
  ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, targetPort: 8080}]
  resolution: DNS
";

#[test]
fn a_service_entry_by_dns_has_its_host_for_an_endpoint_and_an_allotted_address() {
    let made = translated(&[ENTRY]);
    let s = made.service("demo/api.example.com");
    let vip = s.vip("").unwrap().to_string();
    assert!(vip.starts_with("240.240."), "{vip}");
    let six = s.vips[1].1.to_string();
    assert!(
        six.starts_with("2001:2::") && six.ends_with("/128"),
        "{six}"
    );
    assert!(s.canonical);
    let w = made.workload("Kubernetes/networking.istio.io/ServiceEntry/demo/api/api.example.com");
    assert_eq!(w.hostname.as_deref(), Some("api.example.com"));
    let ports = &w.services[&ServiceName::new("demo", "api.example.com")];
    assert_eq!((ports[1].service_port, ports[1].target_port), (80, 8080));
    // The address does not depend on what other entries there are.
    let other = ENTRY
        .replace("name: api,", "name: aaa,")
        .replace("api.example.com", "other.example.com");
    let again = translated(&[ENTRY, &other]);
    assert_eq!(
        again
            .service("demo/api.example.com")
            .vip("")
            .unwrap()
            .to_string(),
        vip
    );
}

#[test]
fn a_service_entry_with_endpoints_or_without_resolution() {
    let fixed = ENTRY.replace("resolution: DNS", "resolution: STATIC\n  addresses: [10.1.0.0/24]\n  endpoints: [{address: 192.0.2.1, ports: {http: 8081}, locality: r/z/s, weight: 3}]");
    let made = translated(&[&fixed]);
    let s = made.service("demo/api.example.com");
    assert_eq!(s.vips[0].1.to_string(), "10.1.0.0/24");
    let w = made.workload("Kubernetes/networking.istio.io/ServiceEntry/demo/api/192.0.2.1");
    assert_eq!(w.services.values().next().unwrap()[1].target_port, 8081);
    assert_eq!((&*w.locality.zone, w.capacity), ("z", 3));
    let none = ENTRY.replace("resolution: DNS", "resolution: NONE");
    let made = translated(&[&none]);
    let lb = &made.service("demo/api.example.com").load_balancing;
    assert_eq!(lb.mode, LoadBalancingMode::Passthrough);
    assert_eq!(lb.health, HealthPolicy::AllowAll);
    assert!(made.service("demo/api.example.com").vips.is_empty());
}

#[test]
fn hosts_of_a_service_entry_that_are_no_host_names_are_told_and_left_out() {
    let entry = ENTRY.replace("[api.example.com]", "[api.example.com, 10.9.0.0/24, \"\"]");
    let made = translated(&[&entry]);
    assert_eq!(
        made.reason("ServiceEntry demo/api", "Accepted"),
        "InvalidHost"
    );
    assert!(made.service("demo/api.example.com").canonical);
    assert_eq!(made.resources.len(), 2, "{:?}", made.resources.keys());
}

#[test]
fn a_mapped_address_of_a_workload_is_the_v4_address() {
    let fixed = ENTRY.replace(
        "resolution: DNS",
        "resolution: STATIC\n  endpoints: [{address: \"::ffff:192.0.2.1\"}]",
    );
    let made = translated(&[&fixed]);
    let uid = "Kubernetes/networking.istio.io/ServiceEntry/demo/api/::ffff:192.0.2.1";
    assert_eq!(made.workload(uid).address(), "192.0.2.1".parse().ok());
}

#[test]
fn a_kubernetes_service_wins_over_an_entry_of_its_host() {
    let entry = ENTRY.replace("api.example.com", "shop.demo.svc.cluster.local");
    let made = translated(&[&service("shop", "10.96.0.1", ""), &entry]);
    assert_eq!(
        made.service("demo/shop.demo.svc.cluster.local").vip(""),
        Some("10.96.0.1".parse().unwrap())
    );
    assert_eq!(
        made.reason("ServiceEntry demo/api", "Accepted"),
        "Conflicted"
    );
}

#[test]
fn of_entries_of_one_host_the_first_is_canonical() {
    let other = ENTRY.replace("namespace: demo", "namespace: other");
    let made = translated(&[ENTRY, &other]);
    assert!(made.service("demo/api.example.com").canonical);
    assert!(!made.service("other/api.example.com").canonical);
}

#[test]
fn clients_stick_to_an_endpoint_where_the_service_asks() {
    let plain = service("shop", "10.96.0.1", "");
    let sticky = plain.replace("  selector:", "  sessionAffinity: ClientIP\n  selector:");
    let name = "demo/shop.demo.svc.cluster.local";
    assert!(!translated(&[&plain]).service(name).sticky_by_source);
    assert!(translated(&[&sticky]).service(name).sticky_by_source);
    let none = sticky.replace("ClientIP", "None");
    assert!(!translated(&[&none]).service(name).sticky_by_source);
}

/// The weights of a service's waypoints, by its metadata.
fn weights(metadata: &str) -> Vec<u32> {
    let gateway = |name: &str, more: &str| {
        WAYPOINT.replace(
            "metadata: {name: waypoint, namespace: demo}",
            &format!("metadata: {{name: {name}, namespace: demo{more}}}"),
        )
    };
    let backs = |name: &str, ip: &str| {
        let label = format!("{{gateway.networking.k8s.io/gateway-name: {name}}}");
        pod(&format!("{name}-1"), ip, &label, "{}")
    };
    let made = translated(&[
        &gateway("waypoint", ""),
        &backs("waypoint", "10.0.0.8"),
        &service("shop", "10.96.0.1", metadata),
        &gateway("next", ""),
        &backs("next", "10.0.0.9"),
        &gateway("waiting", ""),
        &gateway("pods", ", labels: {istio.io/waypoint-for: workload}"),
        &backs("pods", "10.0.0.10"),
    ]);
    let service = made.service("demo/shop.demo.svc.cluster.local");
    let weighted = &service.weighted_waypoints;
    if let Some(first) = weighted.first() {
        assert_eq!(Some(&first.destination), service.waypoint.as_ref());
    }
    weighted.iter().map(|w| w.weight).collect()
}

#[test]
fn a_canary_takes_its_share_of_a_services_waypoint() {
    let asks = |labels: &str, weight: &str| {
        let labels = format!(", labels: {{istio.io/use-waypoint: waypoint{labels}}}");
        let weight = format!("{{istio.io/use-waypoint-canary-weight: \"{weight}\"}}");
        weights(&format!("{labels}, annotations: {weight}"))
    };
    let canary = ", istio.io/use-waypoint-canary: next";
    assert_eq!(asks(canary, "10"), [90, 10]);
    assert_eq!(asks(canary, "100"), [0, 100]);
    let elsewhere =
        ", istio.io/use-waypoint-canary: next, istio.io/use-waypoint-canary-namespace: demo";
    assert_eq!(asks(elsewhere, "10"), [90, 10]);
    // What is not there, not ready, not for services or not a share leaves all with the waypoint.
    for (labels, weight) in [
        ("", "10"),
        (canary, "0"),
        (canary, "101"),
        (canary, "-1"),
        (canary, "half"),
        (", istio.io/use-waypoint-canary: none", "10"),
        (", istio.io/use-waypoint-canary: gone", "10"),
        (", istio.io/use-waypoint-canary: waiting", "10"),
        (", istio.io/use-waypoint-canary: pods", "10"),
        (
            ", istio.io/use-waypoint-canary: next, istio.io/use-waypoint-canary-namespace: other",
            "10",
        ),
    ] {
        assert_eq!(asks(labels, weight), Vec::<u32>::new(), "{labels} {weight}");
    }
}

#[test]
fn without_a_waypoint_there_is_no_canary() {
    let metadata = ", labels: {istio.io/use-waypoint-canary: next}, annotations: {istio.io/use-waypoint-canary-weight: \"10\"}";
    assert_eq!(weights(metadata), Vec::<u32>::new());
}
