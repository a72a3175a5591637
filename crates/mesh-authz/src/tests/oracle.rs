//! `authorize` against a second evaluation, written from the text of interop/authz.md and not from the
//! code: facts become texts first, and nothing is cut short.

use super::*;
use mesh_model::{Cidr, HeaderCondition, ServiceAccountMatch};
use proptest::collection::vec;
use proptest::prelude::*;

/// The facts of one case, owned.
#[derive(Debug, Clone)]
struct Case {
    identity: Option<SpiffeId>,
    source: [u8; 4],
    destination: ([u8; 4], u16),
    request: Option<(String, String, String, Option<String>)>,
}

fn glob(m: &StringMatch, text: &str) -> bool {
    match m {
        StringMatch::Exact(t) => t.to_string() == text,
        StringMatch::Prefix(t) => text.find(&**t) == Some(0),
        StringMatch::Suffix(t) => text
            .rfind(&**t)
            .is_some_and(|at| at + t.len() == text.len()),
        StringMatch::Presence => !text.is_empty(),
    }
}

/// One field: how many conditions are set, and whether they hold.
fn verdict(
    positive: impl IntoIterator<Item = bool>,
    negative: impl IntoIterator<Item = bool>,
) -> (usize, bool) {
    let (positive, negative): (Vec<bool>, Vec<bool>) = (
        positive.into_iter().collect(),
        negative.into_iter().collect(),
    );
    let set = positive.len() + negative.len();
    let good = positive.is_empty() || positive.contains(&true);
    (set, good && !negative.contains(&true))
}

fn texts(pos: &[StringMatch], neg: &[StringMatch], facts: &[String]) -> (usize, bool) {
    let hit = |m: &StringMatch| facts.iter().any(|f| glob(m, f));
    verdict(pos.iter().map(hit), neg.iter().map(hit))
}

fn in_range(cidr: &Cidr, ip: [u8; 4]) -> bool {
    let bits = |b: [u8; 4]| b.iter().map(|n| format!("{n:08b}")).collect::<String>();
    let IpAddr::V4(net) = cidr.address() else {
        return false;
    };
    let n = usize::from(cidr.prefix_length());
    bits(net.octets()).get(..n) == bits(ip).get(..n)
}

fn ranges(pos: &[Cidr], neg: &[Cidr], ip: [u8; 4]) -> (usize, bool) {
    let hit = |c: &Cidr| in_range(c, ip);
    verdict(pos.iter().map(hit), neg.iter().map(hit))
}

fn accounts(m: &PolicyMatch, id: Option<&SpiffeId>) -> (usize, bool) {
    let mine = id.map(|i| format!("{}/{}", i.namespace(), i.service_account()));
    let hit = |a: &ServiceAccountMatch| mine == Some(format!("{}/{}", a.namespace, a.name));
    verdict(
        m.service_accounts.iter().map(hit),
        m.not_service_accounts.iter().map(hit),
    )
}

fn match_holds(m: &PolicyMatch, case: &Case, action: Action) -> bool {
    let id = case.identity.as_ref();
    let principals: Vec<String> = id
        .iter()
        .map(|i| i.to_string().replace("spiffe://", ""))
        .collect();
    let namespace = vec![id.map(|i| i.namespace().to_owned()).unwrap_or_default()];
    let port = |p: &u16| *p == case.destination.1;
    let l4 = [
        texts(&m.namespaces, &m.not_namespaces, &namespace),
        texts(&m.principals, &m.not_principals, &principals),
        accounts(m, id),
        ranges(&m.source_ips, &m.not_source_ips, case.source),
        ranges(
            &m.destination_ips,
            &m.not_destination_ips,
            case.destination.0,
        ),
        verdict(
            m.destination_ports.iter().map(port),
            m.not_destination_ports.iter().map(port),
        ),
    ];
    let (host, method, path, header) = case.request.clone().unwrap_or_default();
    let header: Vec<String> = header.into_iter().collect();
    let mut http = vec![
        texts(&m.hosts, &m.not_hosts, &[host]),
        texts(&m.methods, &m.not_methods, &[method]),
        texts(&m.paths, &m.not_paths, &[path]),
    ];
    for h in &m.headers {
        // One line without a comma has one reading; the others have examples of their own.
        let (_, good) = texts(&h.values, &h.not_values, &header);
        http.push((1, good));
    }
    let http_set: usize = http.iter().map(|(set, _)| set).sum();
    let any_set = http_set + l4.iter().map(|(set, _)| set).sum::<usize>() > 0;
    let http_good = match (&case.request, action) {
        (Some(_), _) => http.iter().all(|(_, good)| *good),
        (None, Action::Allow) => http_set == 0,
        (None, Action::Deny) => true,
    };
    any_set && l4.iter().all(|(_, good)| *good) && http_good
}

fn policy_matches(p: &AuthorizationPolicy, case: &Case) -> bool {
    let mut hit = false;
    for rule in &p.rules {
        let mut all = true;
        for clause in &rule.clauses {
            let mut any = clause.matches.is_empty();
            for m in &clause.matches {
                any |= match_holds(m, case, p.action);
            }
            all &= any;
        }
        hit |= all;
    }
    hit
}

fn oracle(set: &PolicySet, case: &Case) -> Reason {
    let strict = set.compatibility == PolicyCompatibility::Strict;
    let live = || set.policies.iter().filter(|p| !p.dry_run);
    let readable =
        |action| live().filter(move |p| p.action == action && (p.invalid.is_none() || !strict));
    if readable(Action::Deny).any(|p| policy_matches(p, case)) {
        return Reason::PolicyDenied;
    }
    if strict && (!set.missing.is_empty() || live().any(|p| p.invalid.is_some())) {
        return Reason::PolicyUnavailable;
    }
    if readable(Action::Allow).count() == 0
        || readable(Action::Allow).any(|p| policy_matches(p, case))
    {
        return Reason::Ok;
    }
    Reason::PolicyDenied
}

/// What each dry-run policy would do by itself beside the enforced ones and its like.
fn oracle_dry_run(set: &PolicySet, case: &Case) -> Vec<ObjectName> {
    let strict = set.compatibility == PolicyCompatibility::Strict;
    let broken = |p: &AuthorizationPolicy| strict && p.invalid.is_some();
    let mut some_allow = false;
    for p in &set.policies {
        some_allow |= p.action == Action::Allow && !broken(p) && policy_matches(p, case);
    }
    let mut names = Vec::new();
    for p in &set.policies {
        let denies = broken(p)
            || (p.action == Action::Deny && policy_matches(p, case))
            || (p.action == Action::Allow && !some_allow);
        if p.dry_run && denies {
            names.push(p.name.clone());
        }
    }
    names
}

/// The causes by which enforced policies are not evaluated as written.
fn oracle_gaps(set: &PolicySet, case: &Case) -> Vec<GapCause> {
    let mut causes = vec![GapCause::Missing; set.missing.len()];
    for p in set.policies.iter().filter(|p| !p.dry_run) {
        let noop = p.action == Action::Deny && p.http_dropped && !policy_matches(p, case);
        if p.invalid.is_some() {
            causes.push(GapCause::Unreadable);
        } else if noop {
            causes.push(GapCause::HttpDropped);
        }
    }
    causes
}

fn word() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        "[ab]{1,2}".prop_map(|t| StringMatch::Exact(t.into())),
        "[ab]{0,1}".prop_map(|t| StringMatch::Prefix(t.into())),
        "[ab]{0,1}".prop_map(|t| StringMatch::Suffix(t.into())),
        Just(StringMatch::Presence),
    ]
}

fn words() -> impl Strategy<Value = Vec<StringMatch>> {
    prop_oneof![3 => Just(Vec::new()), 2 => vec(word(), 1..3)]
}

fn cidrs() -> impl Strategy<Value = Vec<Cidr>> {
    let cidr = (0..4u8, 28..=32u8)
        .prop_map(|(n, length)| Cidr::new(IpAddr::from([10, 0, 0, n]), length).unwrap());
    prop_oneof![3 => Just(Vec::new()), 1 => vec(cidr, 1..3)]
}

fn ports() -> impl Strategy<Value = Vec<u16>> {
    prop_oneof![3 => Just(Vec::new()), 1 => vec(1..4u16, 1..3)]
}

fn account_matches() -> impl Strategy<Value = Vec<ServiceAccountMatch>> {
    let account = ("[ab]", "[ab]").prop_map(|(namespace, name)| ServiceAccountMatch {
        namespace: namespace.into(),
        name: name.into(),
    });
    prop_oneof![3 => Just(Vec::new()), 1 => vec(account, 1..3)]
}

fn header_conditions() -> impl Strategy<Value = Vec<HeaderCondition>> {
    let condition = (words(), words()).prop_map(|(values, not_values)| HeaderCondition {
        name: "h".into(),
        values,
        not_values,
    });
    prop_oneof![3 => Just(Vec::new()), 1 => vec(condition, 1..3)]
}

prop_compose! {
    fn l4()(
        (namespaces, not_namespaces) in (words(), words()),
        (principals, not_principals) in (words(), words()),
        (service_accounts, not_service_accounts) in (account_matches(), account_matches()),
        (source_ips, not_source_ips) in (cidrs(), cidrs()),
        (destination_ips, not_destination_ips) in (cidrs(), cidrs()),
        (destination_ports, not_destination_ports) in (ports(), ports()),
    ) -> PolicyMatch {
        PolicyMatch {
            namespaces, not_namespaces, principals, not_principals, service_accounts,
            not_service_accounts, source_ips, not_source_ips, destination_ips,
            not_destination_ips, destination_ports, not_destination_ports,
            ..PolicyMatch::default()
        }
    }
}

prop_compose! {
    fn http()(
        (hosts, not_hosts) in (words(), words()),
        (methods, not_methods) in (words(), words()),
        (paths, not_paths) in (words(), words()),
        headers in header_conditions(),
    ) -> PolicyMatch {
        PolicyMatch {
            hosts, not_hosts, methods, not_methods, paths, not_paths, headers,
            ..PolicyMatch::default()
        }
    }
}

fn any_match() -> impl Strategy<Value = PolicyMatch> {
    let both = (l4(), http()).prop_map(|(a, b)| PolicyMatch {
        hosts: b.hosts,
        not_hosts: b.not_hosts,
        methods: b.methods,
        not_methods: b.not_methods,
        paths: b.paths,
        not_paths: b.not_paths,
        headers: b.headers,
        ..a
    });
    // One field at a time as well, or hardly anything would ever match.
    let narrow = (words(), words()).prop_map(|(methods, principals)| PolicyMatch {
        methods,
        principals,
        ..PolicyMatch::default()
    });
    prop_oneof![l4(), http(), both, narrow, Just(PolicyMatch::default())]
}

fn any_policy() -> impl Strategy<Value = AuthorizationPolicy> {
    let clause = vec(any_match(), 0..3).prop_map(|matches| PolicyClause { matches });
    let rule = vec(clause, 0..3).prop_map(|clauses| PolicyRule { clauses });
    let parts = (vec(rule, 0..3), any::<bool>(), 0..8u8, 0..8u8, 0..8u8);
    parts.prop_map(
        |(rules, allow, dry_run, invalid, dropped)| AuthorizationPolicy {
            dry_run: dry_run == 0,
            http_dropped: dropped == 0,
            invalid: (invalid == 0).then(|| "unreadable".into()),
            ..policy("p", if allow { Action::Allow } else { Action::Deny }, rules)
        },
    )
}

fn any_case() -> impl Strategy<Value = Case> {
    let identity =
        ("[ab]", "[ab]", "[ab]").prop_map(|(t, n, s)| SpiffeId::new(&t, &n, &s).unwrap());
    let request = (
        "[ab]{1,2}",
        "[ab]{1,2}",
        "[ab]{0,2}",
        proptest::option::of("[ab]{0,2}"),
    );
    (
        proptest::option::of(identity),
        0..4u8,
        (0..4u8, 1..4u16),
        proptest::option::of(request),
    )
        .prop_map(|(identity, source, (ip, port), request)| Case {
            identity,
            source: [10, 0, 0, source],
            destination: ([10, 0, 0, ip], port),
            request,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn authorize_agrees_with_the_oracle(
        policies in vec(any_policy(), 0..4),
        missing in 0..10u8,
        istio in any::<bool>(),
        case in any_case(),
    ) {
        let mut policies = set(policies);
        if istio {
            policies.compatibility = PolicyCompatibility::Istio;
        }
        if missing == 0 {
            policies.missing.push(ObjectName::new("demo", "gone"));
        }
        let header = |_: &str| {
            let value = case.request.as_ref().and_then(|r| r.3.clone());
            value.into_iter().collect::<Vec<_>>()
        };
        let request = case.request.as_ref().map(|r| Request {
            host: &r.0, method: &r.1, path: &r.2, header: &header,
        });
        let connection = Connection {
            identity: case.identity.as_ref(),
            source_ip: IpAddr::from(case.source),
            destination: SocketAddr::from(case.destination),
        };
        let decision = authorize(&policies, &connection, request.as_ref());
        prop_assert_eq!(decision.reason, oracle(&policies, &case));
        prop_assert_eq!(decision.allowed, decision.reason == Reason::Ok);
        prop_assert_eq!(&decision.dry_run, &oracle_dry_run(&policies, &case));
        let causes: Vec<GapCause> = decision.gaps.iter().map(|g| g.cause).collect();
        prop_assert_eq!(causes, oracle_gaps(&policies, &case));

        // Dry-run policies change nothing.
        policies.policies.retain(|p| !p.dry_run);
        let without = authorize(&policies, &connection, request.as_ref());
        prop_assert_eq!(without.reason, decision.reason);
        prop_assert_eq!((without.policy, without.rule), (decision.policy, decision.rule));
        prop_assert!(without.dry_run.is_empty());
    }
}
