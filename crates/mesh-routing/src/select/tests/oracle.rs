//! `select` against a linear scan that writes the precedence of the specification out as one sortable
//! line a match, and knows nothing of the code.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select as one_of;

/// A sort key: the smallest wins.
type Line = (
    [i64; 7], // negated: precise host, host length, path class, path length, method, headers, query
    i64,      // age
    String,   // namespace/name
    u16,      // rule
    usize,    // match
);

fn lowered(hosts: &[Host], listener: Option<&Host>, asked: &str) -> Option<(i64, i64)> {
    let texts: Vec<String> = match (hosts, listener) {
        ([], None) => return Some((0, 0)),
        ([], Some(l)) => vec![l.to_string()],
        (hosts, None) => hosts.iter().map(ToString::to_string).collect(),
        (hosts, Some(l)) => {
            let l = l.to_string();
            hosts
                .iter()
                .map(ToString::to_string)
                // What both take of `asked` is what the narrower takes, and the narrower is the longer.
                .filter(|h| takes(&l, asked) && takes(h, asked))
                .map(|h| match (h.starts_with('*'), l.starts_with('*')) {
                    (true, true) => [h, l.clone()].into_iter().max_by_key(String::len).unwrap(),
                    (true, false) => l.clone(),
                    (false, _) => h,
                })
                .collect()
        }
    };
    texts
        .into_iter()
        .filter(|t| takes(t, asked))
        .map(|t| {
            (
                i64::from(!t.starts_with('*')),
                i64::try_from(t.len()).unwrap(),
            )
        })
        .max()
}

fn takes(pattern: &str, asked: &str) -> bool {
    let (mut p, mut a): (Vec<_>, Vec<_>) =
        (pattern.split('.').collect(), asked.split('.').collect());
    if p[0] != "*" {
        return p == a;
    }
    p.remove(0);
    a.len() > p.len() && a.split_off(a.len() - p.len()) == p
}

fn elements(path: &str) -> Vec<&str> {
    path.split('/').collect()
}

fn path_line(condition: Option<&PathMatch>, asked: &str) -> Option<(i64, i64)> {
    match condition {
        None => Some((0, 0)),
        Some(PathMatch::Exact(t)) => (&**t == asked).then_some((3, 0)),
        Some(PathMatch::Regex(r)) => r.matches(asked).then_some((1, 0)),
        Some(PathMatch::Prefix(t)) => {
            let mut want = elements(t);
            if want.last() == Some(&"") {
                want.pop();
            }
            let length = want.join("/").len();
            let hit = elements(asked).starts_with(&want);
            let class = if length == 0 { 0 } else { 2 };
            hit.then(|| (class, i64::try_from(length).unwrap()))
        }
    }
}

fn scan(
    rules: &[Arc<HttpRouteRule>],
    listener: &GatewayListener,
    asked: &HttpFacts<'_>,
) -> Option<(String, usize)> {
    let mut lines: Vec<Line> = Vec::new();
    let everything = vec![HttpMatch::default()];
    for rule in rules {
        let parent = |p: &ParentRef| match p {
            ParentRef::Gateway { section, port, .. } => {
                section.as_deref().unwrap_or("http") == "http" && port.unwrap_or(80) == 80
            }
            ParentRef::Service { .. } => false,
        };
        let host = lowered(&rule.hostnames, listener.hostname.as_ref(), asked.host);
        let (true, Some(host)) = (rule.parents.iter().any(parent), host) else {
            continue;
        };
        let matches = if rule.matches.is_empty() {
            &everything
        } else {
            &rule.matches
        };
        for (n, m) in matches.iter().enumerate() {
            let header =
                |h: &ValueMatch| (asked.headers)(&h.name).is_some_and(|v| h.value.matches(&v));
            let query = |q: &ValueMatch| {
                let pairs = asked.query.unwrap_or_default();
                let first = pairs
                    .split('&')
                    .find_map(|p| p.strip_prefix(&format!("{}=", q.name)));
                first.is_some_and(|v| q.value.matches(v))
            };
            let all = m.method.iter().all(|w| &**w == asked.method)
                && m.headers.iter().all(header)
                && m.query.iter().all(query);
            let Some(p) = path_line(m.path.as_ref(), asked.path).filter(|_| all) else {
                continue;
            };
            let count = |n: usize| i64::try_from(n).unwrap();
            let method = i64::from(m.method.is_some());
            let key = [
                host.0,
                host.1,
                p.0,
                p.1,
                method,
                count(m.headers.len()),
                count(m.query.len()),
            ];
            lines.push((
                key.map(|k| -k),
                rule.created_unix_s,
                rule.name.route.to_string(),
                rule.name.rule,
                n,
            ));
        }
    }
    lines.sort();
    lines.first().map(|l| (format!("{}/{}", l.2, l.3), l.4))
}

fn host() -> impl Strategy<Value = String> {
    one_of(vec![
        "a.x", "b.a.x", "c.b.a.x", "x", "a.y", "*.x", "*.a.x", "*.b.a.x", "*.y",
    ])
    .prop_map(str::to_owned)
}

fn path_match() -> impl Strategy<Value = Option<PathMatch>> {
    let text = || one_of(vec!["/", "/a", "/a/", "/a/b", "/ab", "/b"]);
    let regex = one_of(vec!["/a.*", "/.*b", "/[ab]"]);
    prop_oneof![
        Just(None),
        text().prop_map(|t| Some(PathMatch::Exact(t.into()))),
        text().prop_map(|t| Some(PathMatch::Prefix(t.into()))),
        regex.prop_map(|t| Some(PathMatch::Regex(Regex::new(t).unwrap()))),
    ]
}

fn values() -> impl Strategy<Value = Vec<ValueMatch>> {
    vec(one_of(vec!["a", "b"]).prop_map(|n| value(n, "1")), 0..3)
}

fn http_match() -> impl Strategy<Value = HttpMatch> {
    let method = proptest::option::of(one_of(vec!["GET", "POST"]));
    (path_match(), values(), values(), method).prop_map(|(path, headers, query, method)| {
        HttpMatch {
            path,
            headers,
            query,
            method: method.map(Into::into),
        }
    })
}

fn rules() -> impl Strategy<Value = Vec<Arc<HttpRouteRule>>> {
    let parent = (
        proptest::option::of(one_of(vec!["http", "https"])),
        proptest::option::of(one_of(vec![80u16, 443])),
    )
        .prop_map(|(section, port)| ParentRef::Gateway {
            name: gateway(),
            section: section.map(Into::into),
            port,
        });
    let one = (
        one_of(vec!["r", "s", "t-u", "t"]),
        0..3u16,
        0..2i64,
        vec(host(), 0..3),
        vec(http_match(), 0..3),
        vec(parent, 1..3),
    )
        .prop_map(|(route, index, created_unix_s, hosts, matches, parents)| {
            Arc::new(HttpRouteRule {
                created_unix_s,
                hostnames: hosts.iter().map(|h| h.parse().unwrap()).collect(),
                matches,
                parents,
                ..rule(route, index)
            })
        });
    // The name of a rule is unique in a snapshot.
    vec(one, 0..8).prop_map(|mut rules: Vec<Arc<HttpRouteRule>>| {
        rules.sort_by(|a, b| a.name.cmp(&b.name));
        rules.dedup_by(|a, b| a.name == b.name);
        rules
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn select_agrees_with_a_linear_scan(
        rules in rules().prop_shuffle(),
        at_host in proptest::option::of(host()),
        asked_host in host().prop_filter("precise", |h| !h.starts_with('*')),
        path in one_of(vec!["/", "/a", "/a/", "/a/b", "/ab", "/b/a"]),
        query in one_of(vec!["", "a=1", "a=2&a=1", "a=1&b=1"]),
        present in one_of(vec!["", "a", "ab"]),
    ) {
        let listener = listener(at_host.as_deref());
        let headers = |name: &str| present.contains(name).then(|| "1".to_owned());
        let facts = HttpFacts {
            host: &asked_host, path, query: Some(query), method: "GET", headers: &headers,
        };
        let got = select(&rules, &Attachment::Listener(&listener), &facts)
            .map(|m| (m.rule.name.to_string(), m.matched.unwrap_or(0)));
        prop_assert_eq!(got, scan(&rules, &listener, &facts));
    }
}
