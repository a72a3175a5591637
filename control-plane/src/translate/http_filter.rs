//! Filters of HTTPRoute.

use gateway_api::httproutes::{
    HttpRouteRulesBackendRefsFilters, HttpRouteRulesFilters,
    HttpRouteRulesFiltersRequestHeaderModifier, HttpRouteRulesFiltersRequestRedirect,
    HttpRouteRulesFiltersRequestRedirectScheme, HttpRouteRulesFiltersType,
    HttpRouteRulesFiltersUrlRewrite,
};
use mesh_model::{Header, HeaderModifier, Host, HttpFilter, PathModifier, Redirect, UrlRewrite};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// The status of a redirect that gives none.
const REDIRECT_STATUS_DEFAULT: u16 = 302;

/// Translates a filter of a rule.
///
/// # Errors
/// Why it cannot be carried out.
pub(super) fn of_rule(filter: &HttpRouteRulesFilters) -> Result<HttpFilter, String> {
    use HttpRouteRulesFiltersType as Type;
    let missing = |field: &str| format!("{field} is required for this type of filter");
    match filter.r#type {
        Type::RequestHeaderModifier => {
            let m = filter.request_header_modifier.as_ref();
            let m = m.ok_or_else(|| missing("requestHeaderModifier"))?;
            Ok(HttpFilter::RequestHeaders(modifier(m)))
        }
        Type::ResponseHeaderModifier => {
            let m = filter.response_header_modifier.as_ref();
            let m = m.ok_or_else(|| missing("responseHeaderModifier"))?;
            Ok(HttpFilter::ResponseHeaders(modifier(&same(m)?)))
        }
        Type::RequestRedirect => {
            let r = filter.request_redirect.as_ref();
            redirect(r.ok_or_else(|| missing("requestRedirect"))?).map(HttpFilter::Redirect)
        }
        Type::UrlRewrite => {
            let r = filter.url_rewrite.as_ref();
            rewrite(r.ok_or_else(|| missing("urlRewrite"))?).map(HttpFilter::Rewrite)
        }
        Type::RequestMirror => Err("RequestMirror is not supported".into()),
        Type::ExtensionRef => Err("ExtensionRef is not supported".into()),
        Type::Cors => Err("CORS is not supported".into()),
    }
}

/// Translates a filter of a backend.
///
/// # Errors
/// Why it cannot be carried out.
pub(super) fn of_backend(filter: &HttpRouteRulesBackendRefsFilters) -> Result<HttpFilter, String> {
    of_rule(&same(filter)?)
}

/// The generated types hold one shape under several names; their common form is the YAML.
fn same<A: Serialize, B: DeserializeOwned>(a: &A) -> Result<B, String> {
    let value = serde_json::to_value(a).map_err(|e| e.to_string())?;
    serde_json::from_value(value).map_err(|e| e.to_string())
}

fn modifier(m: &HttpRouteRulesFiltersRequestHeaderModifier) -> HeaderModifier {
    let header = |name: &str, value: &str| Header {
        name: name.to_ascii_lowercase().into(),
        value: value.into(),
    };
    HeaderModifier {
        set: m
            .set
            .iter()
            .flatten()
            .map(|h| header(&h.name, &h.value))
            .collect(),
        add: m
            .add
            .iter()
            .flatten()
            .map(|h| header(&h.name, &h.value))
            .collect(),
        remove: m
            .remove
            .iter()
            .flatten()
            .map(|name| name.to_ascii_lowercase().into())
            .collect(),
    }
}

fn redirect(r: &HttpRouteRulesFiltersRequestRedirect) -> Result<Redirect, String> {
    let status = match r.status_code {
        None => REDIRECT_STATUS_DEFAULT,
        Some(code @ (301 | 302 | 303 | 307 | 308)) => {
            u16::try_from(code).map_err(|e| format!("statusCode: {e}"))?
        }
        Some(code) => return Err(format!("statusCode: {code} is no redirect")),
    };
    let port = match r.port {
        None => None,
        Some(port) => {
            let port = u16::try_from(port).ok().filter(|p| *p != 0);
            Some(port.ok_or("port: not a port")?)
        }
    };
    let path = match &r.path {
        None => None,
        Some(p) => Some(path(
            p.replace_full_path.as_deref(),
            p.replace_prefix_match.as_deref(),
        )?),
    };
    Ok(Redirect {
        scheme: r.scheme.as_ref().map(|s| match s {
            HttpRouteRulesFiltersRequestRedirectScheme::Http => "http".into(),
            HttpRouteRulesFiltersRequestRedirectScheme::Https => "https".into(),
        }),
        hostname: hostname(r.hostname.as_deref())?,
        path,
        port,
        status,
    })
}

fn rewrite(r: &HttpRouteRulesFiltersUrlRewrite) -> Result<UrlRewrite, String> {
    let path = match &r.path {
        None => None,
        Some(p) => Some(path(
            p.replace_full_path.as_deref(),
            p.replace_prefix_match.as_deref(),
        )?),
    };
    Ok(UrlRewrite {
        hostname: hostname(r.hostname.as_deref())?,
        path,
    })
}

/// A precise host name (Gateway API, PreciseHostname).
fn hostname(text: Option<&str>) -> Result<Option<Arc<str>>, String> {
    let Some(text) = text else {
        return Ok(None);
    };
    let host: Host = text.parse().map_err(|e| format!("hostname: {e}"))?;
    if host.is_wildcard() {
        return Err(format!("hostname: '{text}' is a wildcard"));
    }
    Ok(Some(host.as_str().into()))
}

fn path(full: Option<&str>, prefix: Option<&str>) -> Result<PathModifier, String> {
    match (full, prefix) {
        (Some(full), None) => Ok(PathModifier::ReplaceFull(full.into())),
        (None, Some(prefix)) => Ok(PathModifier::ReplacePrefix(prefix.into())),
        _ => Err("path: exactly one of replaceFullPath and replacePrefixMatch".into()),
    }
}
