//! Two networks in one set of files.

use super::*;
use mesh_model::{GatewayAddress, GatewayDestination, NetworkAddress};

const TWO: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: near, namespace: demo, labels: {app: web, topology.istio.io/network: east}}
status: {podIP: 10.1.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: demo, labels: {app: web, topology.istio.io/network: west}}
status: {podIP: 10.2.0.1}
";

fn gateway(name: &str, labels: &str, spec: &str) -> String {
    format!(
        "
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: demo, labels: {{{labels}}}}}
spec: {{gatewayClassName: strata-east-west, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]{spec}}}
"
    )
}

const WEST: &str = "topology.istio.io/network: west";
const POD: &str = "
---
apiVersion: v1
kind: Pod
metadata:
  name: edge-1
  namespace: demo
  labels:
    gateway.networking.k8s.io/gateway-name: edge
    topology.istio.io/network: west
    networking.istio.io/tunnel: http
status: {podIP: 10.2.0.9}
";

fn at(ip: &str) -> Option<GatewayAddress> {
    Some(GatewayAddress {
        destination: GatewayDestination::Address(NetworkAddress {
            network: "west".into(),
            address: ip.parse().unwrap(),
        }),
        hbone_port: 15008,
    })
}

fn accepted(made: &Translation, name: &str) -> &'static str {
    let object = format!("Gateway demo/{name}");
    let status = made.status.iter().find(|s| s.object.to_string() == object);
    status.unwrap().conditions[0].reason
}

#[test]
fn the_gateway_of_a_network_is_told_to_its_workloads_and_services_are_on_each() {
    let made = translated(&[TWO, &gateway("edge", WEST, ""), POD]);
    let (near, far) = (made.pod("demo/near"), made.pod("demo/far"));
    assert_eq!((&*near.network, &*far.network), ("east", "west"));
    assert_eq!(
        (&near.network_gateway, &far.network_gateway),
        (&None, &at("10.2.0.9"))
    );
    assert_eq!(made.pod("demo/edge-1").network_gateway, None);
    let web = made.service("demo/web.demo.svc.cluster.local");
    for network in ["", "east", "west"] {
        assert_eq!(
            web.vip(network),
            Some("10.96.0.1".parse().unwrap()),
            "{network}"
        );
    }
    assert_eq!(accepted(&made, "edge"), "Accepted");
}

#[test]
fn a_gateway_elsewhere_is_described_by_its_address() {
    let spec = ", addresses: [{type: IPAddress, value: 192.0.2.7}]";
    let made = translated(&[TWO, &gateway("edge", WEST, spec)]);
    assert_eq!(made.pod("demo/far").network_gateway, at("192.0.2.7"));
    let there = made.workload("NetworkGateway/west/192.0.2.7/15008");
    assert_eq!((&*there.network, &*there.service_account), ("west", "edge"));
}

#[test]
fn a_gateway_with_a_service_is_found_by_its_name() {
    let service = "
---
apiVersion: v1
kind: Service
metadata: {name: edge, namespace: demo}
spec: {clusterIP: 10.96.0.9, selector: {gateway.networking.k8s.io/gateway-name: edge}, ports: [{port: 15008}]}
";
    let made = translated(&[TWO, &gateway("edge", WEST, ""), POD, service]);
    let at = made.pod("demo/far").network_gateway.clone().unwrap();
    let name = "demo/edge.demo.svc.cluster.local".parse().unwrap();
    assert_eq!(at.destination, GatewayDestination::Hostname(name));
    assert_eq!(made.pod("demo/edge-1").network_gateway, None);
}

#[test]
fn a_gateway_that_leads_nowhere_says_so() {
    let second = gateway("edge-2", WEST, ", addresses: [{value: 192.0.2.8}]");
    let made = translated(&[
        TWO,
        &gateway("edge", "", ""),
        &gateway("edge-0", WEST, ""),
        &gateway("edge-1", WEST, ", addresses: [{value: 192.0.2.7}]"),
        &second,
    ]);
    let reasons = ["edge", "edge-0", "edge-1", "edge-2"].map(|name| accepted(&made, name));
    assert_eq!(
        reasons,
        ["Invalid", "AddressNotAssigned", "Accepted", "Conflicted"]
    );
    assert_eq!(made.pod("demo/far").network_gateway, at("192.0.2.7"));
}

#[test]
fn the_root_namespace_tells_the_network_of_what_says_nothing() {
    let root = "
---
apiVersion: v1
kind: Namespace
metadata: {name: istio-system, labels: {topology.istio.io/network: east}}
---
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: demo}
status: {podIP: 10.1.0.2}
";
    let made = translated(&[TWO, root]);
    assert_eq!(&*made.pod("demo/plain").network, "east");
    let web = made.service("demo/web.demo.svc.cluster.local");
    let networks: Vec<&str> = web.vips.iter().map(|(network, _)| &**network).collect();
    assert_eq!(networks, ["east", "west"]);
}

#[test]
fn a_service_vouches_for_its_endpoints_behind_a_gateway_and_for_no_other() {
    let far = TWO.replace(
        "west}}\nstatus",
        "west}}\nspec: {serviceAccountName: far, containers: [{name: app}]}\nstatus",
    );
    let made = translated(&[&far, &gateway("edge", WEST, ""), POD]);
    let vouched = |made: &Translation| {
        let web = made.service("demo/web.demo.svc.cluster.local");
        let names = web.subject_alt_names.iter().map(ToString::to_string);
        names.collect::<Vec<_>>()
    };
    assert_eq!(vouched(&made), ["spiffe://cluster.local/ns/demo/sa/far"]);
    // Without a gateway nobody comes from elsewhere.
    assert!(vouched(&translated(&[&far])).is_empty());
}
