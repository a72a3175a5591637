//! Pods, WorkloadEntries and EndpointSlices.

use super::*;
use mesh_model::{Health, NetworkMode, ServiceName, TunnelProtocol};

fn shop() -> ServiceName {
    ServiceName::new("demo", "shop.demo.svc.cluster.local")
}

#[test]
fn a_pod_is_an_endpoint_of_the_services_that_select_it() {
    let made = translated(&[
        &pod("shop-1", "10.0.0.1", "{app: shop, version: v2}", "{}"),
        &service("shop", "10.96.0.1", ""),
        &service("other", "10.96.0.2", ""),
    ]);
    let w = made.pod("demo/shop-1");
    assert_eq!(
        w.addresses,
        ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(
        w.identity().unwrap().to_string(),
        "spiffe://cluster.local/ns/demo/sa/shop-1-account"
    );
    assert_eq!(
        (&*w.node, &*w.canonical_name, &*w.canonical_revision),
        ("node-1", "shop", "v2")
    );
    assert_eq!(w.services.len(), 1);
    let ports: Vec<_> = w.services[&shop()]
        .iter()
        .map(|p| (p.service_port, p.target_port))
        .collect();
    assert_eq!(
        ports,
        [(80, 8080), (81, 9090)],
        "a named port is the pod's own"
    );
}

#[test]
fn a_named_port_that_the_pod_lacks_is_left_out() {
    let bare = pod("shop-1", "10.0.0.1", "{app: shop}", "{}").replace("name: web", "name: other");
    let made = translated(&[&bare, &service("shop", "10.96.0.1", "")]);
    let ports = &made.pod("demo/shop-1").services[&shop()];
    assert_eq!(
        ports.iter().map(|p| p.service_port).collect::<Vec<_>>(),
        [81]
    );
}

#[test]
fn what_a_pod_says_decides_how_it_is_reached() {
    let made = translated(&[
        &pod(
            "plain",
            "10.0.0.1",
            "{istio.io/dataplane-mode: ambient}",
            "{}",
        ),
        &pod(
            "ambient",
            "10.0.0.2",
            "{}",
            "{ambient.istio.io/redirection: enabled}",
        ),
        &pod(
            "sidecar",
            "10.0.0.3",
            "{networking.istio.io/tunnel: http}",
            "{}",
        ),
    ]);
    let of = |name: &str| {
        let w = made.pod(&format!("demo/{name}"));
        (w.protocol, w.native_tunnel)
    };
    assert_eq!(
        of("plain"),
        (TunnelProtocol::None, false),
        "the label alone says nothing yet"
    );
    assert_eq!(of("ambient"), (TunnelProtocol::Hbone, false));
    assert_eq!(of("sidecar"), (TunnelProtocol::Hbone, true));
}

#[test]
fn phase_and_readiness() {
    let ready = pod("a", "10.0.0.1", "{}", "{}");
    let health = |text: &str| translated(&[text]).pod("demo/a").health;
    assert_eq!(health(&ready), Health::Healthy);
    assert_eq!(
        health(&ready.replace("\"True\"", "\"False\"")),
        Health::Unhealthy
    );
    let by_hand = ready.replace("conditions:\n  - {type: Ready, status: \"True\"}", "");
    assert_eq!(health(&by_hand), Health::Healthy);
    let going = ready.replace(
        "namespace: demo,",
        "namespace: demo, deletionTimestamp: \"2026-01-01T00:00:00Z\",",
    );
    assert_eq!(health(&going), Health::Unhealthy);
    for gone in [
        ready.replace("Running", "Succeeded"),
        ready.replace("podIP: 10.0.0.1", "message: none yet"),
    ] {
        assert!(translated(&[&gone]).resources.is_empty());
    }
    let host = ready.replace("nodeName:", "hostNetwork: true\n  nodeName:");
    assert_eq!(
        translated(&[&host]).pod("demo/a").network_mode,
        NetworkMode::HostNetwork
    );
}

#[test]
fn the_node_places_the_pod() {
    let node = "
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z}}
";
    let made = translated(&[node, &pod("a", "10.0.0.1", "{}", "{}")]);
    let locality = &made.pod("demo/a").locality;
    assert_eq!(
        (&*locality.region, &*locality.zone, &*locality.subzone),
        ("r", "z", "")
    );
}

#[test]
fn the_owner_names_the_workload() {
    let owned = pod("shop-5d4f-x", "10.0.0.1", "{pod-template-hash: 5d4f}", "{}").replace(
        "namespace: demo,",
        "namespace: demo, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: shop-5d4f, uid: u, controller: true}],",
    );
    let made = translated(&[&owned]);
    let w = made.pod("demo/shop-5d4f-x");
    assert_eq!((&*w.workload_name, &*w.canonical_name), ("shop", "shop"));
}

#[test]
fn slices_serve_services_without_a_selector() {
    let service = "
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: demo}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
";
    let slice = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop-1, namespace: demo, labels: {kubernetes.io/service-name: shop}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [192.0.2.1], conditions: {ready: false}}
- {addresses: [10.0.0.5]}
- {addresses: [10.0.0.6], targetRef: {kind: Pod, name: by-name, namespace: demo}}
";
    let made = translated(&[
        service,
        slice,
        &pod("by-address", "10.0.0.5", "{}", "{}"),
        &pod("by-name", "10.0.0.6", "{}", "{}"),
    ]);
    for pod in ["demo/by-address", "demo/by-name"] {
        assert_eq!(
            made.pod(pod).services[&shop()][0].target_port,
            8080,
            "{pod}"
        );
    }
    let stranger = made.workload("Kubernetes/discovery.k8s.io/EndpointSlice/demo/shop-1/192.0.2.1");
    assert_eq!(stranger.health, Health::Unhealthy);
    assert_eq!(stranger.network_mode, NetworkMode::HostNetwork);
    assert_eq!(stranger.protocol, TunnelProtocol::None);
    let workloads = made
        .resources
        .keys()
        .filter(|k| k.kind == ResourceKind::Workload);
    assert_eq!(workloads.count(), 3);
}

#[test]
fn a_workload_entry_is_selected_like_a_pod() {
    let made = translated(&["
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm-1, namespace: demo, annotations: {ambient.istio.io/redirection: enabled}}
spec: {address: 192.0.2.7, labels: {app: vm}, serviceAccount: vm, network: far, weight: 2, locality: r/z, ports: {http: 8000}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vm, namespace: demo}
spec:
  hosts: [vm.example.com]
  ports: [{number: 80, name: http}]
  resolution: STATIC
  workloadSelector: {labels: {app: vm}}
"]);
    let w = made.workload("Kubernetes/networking.istio.io/WorkloadEntry/demo/vm-1");
    assert_eq!(w.identity().unwrap().service_account(), "vm");
    assert_eq!(
        (&*w.network, w.capacity, &*w.locality.region),
        ("far", 2, "r")
    );
    assert_eq!(w.protocol, TunnelProtocol::Hbone);
    let ports = &w.services[&ServiceName::new("demo", "vm.example.com")];
    assert_eq!(ports[0].target_port, 8000);
}

#[test]
fn a_workload_is_bound_to_a_waypoint_for_workloads() {
    let waypoint = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: demo, labels: {istio.io/waypoint-for: all}}
spec:
  gatewayClassName: strata-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
";
    let made = translated(&[
        waypoint,
        &pod(
            "wp",
            "10.0.0.9",
            "{gateway.networking.k8s.io/gateway-name: waypoint}",
            "{}",
        ),
        &pod("a", "10.0.0.1", "{istio.io/use-waypoint: waypoint}", "{}"),
        &pod("b", "10.0.0.2", "{}", "{}"),
    ]);
    assert!(made.pod("demo/a").waypoint.is_some());
    assert!(made.pod("demo/b").waypoint.is_none());
}

#[test]
fn a_pod_or_the_mesh_asks_for_encryption_within_a_node() {
    let encrypted = |labels: &str, annotations: &str| {
        let made = translated(&[&pod("a", "10.0.0.1", labels, annotations)]);
        made.pod("demo/a").encrypt_same_node
    };
    assert!(!encrypted("{}", "{}"));
    assert!(encrypted("{strata.dev/same-node: encrypt}", "{}"));
    assert!(encrypted("{}", "{strata.dev/same-node: encrypt}"));
    assert!(!encrypted("{}", "{strata.dev/same-node: direct}"));
}
