//! One walk a kind of way, and that a walk ends as its decisions do.

use super::*;
use crate::testing::{
    at, behind, by_name, ip, mesh, name, on_service, pod, port, rule, s, service, vip, w, weighted,
    wp,
};
use mesh_model::{
    Action, AppProtocol, AuthorizationPolicy, GatewayListener, HeaderModifier, HttpFilter,
    HttpMatch, HttpRouteRule, ListenerKey, ListenerProtocol, ObjectName, ParentRef, PathMatch,
    PathModifier, PolicyClause, PolicyMatch, PolicyRule, PolicyScope, PolicyTarget, Redirect,
    Resource, StringMatch, TunnelProtocol, UrlRewrite, Workload,
};
use proptest::prelude::*;
use std::sync::Arc;

const FRONTEND: &str = "spiffe://cluster.local/ns/demo/sa/frontend";
const WAYPOINT: &str = "spiffe://cluster.local/ns/demo/sa/wp";

fn sidecar(short: &str, last: u8) -> Workload {
    let mut w = pod(short, last);
    w.native_tunnel = true;
    w
}

fn outside(short: &str, last: u8) -> Workload {
    let mut w = pod(short, last);
    w.protocol = TunnelProtocol::None;
    w
}

/// `shop` (HTTP) behind a waypoint, `cart` (TCP) and `web` (HTTP, with sidecars) behind none.
fn town() -> Vec<Resource> {
    let mut shop = service("shop", 1);
    shop.waypoint = Some(by_name("wp"));
    let mut cart = service("cart", 2);
    cart.ports = vec![port(80, 8080, AppProtocol::Tcp)];
    let mut all = vec![
        s(shop),
        s(cart),
        s(service("web", 3)),
        w(behind(pod("shop-1", 11), &["shop"])),
        w(behind(pod("cart-1", 12), &["cart"])),
        w(behind(sidecar("web-1", 13), &["web"])),
        w(pod("frontend", 1)),
        w(sidecar("browser", 2)),
        w(outside("legacy", 3)),
    ];
    all.extend(wp());
    all
}

fn policy(short: &str, action: Action, m: PolicyMatch) -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: ObjectName::new("demo", short),
        scope: PolicyScope::Namespace,
        action,
        rules: vec![PolicyRule {
            clauses: vec![PolicyClause { matches: vec![m] }],
        }],
        dry_run: false,
        targets: Vec::new(),
        invalid: None,
        http_dropped: false,
    }
}

fn paths(pattern: &str) -> PolicyMatch {
    PolicyMatch {
        paths: vec![StringMatch::from_pattern(pattern)],
        ..PolicyMatch::default()
    }
}

fn ask(resources: Vec<Resource>, from: &str, to: &str, path: Option<&str>) -> Explanation {
    let request = ExplainRequest {
        from: from.to_owned(),
        to: to.to_owned(),
        port: 80,
        path: path.map(str::to_owned),
        ..ExplainRequest::default()
    };
    explain(&mesh(resources), &request)
}

fn proxies(e: &Explanation) -> Vec<(&str, Layer)> {
    e.hops.iter().map(|h| (h.proxy.as_str(), h.layer)).collect()
}

#[test]
fn through_a_waypoint_with_the_identity_of_each_hop() {
    let e = ask(town(), "demo/frontend", "demo/shop", Some("/"));
    assert!(e.allowed, "{e}");
    assert_eq!(
        proxies(&e),
        [
            ("ztunnel of demo/frontend", Layer::L4),
            ("waypoint demo/wp", Layer::L7),
            ("ztunnel of demo/shop-1", Layer::L4)
        ]
    );
    assert_eq!(e.hops[0].presented.as_deref(), Some(FRONTEND));
    assert_eq!(e.hops[0].expected, [WAYPOINT]);
    assert_eq!(e.hops[1].presented.as_deref(), Some(WAYPOINT));
    assert_eq!(e.hops[2].presented.as_deref(), Some(WAYPOINT));
    assert!(e.hops[0].detail.contains("asking for 10.96.0.1:80"), "{e}");
    assert_eq!(
        e.detail,
        "demo/frontend reaches demo/shop-1 at 10.0.0.11:8080, through waypoint demo/wp"
    );
}

#[test]
fn a_waypoint_policy_on_a_path_decides_there() {
    let mut deny = policy("no-admin", Action::Deny, paths("/admin*"));
    deny.scope = PolicyScope::Targets;
    deny.targets = vec![PolicyTarget {
        kind: "Service".into(),
        namespace: "demo".into(),
        name: name("shop").hostname,
    }];
    let mut all = town();
    all.push(Resource::HttpPolicy(Arc::new(deny)));
    assert!(ask(all.clone(), "demo/frontend", "demo/shop", Some("/")).allowed);
    let e = ask(all, "demo/frontend", "shop.demo", Some("/admin/x"));
    assert!(!e.allowed);
    assert_eq!(e.reason, Reason::PolicyDenied);
    assert_eq!(e.hops.len(), 2);
    let policy = e.hops[1].policy.as_deref().unwrap();
    assert!(
        policy.starts_with("denied: rule 0 of DENY policy demo/no-admin"),
        "{policy}"
    );
}

#[test]
fn a_ztunnel_policy_is_of_the_waypoint_where_traffic_comes_through_one() {
    let only_frontend = PolicyMatch {
        principals: vec![StringMatch::Suffix("/sa/frontend".into())],
        ..PolicyMatch::default()
    };
    let mut all = town();
    all.push(Resource::Policy(Arc::new(policy(
        "callers",
        Action::Allow,
        only_frontend,
    ))));
    let direct = ask(all.clone(), "demo/frontend", "demo/cart", None);
    assert!(direct.allowed, "{direct}");
    assert_eq!(
        direct.hops[1].policy.as_deref(),
        Some("allowed by rule 0 of demo/callers")
    );
    let through = ask(all.clone(), "demo/frontend", "demo/shop", None);
    assert_eq!(through.reason, Reason::PolicyDenied, "{through}");
    let plain = ask(all, "demo/legacy", "demo/cart", None);
    assert_eq!(plain.reason, Reason::PolicyDenied, "{plain}");
    assert_eq!(plain.hops[1].presented, None);
}

#[test]
fn a_sidecar_routes_http_and_tunnels_the_rest() {
    let mut all = town();
    let split = rule(
        "split",
        on_service("web"),
        vec![weighted("cart", 3), weighted("web", 0)],
    );
    all.push(Resource::HttpRoute(Arc::new(split)));
    let e = ask(all.clone(), "demo/browser", "10.96.0.3", Some("/x"));
    assert!(e.allowed, "{e}");
    assert_eq!(e.hops[0].layer, Layer::L7);
    assert_eq!(
        e.hops[0].route.as_deref(),
        Some("HTTPRoute demo/split, rule 0")
    );
    let weights: Vec<u32> = e.hops[0].endpoints.iter().map(|e| e.weight).collect();
    assert_eq!(weights, [3, 0, 1]);
    assert!(e.detail.contains("demo/cart-1"), "{e}");
    // Through a waypoint it is bytes; ztunnel does not route either.
    assert_eq!(
        ask(all.clone(), "demo/browser", "shop", Some("/")).hops[0].layer,
        Layer::L4
    );
    let e = ask(all, "demo/frontend", "web", Some("/x"));
    assert_eq!(e.hops[0].route, None);
    assert!(e.detail.contains("demo/web-1"), "{e}");
}

#[test]
fn a_sidecar_enforces_http_policies_at_the_destination() {
    let mut all = town();
    let get = policy("get", Action::Allow, paths("/public*"));
    all.push(Resource::HttpPolicy(Arc::new(get.clone())));
    // Its projection for ztunnel allows nothing.
    let projected = AuthorizationPolicy {
        rules: Vec::new(),
        ..get
    };
    all.push(Resource::Policy(Arc::new(projected)));
    let e = ask(all.clone(), "demo/frontend", "web", Some("/public/x"));
    assert!(e.allowed, "{e}");
    assert_eq!(e.hops[1].proxy, "sidecar of demo/web-1");
    assert_eq!(e.hops[1].layer, Layer::L7);
    let e = ask(all.clone(), "demo/frontend", "web", Some("/private"));
    assert_eq!(e.reason, Reason::PolicyDenied);
    let e = ask(all, "demo/frontend", "cart", None);
    assert_eq!(
        e.reason,
        Reason::PolicyDenied,
        "ztunnel has the projection: {e}"
    );
}

#[test]
fn a_policy_may_name_parts_of_the_head_as_headers() {
    for (name, value) in [
        ("host", "web*"),
        (":authority", "web*"),
        (":method", "GET"),
        (":path", "/x?y=*"),
    ] {
        let named = PolicyMatch {
            headers: vec![mesh_model::HeaderCondition {
                name: name.into(),
                values: vec![StringMatch::from_pattern(value)],
                not_values: Vec::new(),
            }],
            ..PolicyMatch::default()
        };
        let mut all = town();
        let denied = policy("named", Action::Deny, named);
        all.push(Resource::HttpPolicy(Arc::new(denied)));
        let e = ask(all, "demo/frontend", "web", Some("/x?y=1"));
        assert_eq!(e.reason, Reason::PolicyDenied, "{name}: {e}");
    }
}

#[test]
fn a_path_is_judged_as_the_proxies_judge_it() {
    let named = PolicyMatch {
        paths: vec![StringMatch::from_pattern("/admin*")],
        ..PolicyMatch::default()
    };
    let mut all = town();
    let denied = policy("named", Action::Deny, named);
    all.push(Resource::HttpPolicy(Arc::new(denied)));
    for path in ["/admin", "/x/../admin", "/%61dmin?q=1", "/x\\..\\admin"] {
        let e = ask(all.clone(), "demo/frontend", "web", Some(path));
        assert_eq!(e.reason, Reason::PolicyDenied, "{path}: {e}");
    }
    let e = ask(all, "demo/frontend", "web", Some("//admin"));
    assert!(e.allowed, "another path: {e}");
}

#[test]
fn a_pod_outside_goes_past_the_waypoint_and_an_unknown_address_past_the_mesh() {
    let e = ask(town(), "demo/legacy", "demo/shop", Some("/"));
    assert!(e.allowed);
    assert_eq!(e.hops[0].proxy, "no proxy (demo/legacy is not in the mesh)");
    assert!(e.hops[0].detail.contains("is passed by"), "{e}");
    let e = ask(town(), "demo/frontend", "192.0.2.7", None);
    assert!(e.allowed);
    assert!(e.detail.contains("plain text"), "{e}");
    let e = ask(town(), "demo/frontend", "demo/legacy", None);
    assert!(e.allowed, "{e}");
    assert_eq!(e.hops[1].policy.as_deref(), Some("none applies"));
}

fn listener(name: &str, port: u16, protocol: ListenerProtocol) -> Resource {
    Resource::Listener(Arc::new(GatewayListener {
        key: ListenerKey {
            gateway: ObjectName::new("demo", "edge"),
            name: name.into(),
        },
        port,
        protocol,
        hostname: None,
        certificates: Vec::new(),
    }))
}

fn edge(filters: Vec<HttpFilter>) -> Vec<Resource> {
    let parent = ParentRef::Gateway {
        name: ObjectName::new("demo", "edge"),
        section: None,
        port: None,
    };
    let route = HttpRouteRule {
        hostnames: vec!["shop.example".parse().unwrap()],
        matches: vec![HttpMatch {
            path: Some(PathMatch::Prefix("/shop".into())),
            ..HttpMatch::default()
        }],
        filters,
        ..rule("public", parent, vec![weighted("web", 1)])
    };
    let mut all = town();
    all.push(listener("http", 8080, ListenerProtocol::Http));
    all.push(Resource::HttpRoute(Arc::new(route)));
    all.push(w(sidecar("edge", 20)));
    all
}

#[test]
fn an_internet_client_comes_through_a_gateway() {
    let from = "gateway:demo/edge";
    let e = ask(edge(vec![]), from, "demo/web", Some("/shop"));
    assert!(e.allowed, "{e}");
    assert_eq!(e.hops[0].proxy, "gateway demo/edge, listener http");
    assert_eq!(
        e.hops[0].route.as_deref(),
        Some("HTTPRoute demo/public, rule 0")
    );
    assert_eq!(
        e.hops[0].presented.as_deref(),
        Some("spiffe://cluster.local/ns/demo/sa/edge")
    );
    let e = ask(edge(vec![]), from, "shop.example", Some("/other"));
    assert_eq!(e.reason, Reason::NoRoute, "{e}");
    let e = ask(
        edge(vec![]),
        "gateway:demo/edge/https",
        "shop.example",
        Some("/shop"),
    );
    assert_eq!(e.reason, Reason::NoRoute, "{e}");
    assert!(e.detail.contains("has no listener https"), "{e}");
}

#[test]
fn the_next_hop_sees_what_the_filters_made() {
    let rewrite = HttpFilter::Rewrite(UrlRewrite {
        hostname: Some("inner".into()),
        path: Some(PathModifier::ReplacePrefix("/admin".into())),
    });
    let add = HttpFilter::RequestHeaders(HeaderModifier {
        set: vec![mesh_model::Header {
            name: "x-edge".into(),
            value: "1".into(),
        }],
        ..HeaderModifier::default()
    });
    let mut all = edge(vec![rewrite, add]);
    all.push(Resource::HttpPolicy(Arc::new(policy(
        "no-admin",
        Action::Deny,
        paths("/admin/x"),
    ))));
    let e = ask(all, "gateway:demo/edge", "shop.example", Some("/shop/x"));
    assert_eq!(e.reason, Reason::PolicyDenied, "{e}");
    assert_eq!(e.hops[1].proxy, "sidecar of demo/web-1");
}

#[test]
fn a_redirect_is_an_answer() {
    let redirect = HttpFilter::Redirect(Redirect {
        scheme: Some("https".into()),
        hostname: None,
        path: None,
        port: None,
        status: 308,
    });
    let e = ask(
        edge(vec![redirect]),
        "gateway:demo/edge",
        "shop.example",
        Some("/shop?q"),
    );
    assert!(e.allowed);
    assert_eq!(
        e.detail,
        "answers 308 and sends the client to https://shop.example/shop?q"
    );
}

#[test]
fn what_cannot_be_understood_is_answered() {
    for (from, to, reason) in [
        ("frontend", "demo/shop", Reason::BadRequest),
        ("gateway:edge", "demo/shop", Reason::BadRequest),
        ("demo/gone", "demo/shop", Reason::UnknownWorkload),
        ("demo/frontend", "demo/gone", Reason::WrongDestination),
    ] {
        let e = ask(town(), from, to, None);
        assert_eq!((e.allowed, e.reason), (false, reason), "{from} {to}");
        assert!(e.hops.is_empty());
    }
}

#[test]
fn it_reads_well_and_serializes() {
    let e = ask(town(), "demo/frontend", "demo/shop", Some("/"));
    let text = e.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "allowed (ok): demo/frontend reaches demo/shop-1 at 10.0.0.11:8080, through waypoint demo/wp"
    );
    assert_eq!(lines[1], "  1. ztunnel of demo/frontend [L4]");
    assert_eq!(lines[2], format!("       identity  {FRONTEND}"));
    assert_eq!(lines[3], format!("       expects   {WAYPOINT}"));
    let json = serde_json::to_value(&e).unwrap();
    assert_eq!(json["reason"], "ok");
    assert_eq!(json["hops"][1]["layer"], "L7");
}

proptest! {
    /// Any question gets an answer: a text, no panic, and a reason that fits the verdict.
    #[test]
    fn any_question_is_answered(
        from in "(gateway:)?[a-z]{0,4}/?(frontend|edge|legacy|.{0,5})(/http)?",
        to in prop_oneof!["demo/(shop|cart|web|x)", "[0-9.]{1,12}", ".{0,20}", "shop(\\.demo)?"],
        port in any::<u16>(),
        path in proptest::option::of(".{0,20}"),
    ) {
        let request = ExplainRequest { from, to, port, path, ..ExplainRequest::default() };
        let e = explain(&mesh(edge(vec![])), &request);
        prop_assert_eq!(e.allowed, e.reason == Reason::Ok);
        prop_assert!(!e.detail.is_empty());
        prop_assert!(e.to_string().contains(&e.detail));
        prop_assert!(e.hops.len() <= 3);
    }

    /// The first hop says where traffic goes, and that is where `outbound` sends it.
    #[test]
    fn the_first_hop_is_the_plan(address in prop_oneof![(1..5u8).prop_map(vip), (1..15u8).prop_map(ip)]) {
        let snapshot = mesh(town());
        let frontend = snapshot.workload_named("", "demo", "frontend").unwrap();
        let client = crate::Client::of(frontend);
        let dice = &mut mesh_model::Dice::seeded(0);
        let planned = crate::outbound(&snapshot, &client, at(address, 80), dice);
        let request = ExplainRequest {
            from: "demo/frontend".to_owned(),
            to: address.to_string(),
            port: 80,
            ..ExplainRequest::default()
        };
        let e = explain(&snapshot, &request);
        match planned {
            Ok(target) => prop_assert!(e.hops[0].detail.contains(&target.address.to_string())),
            Err(refusal) => prop_assert_eq!(e.reason, refusal.reason),
        }
    }
}

#[test]
fn two_pods_of_one_node_are_one_hop() {
    let on = |node: &str, mut pod: Workload| {
        pod.node = node.into();
        pod
    };
    let one_hop = |from: Workload, to: Workload| {
        let shop = behind(to, &["shop"]);
        let all = vec![s(service("shop", 1)), w(from), w(shop)];
        let answer = ask(all, "demo/here", "demo/shop", None);
        assert!(answer.allowed, "{answer}");
        let sides: Vec<_> = answer.hops.iter().map(|h| &*h.proxy).collect();
        assert_eq!(sides.len(), 2, "{answer}");
        answer.hops[0].detail.contains("transport node")
    };
    let (here, there) = (pod("here", 1), pod("shop-1", 2));
    let both = || (on("n1", here.clone()), on("n1", there.clone()));
    assert!(one_hop(both().0, both().1));
    assert!(!one_hop(both().0, on("n2", there.clone())));
    // Whose node is not known may be anywhere.
    assert!(!one_hop(here.clone(), there.clone()));
    for change in [
        |w: &mut Workload| w.encrypt_same_node = true,
        |w: &mut Workload| w.native_tunnel = true,
        |w: &mut Workload| w.cluster = "other".into(),
    ] {
        let (from, mut to) = both();
        change(&mut to);
        assert!(!one_hop(from, to));
    }
    let (mut from, to) = both();
    from.encrypt_same_node = true;
    assert!(!one_hop(from, to));
}
