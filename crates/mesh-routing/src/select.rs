//! Which rule takes a request: attachment, matching and precedence.

use crate::HttpFacts;
use mesh_model::{
    GatewayListener, Host, HttpMatch, HttpRouteRule, ParentRef, PathMatch, ServiceName,
    TcpRouteRule,
};
use std::cmp::Ordering;
use std::cmp::Reverse;
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

/// The rule that takes the request, by the precedence of Gateway API v1.
pub fn select(
    rules: &[Arc<HttpRouteRule>],
    at: &Attachment<'_>,
    facts: &HttpFacts<'_>,
) -> Option<RouteMatch> {
    let _ = (rules, at, facts, Ordering::Less, Reverse(1));
    None
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
    let _: Option<(&Host, &HttpMatch, &PathMatch)> = None;
    listeners
        .into_iter()
        .find(|l| l.port == port && l.hostname.as_ref().is_none_or(|h| h.matches(host)))
}
