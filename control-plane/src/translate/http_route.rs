//! HTTPRoute: one resource a rule.

use super::backend::Backends;
use super::output::{Condition, Output};
use super::route_parents::{Asking, Parents};
use super::service::Services;
use super::{Mesh, http_filter};
use crate::objects::{Objects, created_unix_s};
use gateway_api::httproutes::{
    HttpRoute, HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesMatches,
    HttpRouteRulesMatchesHeadersType, HttpRouteRulesMatchesPathType,
    HttpRouteRulesMatchesQueryParamsType,
};
use mesh_model::{
    Backend, Host, HttpFilter, HttpMatch, HttpRouteRule, ObjectName, ParentRef, PathMatch, Regex,
    Resource, RouteRuleName, RouteTimeouts, ValueMatch, ValueMatcher, WeightedBackend,
};
use std::sync::Arc;
use std::time::Duration;

const KIND: &str = "HTTPRoute";

pub(super) fn translate(
    objects: &Objects,
    parents: &Parents<'_>,
    services: &Services,
    mesh: &Mesh,
    out: &mut Output,
) {
    for (name, route) in &objects.http_routes {
        let backends = Backends {
            objects,
            services,
            mesh,
            kind: KIND,
            route: name,
        };
        one(name, route, parents, &backends, out);
    }
}

fn one(
    name: &ObjectName,
    route: &HttpRoute,
    parents: &Parents<'_>,
    backends: &Backends<'_>,
    out: &mut Output,
) {
    let hostnames: Result<Vec<Host>, String> = route
        .spec
        .hostnames
        .iter()
        .flatten()
        .map(|h| h.parse().map_err(|e| format!("spec.hostnames: {e}")))
        .collect();
    let hostnames = match hostnames {
        Ok(hostnames) => hostnames,
        // Leaving out one host only might leave none, which stands for every host.
        Err(why) => {
            let condition = Condition::new("Accepted", false, "UnsupportedValue", why);
            out.condition(KIND, name, condition);
            return;
        }
    };
    let asking = Asking {
        kind: KIND,
        name,
        hostnames: &hostnames,
    };
    let refs = route.spec.parent_refs.as_deref().unwrap_or_default();
    let accepted = parents.accepted(&asking, refs, out);
    if accepted.is_empty() {
        return;
    }
    // The default of the field in the API: one rule that takes everything.
    let default = [HttpRouteRules::default()];
    let rules = route.spec.rules.as_deref().unwrap_or(&default);
    for (i, object) in rules.iter().enumerate() {
        let Ok(number) = u16::try_from(i) else {
            return;
        };
        let rule_name = RouteRuleName {
            route: name.clone(),
            rule: number,
        };
        let created = created_unix_s(&route.metadata);
        let rule = rule(
            rule_name, created, &accepted, &hostnames, object, backends, out,
        );
        if let Some(rule) = rule {
            out.put(Resource::HttpRoute(Arc::new(rule)));
        }
    }
    out.references_hold(KIND, name);
}

/// `None` when the matches cannot be carried out: then the rule takes nothing. When its filters or
/// timeouts cannot, it takes its traffic and answers it with an error (Gateway API, HTTPRouteRule).
fn rule(
    name: RouteRuleName,
    created_unix_s: i64,
    parents: &[ParentRef],
    hostnames: &[Host],
    object: &HttpRouteRules,
    backends: &Backends<'_>,
    out: &mut Output,
) -> Option<HttpRouteRule> {
    let at = format!("spec.rules[{}]", name.rule);
    let mut refuse = |why: String| {
        let condition = Condition::new("Accepted", false, "UnsupportedValue", why);
        out.condition(KIND, &name.route, condition);
    };
    let matches = object.matches.iter().flatten().map(http_match);
    let matches = match matches.collect::<Result<Vec<_>, _>>() {
        Ok(matches) => matches,
        Err(why) => {
            refuse(format!("{at}.matches: {why}"));
            return None;
        }
    };
    let filters = object.filters.iter().flatten().map(http_filter::of_rule);
    let filters: Result<Vec<HttpFilter>, String> = filters
        .collect::<Result<_, _>>()
        .map_err(|why| format!("{at}.filters: {why}"));
    let timeouts = timeouts(object).map_err(|why| format!("{at}.timeouts: {why}"));
    let (filters, timeouts, backends) = match (filters, timeouts) {
        (Ok(filters), Ok(timeouts)) => {
            let refs = object.backend_refs.iter().flatten().enumerate();
            let backends =
                refs.map(|(i, r)| weighted(r, &format!("{at}.backendRefs[{i}]"), backends, out));
            (filters, timeouts, backends.collect())
        }
        (Err(why), _) | (_, Err(why)) => {
            refuse(why.clone());
            (Vec::new(), RouteTimeouts::default(), vec![broken(why)])
        }
    };
    Some(HttpRouteRule {
        name,
        created_unix_s,
        parents: parents.to_vec(),
        hostnames: hostnames.to_vec(),
        matches,
        filters,
        backends,
        timeouts,
    })
}

fn broken(why: String) -> WeightedBackend {
    WeightedBackend {
        backend: Backend::Invalid { why: why.into() },
        weight: 1,
        filters: Vec::new(),
    }
}

fn weighted(
    r: &HttpRouteRulesBackendRefs,
    field: &str,
    backends: &Backends<'_>,
    out: &mut Output,
) -> WeightedBackend {
    let weight = weight(r.weight);
    let filters = r.filters.iter().flatten().map(http_filter::of_backend);
    match filters.collect::<Result<Vec<_>, _>>() {
        Ok(filters) => WeightedBackend {
            backend: backends.resolve(r, field, out),
            weight,
            filters,
        },
        Err(why) => {
            let message = format!("{field}.filters: {why}");
            let condition = Condition::new("Accepted", false, "UnsupportedValue", message);
            out.condition(KIND, backends.route, condition);
            WeightedBackend {
                weight,
                ..broken(why)
            }
        }
    }
}

/// 1 when not given; negative counts as 0.
pub(super) fn weight(weight: Option<i32>) -> u32 {
    u32::try_from(weight.unwrap_or(1)).unwrap_or(0)
}

fn timeouts(object: &HttpRouteRules) -> Result<RouteTimeouts, String> {
    let Some(timeouts) = &object.timeouts else {
        return Ok(RouteTimeouts::default());
    };
    // Zero stands for no limit (GEP-1742).
    let duration = |field: &str, text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => text
            .parse::<gateway_api::Duration>()
            .map(|d| Some(Duration::new(d.as_secs(), d.subsec_nanos())).filter(|d| !d.is_zero()))
            .map_err(|e| format!("{field}: '{text}': {e}")),
    };
    Ok(RouteTimeouts {
        request: duration("request", &timeouts.request)?,
        backend_request: duration("backendRequest", &timeouts.backend_request)?,
    })
}

fn http_match(m: &HttpRouteRulesMatches) -> Result<HttpMatch, String> {
    let regex = |text: &str| Regex::new(text).map_err(|e| e.to_string());
    let path = match &m.path {
        None => None,
        Some(p) => {
            let value = p.value.as_deref().unwrap_or("/");
            Some(match p.r#type {
                Some(HttpRouteRulesMatchesPathType::Exact) => PathMatch::Exact(value.into()),
                Some(HttpRouteRulesMatchesPathType::RegularExpression) => {
                    PathMatch::Regex(regex(value)?)
                }
                None | Some(HttpRouteRulesMatchesPathType::PathPrefix) => {
                    PathMatch::Prefix(value.into())
                }
            })
        }
    };
    if let Some(PathMatch::Exact(value) | PathMatch::Prefix(value)) = &path
        && !value.starts_with('/')
    {
        return Err(format!("path: '{value}' does not start with /"));
    }
    let mut headers = Vec::new();
    for h in m.headers.iter().flatten() {
        headers.push(ValueMatch {
            name: h.name.to_ascii_lowercase().into(),
            value: match h.r#type {
                Some(HttpRouteRulesMatchesHeadersType::RegularExpression) => {
                    ValueMatcher::Regex(regex(&h.value)?)
                }
                _ => ValueMatcher::Exact(h.value.as_str().into()),
            },
        });
    }
    let mut query = Vec::new();
    for q in m.query_params.iter().flatten() {
        query.push(ValueMatch {
            name: q.name.as_str().into(),
            value: match q.r#type {
                Some(HttpRouteRulesMatchesQueryParamsType::RegularExpression) => {
                    ValueMatcher::Regex(regex(&q.value)?)
                }
                _ => ValueMatcher::Exact(q.value.as_str().into()),
            },
        });
    }
    Ok(HttpMatch {
        path,
        headers,
        query,
        method: method(m)?,
    })
}

/// The method's text as its owner writes it.
fn method(m: &HttpRouteRulesMatches) -> Result<Option<Arc<str>>, String> {
    let Some(method) = &m.method else {
        return Ok(None);
    };
    match serde_json::to_value(method) {
        Ok(serde_json::Value::String(text)) => Ok(Some(text.into())),
        _ => Err("method: unknown".into()),
    }
}
