//! What happens to an HTTP request: route, redirect, backend, endpoint.

use crate::backend::{self, Sender};
use crate::{Client, HttpFacts, Refusal, Target, is_waypoint_of, waypoint};
use mesh_model::{
    Dice, GatewayListener, HeaderModifier, HttpFilter, HttpRouteRule, ObjectName, ParentKey,
    Reason, Redirect, RouteTimeouts, Service, Snapshot, Workload,
};
use mesh_routing::{Attachment, attached_http, select};
use std::borrow::Cow;
use std::sync::Arc;

/// Where a request came in.
#[derive(Debug, Clone, Copy)]
pub enum HttpScope<'a> {
    /// At a sidecar or waypoint, for a port of a service.
    Service {
        /// The service.
        service: &'a Arc<Service>,
        /// The port asked for.
        port: u16,
    },
    /// At a listener of a gateway.
    Gateway {
        /// The Gateway.
        gateway: &'a ObjectName,
        /// The listener.
        listener: &'a GatewayListener,
    },
}

/// A request that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpForward {
    /// The rule that took it; none for a service without routes.
    pub rule: Option<Arc<HttpRouteRule>>,
    /// Where it goes.
    pub target: Target,
    /// What is done to it: filters of the rule, then of the backend. No redirect among them.
    pub filters: Vec<HttpFilter>,
    /// The path prefix that matched, for a rewrite to replace.
    pub prefix: Option<Arc<str>>,
    /// Time limits.
    pub timeouts: RouteTimeouts,
}

/// A request answered with a redirect: see `mesh_routing::redirect_location`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRedirect {
    /// The rule that took it.
    pub rule: Arc<HttpRouteRule>,
    /// The redirect.
    pub filter: Redirect,
    /// The path prefix that matched, for the redirect to replace.
    pub prefix: Option<Arc<str>>,
    /// Changes to the headers of the answer.
    pub response_filters: Vec<HeaderModifier>,
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpPlan {
    /// It goes on.
    Forward(Box<HttpForward>),
    /// It is sent elsewhere.
    Redirect(Box<HttpRedirect>),
    /// It is answered with the reason's status.
    Refuse(Refusal),
}

/// Plans a request: the rule that takes it, then its redirect or one of its backends. A service that
/// no route hangs on is its own backend; where routes hang and none matches, the answer is 404.
pub fn http(
    snapshot: &Snapshot,
    client: &Client,
    scope: &HttpScope<'_>,
    facts: &HttpFacts<'_>,
    dice: &mut Dice,
) -> HttpPlan {
    match routed(snapshot, client, scope, facts, dice) {
        Ok(plan) => plan,
        Err(refusal) => HttpPlan::Refuse(refusal),
    }
}

fn routed(
    snapshot: &Snapshot,
    client: &Client,
    scope: &HttpScope<'_>,
    facts: &HttpFacts<'_>,
    dice: &mut Dice,
) -> Result<HttpPlan, Refusal> {
    let sender = sender(snapshot, client, scope);
    let rules = rules(snapshot, client, scope, sender);
    if let (HttpScope::Service { service, port }, true) = (scope, rules.is_empty()) {
        let target = backend::target(snapshot, client, sender, service, *port, dice)?;
        return Ok(HttpPlan::Forward(Box::new(HttpForward {
            rule: None,
            target,
            filters: Vec::new(),
            prefix: None,
            timeouts: RouteTimeouts::default(),
        })));
    }
    let Some(found) = select(&rules, &attachment(scope), facts) else {
        return Err(no_route(facts));
    };
    if let Some(filter) = redirect_of(&found.rule) {
        return Ok(HttpPlan::Redirect(Box::new(HttpRedirect {
            filter,
            prefix: found.prefix,
            response_filters: response_filters(&found.rule),
            rule: found.rule,
        })));
    }
    let rule = found.rule;
    let (backend, target) = backend::pick(snapshot, client, sender, &rule.backends, dice)
        .map_err(|r| Refusal::new(r.reason, format!("rule {}: {}", rule.name, r.detail)))?;
    let filters = rule.filters.iter().chain(&backend.filters);
    Ok(HttpPlan::Forward(Box::new(HttpForward {
        target,
        filters: filters
            .filter(|f| !matches!(f, HttpFilter::Redirect(_)))
            .cloned()
            .collect(),
        prefix: found.prefix,
        timeouts: rule.timeouts,
        rule: Some(rule),
    })))
}

fn attachment<'a>(scope: &HttpScope<'a>) -> Attachment<'a> {
    match *scope {
        HttpScope::Service { service, port } => Attachment::ServicePort(&service.name, port),
        HttpScope::Gateway { listener, .. } => Attachment::Listener(listener),
    }
}

/// A proxy that is the waypoint of the service it serves acts as a waypoint; any other that serves a
/// service is a sidecar.
fn sender(snapshot: &Snapshot, client: &Client, scope: &HttpScope<'_>) -> Sender {
    let HttpScope::Service { service, .. } = scope else {
        return Sender::Gateway;
    };
    let ours =
        |me: &Workload| waypoint::waypoints(service).any(|at| is_waypoint_of(snapshot, me, at));
    match client.workload.as_deref() {
        Some(me) if ours(me) => Sender::Waypoint,
        _ => Sender::Sidecar,
    }
}

/// The rules that may take a request. Of those on a service, the client's own namespace can override
/// those of the service's namespace, for itself only (GEP-1426); a waypoint, which serves all clients,
/// knows the latter only.
pub(crate) fn rules<'a>(
    snapshot: &'a Snapshot,
    client: &Client,
    scope: &HttpScope<'_>,
    sender: Sender,
) -> Cow<'a, [Arc<HttpRouteRule>]> {
    let (service, port) = match *scope {
        HttpScope::Gateway { gateway, .. } => {
            return snapshot
                .http_routes(&ParentKey::Gateway(gateway.clone()))
                .into();
        }
        HttpScope::Service { service, port } => (service, port),
    };
    let at = Attachment::ServicePort(&service.name, port);
    let all = snapshot.http_routes(&ParentKey::Service(service.name.clone()));
    let producer = &service.name.namespace;
    let own = |r: &HttpRouteRule, namespace: &Arc<str>| {
        r.name.route.namespace == *namespace && attached_http(r, &at)
    };
    if all.iter().all(|r| own(r, producer)) {
        return all.into();
    }
    let of = |namespace: &Arc<str>| -> Vec<Arc<HttpRouteRule>> {
        all.iter().filter(|r| own(r, namespace)).cloned().collect()
    };
    let consumers = match sender {
        Sender::Sidecar if client.namespace != *producer => of(&client.namespace),
        _ => Vec::new(),
    };
    if consumers.is_empty() {
        of(producer).into()
    } else {
        consumers.into()
    }
}

fn redirect_of(rule: &HttpRouteRule) -> Option<Redirect> {
    rule.filters.iter().find_map(|filter| match filter {
        HttpFilter::Redirect(redirect) => Some(redirect.clone()),
        _ => None,
    })
}

fn response_filters(rule: &HttpRouteRule) -> Vec<HeaderModifier> {
    let changes = rule.filters.iter().filter_map(|filter| match filter {
        HttpFilter::ResponseHeaders(modifier) => Some(modifier.clone()),
        _ => None,
    });
    changes.collect()
}

fn no_route(facts: &HttpFacts<'_>) -> Refusal {
    // Paths come from clients: what is shown of one has a limit.
    const SHOWN_CHARS_MAX: usize = 128;
    let cut = |text: &str| text.chars().take(SHOWN_CHARS_MAX).collect::<String>();
    let (method, host, path) = (cut(facts.method), cut(facts.host), cut(facts.path));
    let detail = format!("no route matches {method} {host}{path}");
    Refusal::new(Reason::NoRoute, detail)
}

#[cfg(test)]
mod tests;
