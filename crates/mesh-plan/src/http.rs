//! What happens to an HTTP request: route, redirect, backend, endpoint.

use crate::{Client, HttpFacts, Refusal, Target};
use mesh_model::{
    Dice, GatewayListener, HeaderModifier, HttpFilter, HttpRouteRule, ObjectName, Reason, Redirect,
    RouteTimeouts, Service, Snapshot,
};
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

/// Plans a request.
pub fn http(
    snapshot: &Snapshot,
    client: &Client,
    scope: &HttpScope<'_>,
    facts: &HttpFacts<'_>,
    dice: &mut Dice,
) -> HttpPlan {
    let _ = (snapshot, client, scope, facts.host, dice);
    HttpPlan::Refuse(Refusal::new(Reason::Internal, "no plan"))
}
