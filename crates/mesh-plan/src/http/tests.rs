//! Routes to targets, for each kind of proxy.

use super::*;
use crate::testing::{
    at, behind, by_name, client, ip, mesh, name, on_service, pod, rule, s, service, vip, w,
    weighted, wp,
};
use crate::{TargetKind, tcp};
use mesh_model::{
    Backend, ListenerKey, ListenerProtocol, ParentRef, Resource, TcpRouteRule, WeightedBackend,
};

const NO_HEADERS: &dyn Fn(&str) -> Option<String> = &|_| None;

fn facts<'a>(host: &'a str, path: &'a str) -> HttpFacts<'a> {
    HttpFacts {
        host,
        path,
        query: None,
        method: "GET",
        headers: NO_HEADERS,
    }
}

fn http_route(rule: HttpRouteRule) -> Resource {
    Resource::HttpRoute(Arc::new(rule))
}

fn shops() -> Vec<Resource> {
    vec![
        s(service("shop", 1)),
        s(service("shop-v2", 2)),
        w(behind(pod("shop-1", 2), &["shop"])),
        w(behind(pod("shop-2", 3), &["shop-v2"])),
        w(pod("frontend", 1)),
    ]
}

/// The plan for a GET of `/` to the service `shop`.
fn to_shop(snapshot: &Snapshot, from: &Client, seed: u64) -> HttpPlan {
    let shop = snapshot.service(&name("shop")).unwrap().clone();
    let scope = HttpScope::Service {
        service: &shop,
        port: 80,
    };
    http(
        snapshot,
        from,
        &scope,
        &facts("shop", "/"),
        &mut Dice::seeded(seed),
    )
}

fn target(plan: HttpPlan) -> Target {
    match plan {
        HttpPlan::Forward(forward) => forward.target,
        other => panic!("not forwarded: {other:?}"),
    }
}

fn reason(plan: HttpPlan) -> Reason {
    match plan {
        HttpPlan::Refuse(refusal) => refusal.reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_service_without_routes_is_its_own_backend() {
    let from = client(&pod("frontend", 1));
    let got = target(to_shop(&mesh(shops()), &from, 1));
    assert_eq!(got.destination, at(ip(2), 8080));
    assert_eq!(got.kind, TargetKind::Endpoint);
}

#[test]
fn routes_split_by_weight_and_never_to_zero() {
    let mut all = shops();
    let backends = vec![weighted("shop", 0), weighted("shop-v2", 5)];
    all.push(http_route(rule("split", on_service("shop"), backends)));
    let snapshot = mesh(all);
    let from = client(&pod("frontend", 1));
    for seed in 0..40 {
        assert_eq!(
            target(to_shop(&snapshot, &from, seed)).destination,
            at(ip(3), 8080)
        );
    }
}

#[test]
fn no_match_is_404_and_a_bad_backend_500_and_no_endpoint_503() {
    let from = client(&pod("frontend", 1));
    let says = |rule: HttpRouteRule, resources: Vec<Resource>| {
        let mut all = resources;
        all.push(http_route(rule));
        reason(to_shop(&mesh(all), &from, 1))
    };
    let mut elsewhere = rule("r", on_service("shop"), vec![weighted("shop", 1)]);
    elsewhere.matches = vec![mesh_model::HttpMatch {
        path: Some(mesh_model::PathMatch::Exact("/x".into())),
        ..Default::default()
    }];
    assert_eq!(says(elsewhere, shops()), Reason::NoRoute);
    let with = |backends| rule("r", on_service("shop"), backends);
    assert_eq!(says(with(vec![]), shops()), Reason::BackendInvalid);
    assert_eq!(
        says(with(vec![weighted("shop", 0)]), shops()),
        Reason::BackendInvalid
    );
    assert_eq!(
        says(with(vec![weighted("gone", 1)]), shops()),
        Reason::BackendInvalid
    );
    let invalid = WeightedBackend {
        backend: Backend::Invalid {
            why: "no ReferenceGrant".into(),
        },
        weight: 1,
        filters: vec![],
    };
    assert_eq!(says(with(vec![invalid]), shops()), Reason::BackendInvalid);
    let empty = vec![s(service("shop", 1))];
    assert_eq!(
        says(with(vec![weighted("shop", 1)]), empty),
        Reason::NoEndpoint
    );
}

#[test]
fn a_route_on_another_port_leaves_the_service_alone() {
    let mut all = shops();
    let parent = ParentRef::Service {
        name: name("shop"),
        port: Some(81),
    };
    all.push(http_route(rule("r", parent, vec![weighted("shop-v2", 1)])));
    let from = client(&pod("frontend", 1));
    assert_eq!(
        target(to_shop(&mesh(all), &from, 1)).destination,
        at(ip(2), 8080)
    );
}

#[test]
fn a_consumers_route_overrides_for_its_own_namespace_only() {
    let mut consumer = rule("mine", on_service("shop"), vec![weighted("shop-v2", 1)]);
    consumer.name.route.namespace = "other".into();
    let mut all = shops();
    all.push(http_route(consumer));
    let snapshot = mesh(all);
    let mut stranger = pod("stranger", 7);
    let from = client(&stranger);
    assert_eq!(
        target(to_shop(&snapshot, &from, 1)).destination,
        at(ip(2), 8080)
    );
    stranger.namespace = "other".into();
    let from = client(&stranger);
    assert_eq!(
        target(to_shop(&snapshot, &from, 1)).destination,
        at(ip(3), 8080)
    );
}

#[test]
fn a_sidecar_goes_through_a_backends_waypoint_and_the_waypoint_itself_goes_direct() {
    let (mut shop, mut v2) = (service("shop", 1), service("shop-v2", 2));
    v2.waypoint = Some(by_name("wp"));
    let mut all = shops();
    all.push(s(v2));
    all.extend(wp());
    all.push(http_route(rule(
        "r",
        on_service("shop"),
        vec![weighted("shop-v2", 1)],
    )));
    let from = client(&pod("frontend", 1));
    let got = target(to_shop(&mesh(all.clone()), &from, 1));
    assert_eq!(got.kind, TargetKind::Waypoint);
    assert_eq!(got.address, at(ip(9), 16008));
    assert_eq!(got.destination, at(vip(2), 80));
    shop.waypoint = Some(by_name("wp"));
    all.push(s(shop));
    let snapshot = mesh(all);
    let me = client(snapshot.workload_at("", ip(9)).unwrap());
    let got = target(to_shop(&snapshot, &me, 1));
    assert_eq!(
        (got.kind, got.destination),
        (TargetKind::Endpoint, at(ip(3), 8080))
    );
}

fn listener() -> GatewayListener {
    GatewayListener {
        key: ListenerKey {
            gateway: ObjectName::new("demo", "edge"),
            name: "http".into(),
        },
        port: 80,
        protocol: ListenerProtocol::Http,
        hostname: None,
        certificates: Vec::new(),
    }
}

fn on_gateway() -> ParentRef {
    ParentRef::Gateway {
        name: ObjectName::new("demo", "edge"),
        section: None,
        port: None,
    }
}

fn at_gateway(snapshot: &Snapshot, host: &str) -> HttpPlan {
    let listener = listener();
    let scope = HttpScope::Gateway {
        gateway: &listener.key.gateway,
        listener: &listener,
    };
    let from = client(&pod("edge", 8));
    http(
        snapshot,
        &from,
        &scope,
        &facts(host, "/"),
        &mut Dice::seeded(1),
    )
}

#[test]
fn a_gateway_uses_a_waypoint_only_where_the_service_says_so() {
    let mut shop = service("shop", 1);
    shop.waypoint = Some(by_name("wp"));
    let mut all = shops();
    all.extend(wp());
    all.push(s(shop.clone()));
    let mut of_host = rule("r", on_gateway(), vec![weighted("shop", 1)]);
    of_host.hostnames = vec!["shop.example".parse().unwrap()];
    all.push(http_route(of_host));
    let snapshot = mesh(all.clone());
    assert_eq!(
        target(at_gateway(&snapshot, "shop.example")).destination,
        at(ip(2), 8080)
    );
    assert_eq!(
        reason(at_gateway(&snapshot, "cart.example")),
        Reason::NoRoute
    );
    shop.ingress_use_waypoint = true;
    all.push(s(shop));
    let got = target(at_gateway(&mesh(all), "shop.example"));
    assert_eq!(
        (got.kind, got.address),
        (TargetKind::Waypoint, at(ip(9), 16008))
    );
    assert_eq!(got.destination, at(vip(1), 80));
}

#[test]
fn a_redirect_needs_no_backend_and_filters_come_rule_first() {
    let redirect = Redirect {
        scheme: Some("https".into()),
        hostname: None,
        path: None,
        port: None,
        status: 301,
    };
    let changes = |name: &str| HeaderModifier {
        remove: vec![name.into()],
        ..Default::default()
    };
    let mut to = rule("r", on_gateway(), vec![]);
    to.filters = vec![
        HttpFilter::ResponseHeaders(changes("a")),
        HttpFilter::Redirect(redirect.clone()),
    ];
    match at_gateway(&mesh(vec![http_route(to)]), "shop.example") {
        HttpPlan::Redirect(got) => {
            assert_eq!(got.filter, redirect);
            assert_eq!(got.response_filters, [changes("a")]);
            assert_eq!(got.prefix.as_deref(), Some("/"));
        }
        other => panic!("{other:?}"),
    }
    let mut backend = weighted("shop", 1);
    backend.filters = vec![HttpFilter::RequestHeaders(changes("b"))];
    let mut to = rule("r", on_gateway(), vec![backend]);
    to.filters = vec![HttpFilter::RequestHeaders(changes("a"))];
    let mut all = shops();
    all.push(http_route(to));
    match at_gateway(&mesh(all), "shop.example") {
        HttpPlan::Forward(got) => assert_eq!(
            got.filters,
            [
                HttpFilter::RequestHeaders(changes("a")),
                HttpFilter::RequestHeaders(changes("b"))
            ]
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tcp_listener_has_the_oldest_route() {
    let tcp_rule = |route: &str, created_unix_s, short: &str| {
        Resource::TcpRoute(Arc::new(TcpRouteRule {
            name: rule(route, on_gateway(), vec![]).name,
            created_unix_s,
            parents: vec![on_gateway()],
            backends: vec![weighted(short, 1)],
        }))
    };
    let mut all = shops();
    let from = client(&pod("edge", 8));
    let listener = listener();
    let plan = |all: Vec<Resource>| {
        let dice = &mut Dice::seeded(1);
        tcp(&mesh(all), &from, &listener.key.gateway, &listener, dice)
    };
    assert_eq!(plan(all.clone()).unwrap_err().reason, Reason::NoRoute);
    all.push(tcp_rule("a", 9, "shop"));
    all.push(tcp_rule("b", 3, "shop-v2"));
    let (rule, target) = plan(all).unwrap();
    assert_eq!(&*rule.name.route.name, "b");
    assert_eq!(target.destination, at(ip(3), 8080));
}
