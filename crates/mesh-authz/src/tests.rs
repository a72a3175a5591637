//! Decisions by hand, one rule of interop/authz.md at a time; the oracle is in `oracle.rs`.

mod oracle;

use super::*;
use mesh_model::{PolicyClause, PolicyMatch, PolicyRule, PolicyScope, StringMatch};
use std::sync::Arc;

fn policy(name: &str, action: Action, rules: Vec<PolicyRule>) -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: ObjectName::new("demo", name),
        scope: PolicyScope::Namespace,
        action,
        rules,
        dry_run: false,
        targets: Vec::new(),
        invalid: None,
        http_dropped: false,
    }
}

fn one(m: PolicyMatch) -> Vec<PolicyRule> {
    vec![PolicyRule {
        clauses: vec![PolicyClause { matches: vec![m] }],
    }]
}

fn principal(text: &str) -> PolicyMatch {
    PolicyMatch {
        principals: vec![StringMatch::from_pattern(text)],
        ..PolicyMatch::default()
    }
}

fn methods(text: &str) -> PolicyMatch {
    PolicyMatch {
        methods: vec![StringMatch::from_pattern(text)],
        ..PolicyMatch::default()
    }
}

fn set(policies: Vec<AuthorizationPolicy>) -> PolicySet {
    PolicySet {
        policies: policies.into_iter().map(Arc::new).collect(),
        ..PolicySet::default()
    }
}

fn frontend() -> SpiffeId {
    "spiffe://cluster.local/ns/demo/sa/frontend"
        .parse()
        .unwrap()
}

fn connection(identity: Option<&SpiffeId>) -> Connection<'_> {
    Connection {
        identity,
        source_ip: IpAddr::from([10, 0, 0, 1]),
        destination: "10.0.0.2:8080".parse().unwrap(),
    }
}

fn get<'a>(host: &'a str, path: &'a str) -> Request<'a> {
    Request {
        host,
        method: "GET",
        path,
        header: &|name| match name {
            "x-tier" => vec!["gold".to_owned()],
            _ => Vec::new(),
        },
    }
}

#[test]
fn nothing_applies_and_all_may_pass() {
    let decision = authorize(&set(Vec::new()), &connection(None), None);
    assert!(decision.allowed);
    assert_eq!(decision.policy, None);
}

#[test]
fn an_allow_names_the_policy_and_rule_that_allowed() {
    let id = frontend();
    let rules = [
        one(principal("cluster.local/ns/demo/sa/other")),
        one(principal("*/sa/frontend")),
    ]
    .concat();
    let s = set(vec![policy("callers", Action::Allow, rules)]);
    let decision = authorize(&s, &connection(Some(&id)), None);
    assert!(decision.allowed);
    assert_eq!(decision.policy.unwrap().to_string(), "demo/callers");
    assert_eq!(decision.rule, Some(1));
    let decision = authorize(&s, &connection(None), None);
    assert!(!decision.allowed);
    assert_eq!(decision.reason, Reason::PolicyDenied);
    assert!(decision.detail.contains("demo/callers"), "{decision:?}");
}

#[test]
fn no_rules_allow_nothing_and_deny_nothing_and_an_empty_rule_matches_all() {
    let c = connection(None);
    let says = |action, rules| authorize(&set(vec![policy("p", action, rules)]), &c, None).allowed;
    assert!(!says(Action::Allow, Vec::new()));
    assert!(says(Action::Deny, Vec::new()));
    assert!(says(Action::Allow, vec![PolicyRule::default()]));
    assert!(!says(Action::Deny, vec![PolicyRule::default()]));
    // A match without any field never matches.
    assert!(!says(Action::Allow, one(PolicyMatch::default())));
    assert!(says(Action::Deny, one(PolicyMatch::default())));
}

#[test]
fn deny_beats_allow_and_plaintext_fails_strict() {
    let id = frontend();
    let strict = PolicyMatch {
        not_principals: vec![StringMatch::Presence],
        ..PolicyMatch::default()
    };
    let s = set(vec![
        policy("all", Action::Allow, vec![PolicyRule::default()]),
        policy("strict", Action::Deny, one(strict)),
    ]);
    assert!(authorize(&s, &connection(Some(&id)), None).allowed);
    let decision = authorize(&s, &connection(None), None);
    assert_eq!(decision.reason, Reason::PolicyDenied);
    assert_eq!(decision.policy.unwrap().to_string(), "demo/strict");
}

#[test]
fn a_missing_or_unreadable_policy_denies() {
    let mut s = set(vec![policy(
        "all",
        Action::Allow,
        vec![PolicyRule::default()],
    )]);
    s.missing.push(ObjectName::new("demo", "gone"));
    let decision = authorize(&s, &connection(None), None);
    assert_eq!(decision.reason, Reason::PolicyUnavailable);
    assert_eq!(decision.policy.unwrap().to_string(), "demo/gone");
    let bad = AuthorizationPolicy::unreadable(
        ObjectName::new("demo", "bad"),
        PolicyScope::Namespace,
        "port 99999",
    );
    let decision = authorize(&set(vec![bad]), &connection(None), None);
    assert_eq!(decision.reason, Reason::PolicyUnavailable);
    assert!(decision.detail.contains("port 99999"));
}

#[test]
fn dry_run_changes_nothing_and_is_reported() {
    let mut deny = policy("deny-all", Action::Deny, vec![PolicyRule::default()]);
    deny.dry_run = true;
    let mut allow = policy("allow-none", Action::Allow, Vec::new());
    allow.dry_run = true;
    let decision = authorize(&set(vec![deny, allow]), &connection(None), None);
    assert!(decision.allowed);
    let names: Vec<String> = decision.dry_run.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["demo/deny-all", "demo/allow-none"]);
}

#[test]
fn without_a_request_http_fields_never_allow_and_always_deny() {
    let c = connection(None);
    let request = get("shop", "/");
    for (action, seen, unseen) in [(Action::Allow, true, false), (Action::Deny, false, false)] {
        let s = set(vec![policy("get", action, one(methods("GET")))]);
        assert_eq!(authorize(&s, &c, Some(&request)).allowed, seen);
        assert_eq!(authorize(&s, &c, None).allowed, unseen);
        let s = set(vec![policy("post", action, one(methods("POST")))]);
        assert_eq!(authorize(&s, &c, Some(&request)).allowed, !seen);
        assert_eq!(authorize(&s, &c, None).allowed, unseen);
    }
}

#[test]
fn hosts_match_in_any_case_with_or_without_port() {
    let deny = |pattern: &str| {
        let m = PolicyMatch {
            hosts: vec![StringMatch::from_pattern(pattern)],
            ..PolicyMatch::default()
        };
        set(vec![policy("hosts", Action::Deny, one(m))])
    };
    let c = connection(None);
    for (pattern, host, hit) in [
        ("shop.example", "Shop.Example", true),
        ("shop.example", "shop.example:8080", true),
        ("shop.example:8080", "shop.example:8080", true),
        ("shop.example", "shop.example.org", false),
        ("*.example", "A.EXAMPLE:80", true),
        ("shop.*", "SHOP.example", true),
        ("*", "", false),
        ("[::1]", "[::1]:80", true),
    ] {
        let allowed = authorize(&deny(pattern), &c, Some(&get(host, "/"))).allowed;
        assert_eq!(allowed, !hit, "{pattern} {host}");
    }
}

/// Whether a policy of one header condition lets lines of that header through.
fn passes(action: Action, values: &[&str], not_values: &[&str], lines: &[&str]) -> bool {
    let patterns = |list: &[&str]| list.iter().map(|p| StringMatch::from_pattern(p)).collect();
    let m = PolicyMatch {
        headers: vec![mesh_model::HeaderCondition {
            name: "x-role".into(),
            values: patterns(values),
            not_values: patterns(not_values),
        }],
        ..PolicyMatch::default()
    };
    let header = |_: &str| lines.iter().map(|line| (*line).to_owned()).collect();
    let request = Request {
        header: &header,
        ..get("shop", "/")
    };
    let set = set(vec![policy("roles", action, one(m))]);
    authorize(&set, &connection(None), Some(&request)).allowed
}

#[test]
fn a_repeated_header_cannot_dodge_a_deny() {
    let admin = |lines: &[&str]| passes(Action::Deny, &["admin"], &[], lines);
    assert!(admin(&[]) && admin(&["user"]) && admin(&["user", "guest"]));
    assert!(admin(&["administrator"]), "another word");
    for lines in [
        &["admin"][..],
        &["user", "admin"],
        &["admin", "user"],
        &["user, admin"],
        &["admin,"],
    ] {
        assert!(!admin(lines), "{lines:?}");
    }
    // As it was joined: a pattern that spans the comma still holds.
    assert!(!passes(Action::Deny, &["a,b"], &[], &["a", "b"]));
    // DENY whoever is not a user: each line must be one.
    let not_user = |lines: &[&str]| passes(Action::Deny, &[], &["user*"], lines);
    assert!(not_user(&["user"]) && not_user(&["user", "user2"]));
    assert!(!not_user(&["user", "admin"]) && !not_user(&[]));
}

#[test]
fn an_allow_wants_every_line_of_a_repeated_header() {
    let gold = |lines: &[&str]| passes(Action::Allow, &["go*"], &[], lines);
    assert!(gold(&["gold"]) && gold(&["gold", "good"]) && gold(&["gold, silver"]));
    for lines in [
        &[][..],
        &["silver"],
        &["gold", "silver"],
        &["silver", "gold"],
    ] {
        assert!(!gold(lines), "{lines:?}");
    }
    let exact = |lines: &[&str]| passes(Action::Allow, &["gold"], &[], lines);
    assert!(
        exact(&["gold"]) && !exact(&["gold", "gold"]),
        "joined it is another word"
    );
    let not_bad = |lines: &[&str]| passes(Action::Allow, &[], &["bad"], lines);
    assert!(not_bad(&[]) && not_bad(&["good"]) && !not_bad(&["good", "bad"]));
}

#[test]
fn ranges_ports_and_headers_are_compared() {
    let m = PolicyMatch {
        source_ips: vec!["10.0.0.0/24".parse().unwrap()],
        not_destination_ports: vec![9090],
        headers: vec![mesh_model::HeaderCondition {
            name: "x-tier".into(),
            values: vec![StringMatch::from_pattern("go*")],
            not_values: vec![StringMatch::from_pattern("*s")],
        }],
        ..PolicyMatch::default()
    };
    let s = set(vec![policy("gold", Action::Allow, one(m))]);
    let mut c = connection(None);
    let request = get("shop", "/");
    assert!(authorize(&s, &c, Some(&request)).allowed);
    c.source_ip = IpAddr::from([10, 0, 1, 1]);
    assert!(!authorize(&s, &c, Some(&request)).allowed);
    c = connection(None);
    c.destination.set_port(9090);
    assert!(!authorize(&s, &c, Some(&request)).allowed);
}
