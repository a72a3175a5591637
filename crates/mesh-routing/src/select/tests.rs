//! Precedence by hand; the linear scan is in `oracle.rs`.

mod oracle;

use super::*;
use mesh_model::{
    ListenerKey, ListenerProtocol, ObjectName, Regex, RouteRuleName, RouteTimeouts, ValueMatch,
    ValueMatcher,
};

pub(super) fn gateway() -> ObjectName {
    ObjectName::new("demo", "edge")
}

pub(super) fn listener(hostname: Option<&str>) -> GatewayListener {
    GatewayListener {
        key: ListenerKey {
            gateway: gateway(),
            name: "http".into(),
        },
        port: 80,
        protocol: ListenerProtocol::Http,
        hostname: hostname.map(|h| h.parse().unwrap()),
        certificates: Vec::new(),
    }
}

pub(super) fn rule(route: &str, index: u16) -> HttpRouteRule {
    HttpRouteRule {
        name: RouteRuleName {
            route: ObjectName::new("demo", route),
            rule: index,
        },
        created_unix_s: 0,
        parents: vec![ParentRef::Gateway {
            name: gateway(),
            section: None,
            port: None,
        }],
        hostnames: Vec::new(),
        matches: Vec::new(),
        filters: Vec::new(),
        backends: Vec::new(),
        timeouts: RouteTimeouts::default(),
    }
}

fn path(path: PathMatch) -> HttpMatch {
    HttpMatch {
        path: Some(path),
        ..HttpMatch::default()
    }
}

fn value(name: &str, text: &str) -> ValueMatch {
    ValueMatch {
        name: name.into(),
        value: ValueMatcher::Exact(text.into()),
    }
}

const HEADERS: &dyn Fn(&str) -> Option<String> = &|name| match name {
    "a" | "b" => Some("1".to_owned()),
    _ => None,
};

fn get<'a>(host: &'a str, path: &'a str) -> HttpFacts<'a> {
    HttpFacts {
        host,
        path,
        query: Some("q=1&r=2"),
        method: "GET",
        headers: HEADERS,
    }
}

/// The name of the route that takes a request at a listener of every host.
fn winner(rules: Vec<HttpRouteRule>, facts: &HttpFacts<'_>) -> Option<String> {
    let rules: Vec<Arc<HttpRouteRule>> = rules.into_iter().map(Arc::new).collect();
    let listener = listener(None);
    select(&rules, &Attachment::Listener(&listener), facts).map(|m| m.rule.name.to_string())
}

#[test]
fn a_prefix_matches_whole_elements() {
    for (prefix, asked, hit) in [
        ("/a", "/a", true),
        ("/a", "/a/", true),
        ("/a", "/a/b", true),
        ("/a", "/ab", false),
        ("/a/", "/a", true),
        ("/a/", "/a/b", true),
        ("/", "/anything", true),
        ("/a", "/A", false),
        ("/a/b", "/a", false),
    ] {
        let prefix_match = PathMatch::Prefix(prefix.into());
        assert_eq!(path_holds(&prefix_match, asked), hit, "{prefix} {asked}");
    }
}

#[test]
fn paths_go_exact_then_longest_prefix_then_expression_then_all() {
    let with = |name: &str, p: PathMatch| HttpRouteRule {
        matches: vec![path(p)],
        ..rule(name, 0)
    };
    let mut rules = vec![
        rule("every", 0),
        with("slash", PathMatch::Prefix("/".into())),
        with("regex", PathMatch::Regex(Regex::new("/a/.*").unwrap())),
        with("short", PathMatch::Prefix("/a".into())),
        with("long", PathMatch::Prefix("/a/b".into())),
        with("exact", PathMatch::Exact("/a/b".into())),
    ];
    for expected in ["exact", "long", "short", "regex", "every", "slash"] {
        let got = winner(rules.clone(), &get("h", "/a/b")).unwrap();
        assert_eq!(got, format!("demo/{expected}/0"));
        rules.retain(|r| &*r.name.route.name != expected);
    }
}

#[test]
fn then_method_then_headers_then_query() {
    let with = |name: &str, m: HttpMatch| HttpRouteRule {
        matches: vec![m],
        ..rule(name, 0)
    };
    let mut rules = vec![
        with("a-none", HttpMatch::default()),
        with(
            "query",
            HttpMatch {
                query: vec![value("q", "1"), value("r", "2")],
                ..HttpMatch::default()
            },
        ),
        with(
            "header",
            HttpMatch {
                headers: vec![value("a", "1")],
                ..HttpMatch::default()
            },
        ),
        with(
            "headers",
            HttpMatch {
                headers: vec![value("a", "1"), value("b", "1")],
                ..HttpMatch::default()
            },
        ),
        with(
            "method",
            HttpMatch {
                method: Some("GET".into()),
                ..HttpMatch::default()
            },
        ),
        with(
            "post",
            HttpMatch {
                method: Some("POST".into()),
                headers: vec![value("a", "1")],
                ..HttpMatch::default()
            },
        ),
    ];
    for expected in ["method", "headers", "header", "query", "a-none"] {
        let got = winner(rules.clone(), &get("h", "/")).unwrap();
        assert_eq!(got, format!("demo/{expected}/0"));
        rules.retain(|r| &*r.name.route.name != expected);
    }
    assert_eq!(winner(rules, &get("h", "/")), None);
}

#[test]
fn then_age_then_name_then_place() {
    let mut young = rule("a", 0);
    young.created_unix_s = 5;
    let rules = vec![
        young,
        rule("c", 1),
        rule("c", 0),
        rule("b-b", 3),
        rule("b", 4),
    ];
    assert_eq!(winner(rules, &get("h", "/")).unwrap(), "demo/b/4");
    let rules = vec![rule("c", 1), rule("c", 0)];
    assert_eq!(winner(rules, &get("h", "/")).unwrap(), "demo/c/0");
    // By the text `namespace/name`: "a-b/x" is before "a/a", since '-' is before '/'.
    let (mut one, mut two) = (rule("x", 0), rule("a", 0));
    one.name.route.namespace = "a-b".into();
    two.name.route.namespace = "a".into();
    assert_eq!(winner(vec![two, one], &get("h", "/")).unwrap(), "a-b/x/0");
}

#[test]
fn hosts_come_before_anything_else() {
    let with = |name: &str, host: &str| HttpRouteRule {
        hostnames: vec![host.parse().unwrap()],
        created_unix_s: 9,
        ..rule(name, 0)
    };
    let mut old = rule("every", 0);
    old.matches = vec![path(PathMatch::Exact("/".into()))];
    let mut rules = vec![
        old,
        with("wide", "*.example"),
        with("narrow", "*.shop.example"),
        with("precise", "a.shop.example"),
        with("other", "b.shop.example"),
    ];
    for expected in ["precise", "narrow", "wide", "every"] {
        let got = winner(rules.clone(), &get("a.shop.example", "/")).unwrap();
        assert_eq!(got, format!("demo/{expected}/0"));
        rules.retain(|r| &*r.name.route.name != expected);
    }
}

#[test]
fn a_listeners_host_narrows_the_routes() {
    let takes = |of_listener: &str, of_route: Option<&str>, asked: &str| {
        let mut r = rule("r", 0);
        r.hostnames.extend(of_route.map(|h| h.parse().unwrap()));
        let listener = listener(Some(of_listener));
        let at = Attachment::Listener(&listener);
        select(&[Arc::new(r)], &at, &get(asked, "/")).is_some()
    };
    assert!(takes("*.example", None, "a.example"));
    assert!(!takes("*.example", None, "a.other"));
    assert!(takes("a.example", Some("*.example"), "a.example"));
    assert!(!takes("a.example", Some("*.example"), "b.example"));
    assert!(!takes("*.example", Some("*.other"), "a.other"));
    assert!(takes("*.a.example", Some("*.example"), "x.a.example"));
    assert!(!takes("*.a.example", Some("*.example"), "x.example"));
}

#[test]
fn sections_ports_and_services_filter_parents() {
    let attached = |parent: ParentRef, at: &Attachment<'_>| {
        let mut r = rule("r", 0);
        r.parents = vec![parent];
        attached_http(&r, at)
    };
    let to_gateway = |section: Option<&str>, port| ParentRef::Gateway {
        name: gateway(),
        section: section.map(Into::into),
        port,
    };
    let listener = listener(None);
    let at = Attachment::Listener(&listener);
    assert!(attached(to_gateway(None, None), &at));
    assert!(attached(to_gateway(Some("http"), Some(80)), &at));
    assert!(!attached(to_gateway(Some("https"), None), &at));
    assert!(!attached(to_gateway(None, Some(443)), &at));
    let shop = ServiceName::new("demo", "shop");
    let to_service = |name: &str, port| ParentRef::Service {
        name: ServiceName::new("demo", name),
        port,
    };
    let at = Attachment::ServicePort(&shop, 80);
    assert!(attached(to_service("shop", None), &at));
    assert!(attached(to_service("shop", Some(80)), &at));
    assert!(!attached(to_service("shop", Some(81)), &at));
    assert!(!attached(to_service("cart", None), &at));
    assert!(!attached(to_gateway(None, None), &at));
}

#[test]
fn the_match_and_the_prefix_are_told() {
    let mut r = rule("r", 0);
    r.matches = vec![
        path(PathMatch::Exact("/x".into())),
        path(PathMatch::Prefix("/a/".into())),
    ];
    let listener = listener(None);
    let at = Attachment::Listener(&listener);
    let told = |asked: &str| {
        let found = select(&[Arc::new(r.clone())], &at, &get("h", asked)).unwrap();
        (found.matched, found.prefix.as_deref().map(str::to_owned))
    };
    assert_eq!(told("/x"), (Some(0), None));
    assert_eq!(told("/a/b"), (Some(1), Some("/a/".to_owned())));
}

#[test]
fn the_most_specific_listener_takes_a_host() {
    let named = |name: &str, hostname: Option<&str>, port| {
        let mut l = listener(hostname);
        l.key.name = name.into();
        l.port = port;
        Arc::new(l)
    };
    let all = [
        named("any", None, 80),
        named("wide", Some("*.example"), 80),
        named("one", Some("a.example"), 80),
        named("tls", Some("a.example"), 443),
    ];
    let pick = |port, host| pick_listener(&all, port, host).map(|l| &*l.key.name);
    assert_eq!(pick(80, "a.example"), Some("one"));
    assert_eq!(pick(80, "b.example"), Some("wide"));
    assert_eq!(pick(80, "other"), Some("any"));
    assert_eq!(pick(443, "other"), None);
}
