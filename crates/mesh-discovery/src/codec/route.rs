//! `strata.config.v1.HttpRouteRule` and `TcpRouteRule`.

use super::DecodeError;
use super::context::Context;
use super::route_parts::{
    backend_in, backend_of, filter_in, filter_of, match_in, match_of, parent_in, parent_of,
};
use mesh_model::{HttpRouteRule, ObjectName, RouteRuleName, RouteTimeouts, TcpRouteRule};
use mesh_proto::config as wire;
use std::time::Duration;

pub(super) fn encode_http(r: &HttpRouteRule) -> wire::HttpRouteRule {
    wire::HttpRouteRule {
        namespace: r.name.route.namespace.to_string(),
        name: r.name.route.name.to_string(),
        rule: r.name.rule.into(),
        created_unix_s: r.created_unix_s,
        parents: r.parents.iter().map(parent_of).collect(),
        hostnames: r.hostnames.iter().map(ToString::to_string).collect(),
        matches: r.matches.iter().map(match_of).collect(),
        filters: r.filters.iter().map(filter_of).collect(),
        backends: r.backends.iter().map(backend_of).collect(),
        timeout_request: r.timeouts.request.and_then(duration_of),
        timeout_backend_request: r.timeouts.backend_request.and_then(duration_of),
    }
}

pub(super) fn encode_tcp(r: &TcpRouteRule) -> wire::TcpRouteRule {
    wire::TcpRouteRule {
        namespace: r.name.route.namespace.to_string(),
        name: r.name.route.name.to_string(),
        rule: r.name.rule.into(),
        created_unix_s: r.created_unix_s,
        parents: r.parents.iter().map(parent_of).collect(),
        backends: r.backends.iter().map(backend_of).collect(),
    }
}

/// A limit that the wire cannot hold (over 290 thousand million years) is no limit.
fn duration_of(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}

pub(super) fn decode_http(
    cx: &Context<'_>,
    r: wire::HttpRouteRule,
) -> Result<HttpRouteRule, DecodeError> {
    Ok(HttpRouteRule {
        name: name(cx, &r.namespace, &r.name, r.rule)?,
        created_unix_s: r.created_unix_s,
        parents: each(r.parents, |p| parent_in(cx, p))?,
        hostnames: each(r.hostnames, |h| cx.parse("hostnames", &h))?,
        matches: each(r.matches, |m| match_in(cx, m))?,
        filters: each(r.filters, |f| filter_in(cx, f))?,
        backends: each(r.backends, |b| backend_in(cx, b))?,
        timeouts: RouteTimeouts {
            request: duration(cx, "timeout_request", r.timeout_request)?,
            backend_request: duration(cx, "timeout_backend_request", r.timeout_backend_request)?,
        },
    })
}

pub(super) fn decode_tcp(
    cx: &Context<'_>,
    r: wire::TcpRouteRule,
) -> Result<TcpRouteRule, DecodeError> {
    Ok(TcpRouteRule {
        name: name(cx, &r.namespace, &r.name, r.rule)?,
        created_unix_s: r.created_unix_s,
        parents: each(r.parents, |p| parent_in(cx, p))?,
        backends: each(r.backends, |b| backend_in(cx, b))?,
    })
}

fn each<W, M>(
    wire: Vec<W>,
    one: impl FnMut(W) -> Result<M, DecodeError>,
) -> Result<Vec<M>, DecodeError> {
    wire.into_iter().map(one).collect()
}

fn name(
    cx: &Context<'_>,
    namespace: &str,
    name: &str,
    rule: u32,
) -> Result<RouteRuleName, DecodeError> {
    Ok(RouteRuleName {
        route: ObjectName::new(
            cx.key_part("namespace", namespace)?,
            cx.key_part("name", name)?,
        ),
        rule: u16::try_from(rule).map_err(|e| cx.bad("rule", e))?,
    })
}

fn duration(
    cx: &Context<'_>,
    field: &str,
    wire: Option<prost_types::Duration>,
) -> Result<Option<Duration>, DecodeError> {
    wire.map(|d| Duration::try_from(d).map_err(|e| cx.bad(field, e)))
        .transpose()
}
