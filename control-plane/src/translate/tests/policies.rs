//! AuthorizationPolicy and PeerAuthentication.

use super::*;
use mesh_model::{Action, PolicyScope, StringMatch};

fn authorization(name: &str, spec: &str) -> String {
    format!(
        "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: demo}}
spec: {spec}
"
    )
}

fn peer(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"
    )
}

#[test]
fn scopes() {
    let made = translated(&[
        &authorization("wide", "{rules: [{}]}"),
        &authorization("root", "{rules: [{}]}")
            .replace("namespace: demo", "namespace: istio-system"),
        &authorization("some", "{selector: {matchLabels: {app: a}}, rules: [{}]}"),
        &authorization(
            "everywhere",
            "{selector: {matchLabels: {app: a}}, rules: [{}]}",
        )
        .replace("namespace: demo", "namespace: istio-system"),
        &authorization(
            "target",
            "{targetRefs: [{kind: Service, group: \"\", name: shop}], rules: [{}]}",
        ),
        &pod("a", "10.0.0.1", "{app: a}", "{}"),
        &pod("b", "10.0.0.2", "{app: b}", "{}"),
    ]);
    let scope = |name: &str| made.policy(name).unwrap().scope;
    assert_eq!(scope("demo/wide"), PolicyScope::Namespace);
    assert_eq!(scope("istio-system/root"), PolicyScope::Global);
    assert_eq!(scope("demo/some"), PolicyScope::WorkloadSelector);
    assert!(
        made.policy("demo/target").is_none(),
        "L4 proxies are not told of targets"
    );
    let target = made.http_policy("demo/target").unwrap();
    assert_eq!(target.scope, PolicyScope::Targets);
    assert_eq!(&*target.targets[0].name, "shop.demo.svc.cluster.local");
    let listed = &made.pod("demo/a").authorization_policies;
    assert_eq!(
        listed,
        &[name("demo/some"), name("istio-system/everywhere")]
    );
    assert!(made.pod("demo/b").authorization_policies.is_empty());
    for policy in listed {
        assert!(
            made.http_policy(&policy.to_string()).is_some(),
            "listed, so it must be in both forms"
        );
    }
}

#[test]
fn no_rule_one_empty_rule_and_actions() {
    let made = translated(&[
        &authorization("nothing", "{}"),
        &authorization("all", "{rules: [{}], action: DENY}"),
        &authorization(
            "custom",
            "{rules: [{}], action: CUSTOM, provider: {name: x}}",
        ),
        &authorization("audit", "{rules: [{}], action: AUDIT}"),
    ]);
    let nothing = made.policy("demo/nothing").unwrap();
    assert!(nothing.rules.is_empty() && nothing.action == Action::Allow);
    let all = made.policy("demo/all").unwrap();
    assert!(all.rules[0].clauses.is_empty() && all.action == Action::Deny);
    for name in ["custom", "audit"] {
        assert!(made.policy(&format!("demo/{name}")).is_none());
        assert_eq!(
            made.reason(&format!("AuthorizationPolicy demo/{name}"), "Accepted"),
            "UnsupportedValue"
        );
    }
}

#[test]
fn from_to_and_when_become_clauses() {
    let made = translated(&[&authorization(
        "p",
        "
  rules:
  - from:
    - source: {principals: [cluster.local/ns/demo/sa/a, \"*/sa/b\"], notNamespaces: [bad]}
    - source: {serviceAccounts: [c, other/d], ipBlocks: [10.0.0.0/8, 192.0.2.1]}
    to:
    - operation: {ports: [\"80\"]}
    - operation: {notPorts: [\"9090\"]}
    when:
    - {key: source.ip, notValues: [10.1.0.0/16]}
    - {key: destination.port, values: [\"80\"]}
",
    )]);
    let rule = &made.policy("demo/p").unwrap().rules[0];
    assert_eq!(rule.clauses.len(), 4);
    let from = &rule.clauses[0].matches;
    assert_eq!(from[0].principals[1], StringMatch::Suffix("/sa/b".into()));
    assert_eq!(from[0].not_namespaces.len(), 1);
    let accounts: Vec<_> = from[1]
        .service_accounts
        .iter()
        .map(|a| format!("{}/{}", a.namespace, a.name))
        .collect();
    assert_eq!(accounts, ["demo/c", "other/d"]);
    assert_eq!(from[1].source_ips[1].to_string(), "192.0.2.1/32");
    assert_eq!(rule.clauses[1].matches[1].not_destination_ports, [9090]);
    assert_eq!(rule.clauses[2].matches[0].not_source_ips.len(), 1);
    assert_eq!(rule.clauses[3].matches[0].destination_ports, [80]);
}

#[test]
fn http_conditions_at_l4_allow_less_and_deny_more() {
    let rules = "rules: [{to: [{operation: {methods: [GET], ports: [\"80\"]}}]}, {from: [{source: {namespaces: [x]}}]}]";
    let made = translated(&[
        &authorization("allow", &format!("{{{rules}}}")),
        &authorization("deny", &format!("{{action: DENY, {rules}}}")),
    ]);
    let allow = made.policy("demo/allow").unwrap();
    assert_eq!(allow.rules.len(), 1, "the rule that needs HTTP is left out");
    assert_eq!(made.http_policy("demo/allow").unwrap().rules.len(), 2);
    let deny = made.policy("demo/deny").unwrap();
    let m = &deny.rules[0].clauses[0].matches[0];
    assert!(m.methods.is_empty() && m.destination_ports == [80]);
    assert_eq!(
        made.http_policy("demo/deny").unwrap().rules[0].clauses[0].matches[0]
            .methods
            .len(),
        1
    );
    assert_eq!(
        made.reason("AuthorizationPolicy demo/allow", "Enforced"),
        "UnsupportedValue"
    );
    // An ALLOW of which nothing is left allows nothing.
    let made = translated(&[&authorization(
        "get",
        "{rules: [{to: [{operation: {methods: [GET]}}]}]}",
    )]);
    assert!(made.policy("demo/get").unwrap().rules.is_empty());
}

#[test]
fn headers_hosts_and_paths() {
    let made = translated(&[&authorization(
        "p",
        "
  rules:
  - to: [{operation: {hosts: [\"*.Example.com\"], paths: [/api/*], notMethods: [DELETE]}}]
    when: [{key: \"request.headers[X-Team]\", values: [a, \"b*\"]}]
",
    )]);
    let rule = &made.http_policy("demo/p").unwrap().rules[0];
    let to = &rule.clauses[0].matches[0];
    assert_eq!(to.hosts[0], StringMatch::Suffix(".example.com".into()));
    assert_eq!(to.paths[0], StringMatch::Prefix("/api/".into()));
    let header = &rule.clauses[1].matches[0].headers[0];
    assert_eq!((&*header.name, header.values.len()), ("x-team", 2));
}

#[test]
fn conditions_nobody_can_check_make_allow_void_and_deny_wider() {
    let rules = "rules: [{from: [{source: {requestPrincipals: [\"*\"], namespaces: [x]}}], when: [{key: connection.sni, values: [a]}]}]";
    let made = translated(&[
        &authorization("allow", &format!("{{{rules}}}")),
        &authorization("deny", &format!("{{action: DENY, {rules}}}")),
    ]);
    assert!(made.http_policy("demo/allow").unwrap().rules.is_empty());
    assert!(made.policy("demo/allow").unwrap().rules.is_empty());
    let deny = &made.http_policy("demo/deny").unwrap().rules[0];
    assert_eq!(deny.clauses.len(), 1, "the SNI condition is passed over");
    assert_eq!(deny.clauses[0].matches[0].namespaces.len(), 1);
    assert_eq!(
        made.conditions("AuthorizationPolicy demo/deny", "Enforced")
            .len(),
        2
    );
}

#[test]
fn a_condition_that_can_never_match_does_not_make_a_deny_void() {
    for (rule, what) in [
        ("{to: [{operation: {paths: [/ok, \"/a/{*}/b\"]}}]}", "paths"),
        ("{to: [{operation: {notPaths: [\"/a/{**}\"]}}]}", "notPaths"),
        (
            "{when: [{key: \"request.headers[:scheme]\", values: [http]}]}",
            ":scheme",
        ),
        (
            "{when: [{key: \"request.headers[x y]\", values: [a]}]}",
            "x y",
        ),
    ] {
        let made = translated(&[
            &authorization("allow", &format!("{{rules: [{rule}]}}")),
            &authorization("deny", &format!("{{action: DENY, rules: [{rule}]}}")),
        ]);
        assert!(made.http_policy("demo/allow").unwrap().rules.is_empty());
        let deny = &made.http_policy("demo/deny").unwrap().rules;
        assert!(deny[0].clauses.is_empty(), "{rule}: it denies without it");
        let told = made.conditions("AuthorizationPolicy demo/deny", "Enforced");
        assert!(told[0].message.contains(what), "{told:?}");
    }
}

#[test]
fn the_authority_may_be_named_as_a_header_and_has_no_case() {
    for header in ["Host", ":authority"] {
        let when = format!(
            "{{rules: [{{when: [{{key: \"request.headers[{header}]\", values: [Shop.Example]}}]}}]}}"
        );
        let made = translated(&[&authorization("p", &when)]);
        let rule = &made.http_policy("demo/p").unwrap().rules[0];
        let condition = &rule.clauses[0].matches[0].headers[0];
        assert_eq!(*condition.name, *header.to_ascii_lowercase());
        let value = StringMatch::Exact("shop.example".into());
        assert_eq!(condition.values, [value]);
    }
}

#[test]
fn a_policy_that_cannot_be_read_denies_where_it_would_have_applied() {
    for (spec, word) in [
        (
            "{selector: {matchLabels: {app: a}}, rules: [{from: [{source: {ipBlocks: [10.0.0.0/99]}}]}]}",
            "ipBlocks",
        ),
        (
            "{selector: {matchLabels: {app: a}}, rules: [{from: [{source: {}}]}]}",
            "from.source",
        ),
        (
            "{selector: {matchLabels: {app: a}}, rules: [{to: [{operation: {ports: [http]}}]}]}",
            "ports",
        ),
        (
            "{selector: {matchLabels: {app: a}}, rules: [{when: [{key: source.ip}]}]}",
            "when",
        ),
    ] {
        let made = translated(&[
            &authorization("p", spec),
            &pod("a", "10.0.0.1", "{app: a}", "{}"),
        ]);
        let policy = made.policy("demo/p").unwrap();
        assert_eq!(policy.action, Action::Deny, "{spec}");
        assert!(
            policy.invalid.as_deref().unwrap().contains(word),
            "{policy:?}"
        );
        assert_eq!(policy.scope, PolicyScope::WorkloadSelector);
        assert_eq!(made.pod("demo/a").authorization_policies, [name("demo/p")]);
        assert_eq!(
            made.reason("AuthorizationPolicy demo/p", "Accepted"),
            "Invalid"
        );
    }
    let both =
        "{selector: {matchLabels: {app: a}}, targetRefs: [{kind: Service, name: s}], rules: [{}]}";
    let made = translated(&[&authorization("p", both)]);
    let policy = made.policy("demo/p").unwrap();
    assert_eq!(policy.scope, PolicyScope::WorkloadSelector);
    assert_eq!(policy.action, Action::Deny);
}

#[test]
fn targets_of_each_kind() {
    let spec = |kind: &str, group: &str, target: &str| {
        format!(
            "{{targetRefs: [{{kind: {kind}, group: \"{group}\", name: {target}}}], rules: [{{}}]}}"
        )
    };
    let made = translated(&[
        &authorization(
            "gateway",
            &spec("Gateway", "gateway.networking.k8s.io", "edge"),
        ),
        &authorization(
            "class",
            &spec(
                "GatewayClass",
                "gateway.networking.k8s.io",
                "strata-waypoint",
            ),
        )
        .replace("namespace: demo", "namespace: istio-system"),
        &authorization(
            "class-here",
            &spec(
                "GatewayClass",
                "gateway.networking.k8s.io",
                "strata-waypoint",
            ),
        ),
        &authorization("odd", &spec("Pod", "", "x")),
    ]);
    let target = |name: &str| made.http_policy(name).unwrap().targets[0].clone();
    assert_eq!(&*target("demo/gateway").kind, "Gateway");
    assert_eq!(&*target("istio-system/class").namespace, "");
    for (bad, reason) in [("class-here", "RefNotPermitted"), ("odd", "InvalidKind")] {
        let object = format!("AuthorizationPolicy demo/{bad}");
        assert_eq!(made.reason(&object, "Attached"), reason);
        let policy = made.http_policy(&format!("demo/{bad}")).unwrap();
        assert!(policy.targets.is_empty() && policy.scope == PolicyScope::Targets);
    }
}

#[test]
fn dry_run() {
    let text = authorization("p", "{rules: [{}]}").replace(
        "namespace: demo",
        "namespace: demo, annotations: {istio.io/dry-run: \"true\"}",
    );
    assert!(translated(&[&text]).policy("demo/p").unwrap().dry_run);
}

const STRICT: &str = "istio-system/istio_converted_static_strict";

#[test]
fn strict_is_inherited_from_mesh_and_namespace() {
    let pods = [
        pod("a", "10.0.0.1", "{app: a}", "{}"),
        pod("b", "10.0.0.2", "{app: b}", "{}"),
    ];
    let of = |texts: &[&str], pod: &str| {
        let mut all: Vec<&str> = pods.iter().map(String::as_str).collect();
        all.extend(texts);
        let made = translated(&all);
        made.pod(pod)
            .authorization_policies
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let mesh_strict = peer("default", "istio-system", "{mtls: {mode: STRICT}}");
    assert_eq!(of(&[&mesh_strict], "demo/a"), [STRICT]);
    let permissive = peer("default", "demo", "{mtls: {mode: PERMISSIVE}}");
    assert!(of(&[&mesh_strict, &permissive], "demo/a").is_empty());
    let disabled = peer("default", "demo", "{mtls: {mode: DISABLE}}");
    assert!(of(&[&mesh_strict, &disabled], "demo/a").is_empty());
    let unset = peer("default", "demo", "{}");
    assert_eq!(of(&[&mesh_strict, &unset], "demo/a"), [STRICT]);
    let one = peer(
        "one",
        "demo",
        "{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}}",
    );
    assert_eq!(of(&[&permissive, &one], "demo/a"), [STRICT]);
    assert!(of(&[&permissive, &one], "demo/b").is_empty());
}

#[test]
fn the_static_policy_is_there_as_soon_as_there_is_any() {
    assert!(translated(&[]).policy(STRICT).is_none());
    let made = translated(&[&peer("p", "demo", "{mtls: {mode: PERMISSIVE}}")]);
    let policy = made.policy(STRICT).unwrap();
    assert_eq!(policy.action, Action::Deny);
    assert_eq!(policy.scope, PolicyScope::WorkloadSelector);
    assert_eq!(
        policy.rules[0].clauses[0].matches[0].not_principals,
        [StringMatch::Presence]
    );
    assert!(made.http_policy(STRICT).is_some());
}

#[test]
fn ports_that_differ_get_a_policy_of_their_own() {
    let a = pod("a", "10.0.0.1", "{app: a}", "{}");
    let converted = "demo/converted_peer_authentication_p";
    let strict = "{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}, portLevelMtls: {\"80\": {mode: PERMISSIVE}, 81: {mode: STRICT}}}";
    let made = translated(&[&a, &peer("p", "demo", strict)]);
    assert_eq!(made.pod("demo/a").authorization_policies, [name(converted)]);
    let rules = &made.policy(converted).unwrap().rules;
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0].clauses.len(), 2);
    assert_eq!(rules[0].clauses[1].matches[0].not_destination_ports, [80]);

    let permissive = "{selector: {matchLabels: {app: a}}, portLevelMtls: {80: {mode: STRICT}, 81: {mode: STRICT}}}";
    let made = translated(&[&a, &peer("p", "demo", permissive)]);
    let rules = &made.policy(converted).unwrap().rules;
    assert_eq!(rules.len(), 2);
    let m = &rules[0].clauses[0].matches[0];
    assert_eq!(
        (m.destination_ports.as_slice(), m.not_principals.len()),
        (&[80][..], 1)
    );
}

#[test]
fn a_selector_in_the_root_namespace_is_ignored_with_a_word() {
    let text = peer(
        "p",
        "istio-system",
        "{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}}",
    );
    let made = translated(&[&text, &pod("a", "10.0.0.1", "{app: a}", "{}")]);
    assert!(made.pod("demo/a").authorization_policies.is_empty());
    assert_eq!(
        made.reason("PeerAuthentication istio-system/p", "Accepted"),
        "Ignored"
    );
}
