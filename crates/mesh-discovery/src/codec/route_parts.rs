//! The parts of a route rule: parents, matches, filters, backends.

use super::DecodeError;
use super::context::{Context, non_empty, text};
use mesh_model::{
    Backend, Header, HeaderModifier, HttpFilter, HttpMatch, ObjectName, ParentRef, PathMatch,
    PathModifier, Redirect, Regex, ServiceName, UrlRewrite, ValueMatch, ValueMatcher,
    WeightedBackend,
};
use mesh_proto::config as wire;
use std::sync::Arc;

pub(super) fn parent_of(p: &ParentRef) -> wire::ParentRef {
    use wire::parent_ref::Kind;
    let kind = match p {
        ParentRef::Gateway {
            name,
            section,
            port,
        } => Kind::Gateway(wire::GatewayParent {
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            section: text(section.as_ref()),
            port: port.unwrap_or_default().into(),
        }),
        ParentRef::Service { name, port } => Kind::Service(wire::ServiceParent {
            namespace: name.namespace.to_string(),
            hostname: name.hostname.to_string(),
            port: port.unwrap_or_default().into(),
        }),
    };
    wire::ParentRef { kind: Some(kind) }
}

pub(super) fn parent_in(cx: &Context<'_>, p: wire::ParentRef) -> Result<ParentRef, DecodeError> {
    use wire::parent_ref::Kind;
    match p.kind {
        Some(Kind::Gateway(g)) => Ok(ParentRef::Gateway {
            name: ObjectName::new(g.namespace, g.name),
            section: non_empty(&g.section),
            port: cx.optional_port("parents.port", g.port)?,
        }),
        Some(Kind::Service(s)) => Ok(ParentRef::Service {
            name: ServiceName::new(s.namespace, &s.hostname),
            port: cx.optional_port("parents.port", s.port)?,
        }),
        None => Err(cx.bad("parents", "neither Gateway nor Service")),
    }
}

pub(super) fn match_of(m: &HttpMatch) -> wire::HttpMatch {
    use wire::http_match::Path;
    wire::HttpMatch {
        path: m.path.as_ref().map(|p| match p {
            PathMatch::Exact(t) => Path::PathExact(t.to_string()),
            PathMatch::Prefix(t) => Path::PathPrefix(t.to_string()),
            PathMatch::Regex(r) => Path::PathRegex(r.source().into()),
        }),
        headers: m.headers.iter().map(value_of).collect(),
        query: m.query.iter().map(value_of).collect(),
        method: text(m.method.as_ref()),
    }
}

pub(super) fn match_in(cx: &Context<'_>, m: wire::HttpMatch) -> Result<HttpMatch, DecodeError> {
    use wire::http_match::Path;
    let values = |field: &str, list: Vec<wire::ValueMatch>| {
        let one = |v| value_in(cx, field, v);
        list.into_iter().map(one).collect::<Result<Vec<_>, _>>()
    };
    Ok(HttpMatch {
        path: match m.path {
            None => None,
            Some(Path::PathExact(t)) => Some(PathMatch::Exact(t.into())),
            Some(Path::PathPrefix(t)) => Some(PathMatch::Prefix(t.into())),
            Some(Path::PathRegex(t)) => Some(PathMatch::Regex(regex(cx, "matches.path", &t)?)),
        },
        headers: values("matches.headers", m.headers)?,
        query: values("matches.query", m.query)?,
        method: non_empty(&m.method),
    })
}

fn regex(cx: &Context<'_>, field: &str, source: &str) -> Result<Regex, DecodeError> {
    Regex::new(source).map_err(|e| cx.bad(field, e))
}

fn value_of(v: &ValueMatch) -> wire::ValueMatch {
    use wire::value_match::Value;
    wire::ValueMatch {
        name: v.name.to_string(),
        value: Some(match &v.value {
            ValueMatcher::Exact(t) => Value::Exact(t.to_string()),
            ValueMatcher::Regex(r) => Value::Regex(r.source().into()),
        }),
    }
}

fn value_in(cx: &Context<'_>, field: &str, v: wire::ValueMatch) -> Result<ValueMatch, DecodeError> {
    use wire::value_match::Value;
    let value = match v.value {
        Some(Value::Exact(t)) => ValueMatcher::Exact(t.into()),
        Some(Value::Regex(t)) => ValueMatcher::Regex(regex(cx, field, &t)?),
        None => return Err(cx.bad(field, format!("{} has no condition", v.name))),
    };
    Ok(ValueMatch {
        name: v.name.into(),
        value,
    })
}

pub(super) fn filter_of(f: &HttpFilter) -> wire::HttpFilter {
    use wire::http_filter::Filter;
    let filter = match f {
        HttpFilter::RequestHeaders(m) => Filter::RequestHeaders(modifier_of(m)),
        HttpFilter::ResponseHeaders(m) => Filter::ResponseHeaders(modifier_of(m)),
        HttpFilter::Redirect(r) => Filter::Redirect(wire::Redirect {
            scheme: text(r.scheme.as_ref()),
            hostname: text(r.hostname.as_ref()),
            path: r.path.as_ref().map(path_of),
            port: r.port.unwrap_or_default().into(),
            status: r.status.into(),
        }),
        HttpFilter::Rewrite(r) => Filter::Rewrite(wire::UrlRewrite {
            hostname: text(r.hostname.as_ref()),
            path: r.path.as_ref().map(path_of),
        }),
    };
    wire::HttpFilter {
        filter: Some(filter),
    }
}

pub(super) fn filter_in(cx: &Context<'_>, f: wire::HttpFilter) -> Result<HttpFilter, DecodeError> {
    use wire::http_filter::Filter;
    match f.filter {
        Some(Filter::RequestHeaders(m)) => Ok(HttpFilter::RequestHeaders(modifier_in(m))),
        Some(Filter::ResponseHeaders(m)) => Ok(HttpFilter::ResponseHeaders(modifier_in(m))),
        Some(Filter::Redirect(r)) => Ok(HttpFilter::Redirect(Redirect {
            scheme: non_empty(&r.scheme),
            hostname: non_empty(&r.hostname),
            path: r.path.map(|p| path_in(cx, p)).transpose()?,
            port: cx.optional_port("filters.redirect.port", r.port)?,
            status: redirect_status(cx, r.status)?,
        })),
        Some(Filter::Rewrite(r)) => Ok(HttpFilter::Rewrite(UrlRewrite {
            hostname: non_empty(&r.hostname),
            path: r.path.map(|p| path_in(cx, p)).transpose()?,
        })),
        // Leaving out a filter may drop a header the backend relies on.
        None => Err(cx.bad("filters", "a filter of unknown kind")),
    }
}

fn redirect_status(cx: &Context<'_>, status: u32) -> Result<u16, DecodeError> {
    match status {
        301 | 302 | 303 | 307 | 308 => cx.port("filters.redirect.status", status),
        _ => Err(cx.bad(
            "filters.redirect.status",
            format!("{status} is no redirect"),
        )),
    }
}

fn modifier_of(m: &HeaderModifier) -> wire::HeaderModifier {
    let header = |h: &Header| wire::Header {
        name: h.name.to_string(),
        value: h.value.to_string(),
    };
    wire::HeaderModifier {
        set: m.set.iter().map(header).collect(),
        add: m.add.iter().map(header).collect(),
        remove: m.remove.iter().map(ToString::to_string).collect(),
    }
}

fn modifier_in(m: wire::HeaderModifier) -> HeaderModifier {
    let header = |h: wire::Header| Header {
        name: h.name.into(),
        value: h.value.into(),
    };
    HeaderModifier {
        set: m.set.into_iter().map(header).collect(),
        add: m.add.into_iter().map(header).collect(),
        remove: m.remove.into_iter().map(Arc::from).collect(),
    }
}

fn path_of(p: &PathModifier) -> wire::PathModifier {
    use wire::path_modifier::Path;
    wire::PathModifier {
        path: Some(match p {
            PathModifier::ReplaceFull(t) => Path::ReplaceFull(t.to_string()),
            PathModifier::ReplacePrefix(t) => Path::ReplacePrefix(t.to_string()),
        }),
    }
}

fn path_in(cx: &Context<'_>, p: wire::PathModifier) -> Result<PathModifier, DecodeError> {
    use wire::path_modifier::Path;
    match p.path {
        Some(Path::ReplaceFull(t)) => Ok(PathModifier::ReplaceFull(t.into())),
        Some(Path::ReplacePrefix(t)) => Ok(PathModifier::ReplacePrefix(t.into())),
        None => Err(cx.bad("filters.path", "a path change of unknown kind")),
    }
}

pub(super) fn backend_of(b: &WeightedBackend) -> wire::WeightedBackend {
    use wire::weighted_backend::Backend as Wire;
    wire::WeightedBackend {
        weight: b.weight,
        backend: Some(match &b.backend {
            Backend::Service { name, port } => Wire::Service(wire::ServiceBackend {
                namespace: name.namespace.to_string(),
                hostname: name.hostname.to_string(),
                port: (*port).into(),
            }),
            Backend::Invalid { why } => Wire::Invalid(why.to_string()),
        }),
        filters: b.filters.iter().map(filter_of).collect(),
    }
}

pub(super) fn backend_in(
    cx: &Context<'_>,
    b: wire::WeightedBackend,
) -> Result<WeightedBackend, DecodeError> {
    use wire::weighted_backend::Backend as Wire;
    let backend = match b.backend {
        Some(Wire::Service(s)) => Backend::Service {
            name: ServiceName::new(s.namespace, &s.hostname),
            port: cx.port("backends.port", s.port)?,
        },
        Some(Wire::Invalid(why)) => Backend::Invalid { why: why.into() },
        None => return Err(cx.bad("backends", "a backend of unknown kind")),
    };
    let filters = b.filters.into_iter().map(|f| filter_in(cx, f));
    Ok(WeightedBackend {
        backend,
        weight: b.weight,
        filters: filters.collect::<Result<_, _>>()?,
    })
}
