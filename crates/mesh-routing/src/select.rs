//! Which rule takes a request: attachment, matching and precedence.

use crate::HttpFacts;
use mesh_model::{
    GatewayListener, Host, HttpMatch, HttpRouteRule, ParentRef, PathMatch, ServiceName,
    TcpRouteRule,
};
use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

/// Where the request came in.
#[derive(Debug, Clone, Copy)]
pub enum Attachment<'a> {
    /// At a listener of a Gateway.
    Listener(&'a GatewayListener),
    /// For a port of a service (east-west).
    ServicePort(&'a ServiceName, u16),
}

impl Attachment<'_> {
    /// Whether one of the parents is this place.
    fn holds(&self, parents: &[ParentRef]) -> bool {
        parents.iter().any(|parent| match (self, parent) {
            (
                Attachment::Listener(l),
                ParentRef::Gateway {
                    name,
                    section,
                    port,
                },
            ) => {
                *name == l.key.gateway
                    && section.as_ref().is_none_or(|s| *s == l.key.name)
                    && port.is_none_or(|p| p == l.port)
            }
            (Attachment::ServicePort(service, at), ParentRef::Service { name, port }) => {
                name == *service && port.is_none_or(|p| p == *at)
            }
            _ => false,
        })
    }
}

/// The rule that takes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteMatch {
    /// The rule.
    pub rule: Arc<HttpRouteRule>,
    /// Which of its matches; none when it has none and takes everything.
    pub matched: Option<usize>,
    /// The path prefix that matched, for a prefix to be replaced.
    pub prefix: Option<Arc<str>>,
}

/// Whether a rule hangs on this place.
pub fn attached_http(rule: &HttpRouteRule, at: &Attachment<'_>) -> bool {
    at.holds(&rule.parents)
}

/// Whether a rule hangs on this place.
pub fn attached_tcp(rule: &TcpRouteRule, at: &Attachment<'_>) -> bool {
    at.holds(&rule.parents)
}

/// The rule that takes the request, by the precedence of Gateway API v1: the most specific host; path
/// exact, then the longest prefix, then an expression, then every path; a method; most headers; most
/// query parameters; the oldest route; the first by `namespace/name`; the first rule; the first match.
///
/// The place of expressions is the implementation's to choose. They come before `/` (and no path at
/// all), else a rule for the rest would hide them.
pub fn select(
    rules: &[Arc<HttpRouteRule>],
    at: &Attachment<'_>,
    facts: &HttpFacts<'_>,
) -> Option<RouteMatch> {
    let mut best: Option<(Specificity, &Arc<HttpRouteRule>, Option<usize>)> = None;
    for rule in rules.iter().filter(|rule| attached_http(rule, at)) {
        let Some(host) = host_specificity(rule, at, facts.host) else {
            continue;
        };
        let Some((specific, matched)) = best_match(rule, host, facts) else {
            continue;
        };
        let beats = best.as_ref().is_none_or(|(held, other, _)| {
            specific
                .cmp(held)
                .then_with(|| age(other).cmp(&age(rule)))
                .then_with(|| by_name(other, rule))
                == Ordering::Greater
        });
        if beats {
            best = Some((specific, rule, matched));
        }
    }
    let (_, rule, matched) = best?;
    let prefix = matched
        .and_then(|n| rule.matches.get(n))
        .map_or_else(|| Some("/".into()), prefix_of);
    Some(RouteMatch {
        rule: rule.clone(),
        matched,
        prefix,
    })
}

/// Greater is more specific, field by field.
type Specificity = (HostSpecificity, PathSpecificity, bool, usize, usize);
/// Precise before wildcard, then the longer.
type HostSpecificity = (bool, usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum PathSpecificity {
    Every,
    Regex,
    Prefix(usize),
    Exact,
}

/// The most specific match of a rule that holds, the first of several alike.
fn best_match(
    rule: &HttpRouteRule,
    host: HostSpecificity,
    facts: &HttpFacts<'_>,
) -> Option<(Specificity, Option<usize>)> {
    if rule.matches.is_empty() {
        return Some(((host, PathSpecificity::Every, false, 0, 0), None));
    }
    let holding = rule
        .matches
        .iter()
        .enumerate()
        .filter(|(_, m)| holds(m, facts));
    holding
        .map(|(n, m)| (specificity(m, host), n))
        .max_by_key(|(specific, n)| (*specific, Reverse(*n)))
        .map(|(specific, n)| (specific, Some(n)))
}

fn specificity(m: &HttpMatch, host: HostSpecificity) -> Specificity {
    let path = match &m.path {
        None => PathSpecificity::Every,
        Some(PathMatch::Regex(_)) => PathSpecificity::Regex,
        Some(PathMatch::Exact(_)) => PathSpecificity::Exact,
        Some(PathMatch::Prefix(prefix)) => match prefix.trim_end_matches('/').len() {
            0 => PathSpecificity::Every,
            length => PathSpecificity::Prefix(length),
        },
    };
    (
        host,
        path,
        m.method.is_some(),
        m.headers.len(),
        m.query.len(),
    )
}

fn holds(m: &HttpMatch, facts: &HttpFacts<'_>) -> bool {
    m.path.as_ref().is_none_or(|p| path_holds(p, facts.path))
        && m.method
            .as_ref()
            .is_none_or(|method| **method == *facts.method)
        && m.headers.iter().all(|h| facts.header_matches(h))
        && m.query.iter().all(|q| facts.query_matches(q))
}

fn path_holds(condition: &PathMatch, path: &str) -> bool {
    match condition {
        PathMatch::Exact(text) => path == &**text,
        PathMatch::Regex(regex) => regex.matches(path),
        // Whole elements: what is left must be nothing, or start a new element.
        PathMatch::Prefix(prefix) => path
            .strip_prefix(prefix.trim_end_matches('/'))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    }
}

fn prefix_of(m: &HttpMatch) -> Option<Arc<str>> {
    match &m.path {
        None => Some("/".into()),
        Some(PathMatch::Prefix(prefix)) => Some(prefix.clone()),
        Some(PathMatch::Exact(_) | PathMatch::Regex(_)) => None,
    }
}

/// How specifically a rule's hosts, narrowed by the listener's, name the request's host; none when they
/// do not. A route without hosts has the listener's. Hosts mean nothing on a service.
fn host_specificity(
    rule: &HttpRouteRule,
    at: &Attachment<'_>,
    host: &str,
) -> Option<HostSpecificity> {
    let Attachment::Listener(listener) = at else {
        return Some((false, 0));
    };
    let specific = |h: &Host| (!h.is_wildcard(), h.as_str().len());
    let narrowed = |h: &Host| match &listener.hostname {
        Some(of_listener) => of_listener.intersect(h),
        None => Some(h.clone()),
    };
    if rule.hostnames.is_empty() {
        return match &listener.hostname {
            Some(h) => h.matches(host).then(|| specific(h)),
            None => Some((false, 0)),
        };
    }
    let hosts = rule.hostnames.iter().filter_map(narrowed);
    hosts
        .filter(|h| h.matches(host))
        .map(|h| specific(&h))
        .max()
}

fn age(rule: &HttpRouteRule) -> i64 {
    rule.created_unix_s
}

/// By the text `namespace/name`, then the rule's place in its route.
fn by_name(a: &HttpRouteRule, b: &HttpRouteRule) -> Ordering {
    fn text(rule: &HttpRouteRule) -> impl Iterator<Item = u8> + '_ {
        let (namespace, name) = (&rule.name.route.namespace, &rule.name.route.name);
        namespace
            .bytes()
            .chain(std::iter::once(b'/'))
            .chain(name.bytes())
    }
    text(a).cmp(text(b)).then(a.name.rule.cmp(&b.name.rule))
}

/// The TCP rule of a place: the oldest, then the first by name.
pub fn select_tcp(rules: &[Arc<TcpRouteRule>], at: &Attachment<'_>) -> Option<Arc<TcpRouteRule>> {
    rules
        .iter()
        .filter(|rule| attached_tcp(rule, at))
        .min_by(|a, b| (a.created_unix_s, &a.name).cmp(&(b.created_unix_s, &b.name)))
        .cloned()
}

/// The listener of a port that takes a host (without port, lower case): the most specific one.
pub fn pick_listener<'a>(
    listeners: impl IntoIterator<Item = &'a Arc<GatewayListener>>,
    port: u16,
    host: &str,
) -> Option<&'a Arc<GatewayListener>> {
    listeners
        .into_iter()
        .filter(|l| l.port == port && l.hostname.as_ref().is_none_or(|h| h.matches(host)))
        .max_by_key(|l| {
            let host = l.hostname.as_ref();
            host.map_or((false, 0), |h| (!h.is_wildcard(), h.as_str().len()))
        })
}

#[cfg(test)]
mod tests;
