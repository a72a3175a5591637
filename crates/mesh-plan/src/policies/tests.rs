//! Which policies apply where.

use super::*;
use crate::testing::{at, ip, l4_policy, mesh, name, pod, s, service, wp};
use mesh_model::{Action, AuthorizationPolicy, PolicyRule, PolicyScope, PolicyTarget, Resource};
use std::sync::Arc;

fn policy(short: &str, scope: PolicyScope, rules: usize) -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: ObjectName::new("demo", short),
        scope,
        action: Action::Allow,
        rules: vec![PolicyRule::default(); rules],
        dry_run: false,
        targets: Vec::new(),
        invalid: None,
        http_dropped: false,
    }
}

fn targeting(short: &str, kind: &str, namespace: &str, name: &str) -> Resource {
    let mut p = policy(short, PolicyScope::Targets, 1);
    p.targets = vec![PolicyTarget {
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
    }];
    Resource::HttpPolicy(Arc::new(p))
}

fn names(set: &PolicySet) -> Vec<&str> {
    set.policies.iter().map(|p| &*p.name.name).collect()
}

#[test]
fn a_sidecar_has_each_policy_in_full_where_it_can() {
    let mut local = pod("shop-1", 2);
    local.authorization_policies = vec![
        ObjectName::new("demo", "strict"),
        ObjectName::new("demo", "gone"),
    ];
    // The L4 projection of an ALLOW on HTTP fields allows nothing; in full it has a rule.
    let snapshot = mesh([
        l4_policy(policy("get", PolicyScope::Namespace, 0)),
        Resource::HttpPolicy(Arc::new(policy("get", PolicyScope::Namespace, 1))),
        l4_policy(policy("strict", PolicyScope::WorkloadSelector, 1)),
    ]);
    let set = sidecar_policies(&snapshot, &local);
    assert_eq!(names(&set), ["get", "strict"]);
    assert_eq!(set.policies[0].rules.len(), 1);
    assert_eq!(set.missing, [ObjectName::new("demo", "gone")]);
}

#[test]
fn a_waypoint_has_those_of_the_service_of_its_gateway_and_of_its_class() {
    let mut all = wp();
    all.push(s(service("shop", 1)));
    all.push(targeting(
        "a",
        "Service",
        "demo",
        "shop.demo.svc.cluster.local",
    ));
    all.push(targeting("b", "Gateway", "demo", "wp"));
    all.push(targeting("c", "GatewayClass", "", "strata-waypoint"));
    all.push(targeting("d", "Gateway", "demo", "other"));
    all.push(targeting(
        "e",
        "Service",
        "demo",
        "cart.demo.svc.cluster.local",
    ));
    let snapshot = mesh(all);
    let me = snapshot.workload_at("", ip(9)).unwrap();
    let shop = WaypointTarget::Service {
        service: snapshot.service(&name("shop")).unwrap().clone(),
        port: 80,
    };
    assert_eq!(
        names(&waypoint_policies(&snapshot, me, &shop)),
        ["a", "b", "c"]
    );
    let by_pod = WaypointTarget::Workload {
        workload: me.clone(),
        address: at(ip(2), 80),
    };
    assert_eq!(
        names(&waypoint_policies(&snapshot, me, &by_pod)),
        ["b", "c"]
    );
}

#[test]
fn a_gateway_has_those_that_name_it_or_select_its_workload() {
    let mut all = vec![
        targeting("a", "Gateway", "demo", "edge"),
        targeting("b", "Gateway", "demo", "wp"),
        targeting("c", "GatewayClass", "", "strata"),
    ];
    for (short, scope) in [
        ("all", PolicyScope::Namespace),
        ("mesh", PolicyScope::Global),
    ] {
        all.push(Resource::HttpPolicy(Arc::new(policy(short, scope, 1))));
    }
    let snapshot = mesh(all);
    let gateway = ObjectName::new("demo", "edge");
    let set = gateway_policies(&snapshot, &gateway, Some(&pod("edge", 8)));
    assert_eq!(names(&set), ["a", "c", "all", "mesh"]);
    // Before the gateway's own pod is known, what applies to all of its namespace does already.
    assert_eq!(
        names(&gateway_policies(&snapshot, &gateway, None)),
        ["a", "c", "all", "mesh"]
    );
    let elsewhere = ObjectName::new("other", "edge");
    assert_eq!(
        names(&gateway_policies(&snapshot, &elsewhere, None)),
        ["c", "mesh"]
    );
}

#[test]
fn a_gateways_clients_need_no_mesh_identity() {
    let strict = policy(
        "istio_converted_static_strict",
        PolicyScope::WorkloadSelector,
        1,
    );
    let mut edge = Workload::clone(&pod("edge", 8));
    edge.authorization_policies = vec![
        strict.name.clone(),
        ObjectName::new("demo", "converted_peer_authentication_ports"),
        ObjectName::new("demo", "gone"),
    ];
    let snapshot = mesh(vec![Resource::Policy(Arc::new(strict))]);
    let gateway = ObjectName::new("demo", "edge");
    let set = gateway_policies(&snapshot, &gateway, Some(&edge));
    assert_eq!(names(&set), Vec::<&str>::new());
    assert_eq!(set.missing, [ObjectName::new("demo", "gone")]);
}
