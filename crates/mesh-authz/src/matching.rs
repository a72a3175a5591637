//! Whether a policy's conditions hold for the facts of a connection and, when there is one, a request.

use crate::{Connection, Request};
use mesh_model::{
    Action, AuthorizationPolicy, HeaderCondition, PolicyMatch, ServiceAccountMatch, SpiffeId,
    StringMatch,
};
use std::borrow::Cow;
use std::cell::OnceCell;

/// The facts of one decision; what has to be computed is computed once.
pub(crate) struct Facts<'a> {
    connection: &'a Connection<'a>,
    request: Option<&'a Request<'a>>,
    principal: OnceCell<String>,
    host: OnceCell<Host<'a>>,
}

/// A host in both forms that a condition may mean.
struct Host<'a> {
    whole: Cow<'a, str>,
    port_at: Option<usize>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(connection: &'a Connection<'a>, request: Option<&'a Request<'a>>) -> Self {
        Self {
            connection,
            request,
            principal: OnceCell::new(),
            host: OnceCell::new(),
        }
    }

    /// The first rule that matches. A policy without rules never matches.
    pub(crate) fn matching_rule(&self, policy: &AuthorizationPolicy) -> Option<usize> {
        policy.rules.iter().position(|rule| {
            rule.clauses.iter().all(|clause| {
                clause.matches.is_empty()
                    || clause.matches.iter().any(|m| self.holds(m, policy.action))
            })
        })
    }

    fn holds(&self, m: &PolicyMatch, action: Action) -> bool {
        (has_l4(m) || has_http(m)) && self.l4_holds(m) && self.http_holds(m, action)
    }

    fn l4_holds(&self, m: &PolicyMatch) -> bool {
        let c = self.connection;
        let namespace = |p: &StringMatch| p.matches(c.identity.map_or("", SpiffeId::namespace));
        let principal = |p: &StringMatch| {
            c.identity
                .is_some_and(|id| p.matches(self.principal.get_or_init(|| id.principal())))
        };
        let account = |a: &ServiceAccountMatch| {
            c.identity.is_some_and(|id| {
                id.namespace() == &*a.namespace && id.service_account() == &*a.name
            })
        };
        let port = |p: &u16| *p == c.destination.port();
        field(&m.namespaces, &m.not_namespaces, namespace)
            && field(&m.principals, &m.not_principals, principal)
            && field(&m.service_accounts, &m.not_service_accounts, account)
            && field(&m.source_ips, &m.not_source_ips, |r| {
                r.contains(c.source_ip)
            })
            && field(&m.destination_ips, &m.not_destination_ips, |r| {
                r.contains(c.destination.ip())
            })
            && field(&m.destination_ports, &m.not_destination_ports, port)
    }

    fn http_holds(&self, m: &PolicyMatch, action: Action) -> bool {
        if !has_http(m) {
            return true;
        }
        let Some(request) = self.request else {
            // What cannot be seen must not let anything through.
            return action == Action::Deny;
        };
        let host = |p: &StringMatch| self.host_matches(request, p);
        field(&m.hosts, &m.not_hosts, host)
            && field(&m.methods, &m.not_methods, |p| p.matches(request.method))
            && field(&m.paths, &m.not_paths, |p| p.matches(request.path))
            && m.headers.iter().all(|h| header_holds(request, h, action))
    }

    /// A condition means the host with or without its port: `example.com` must not be dodged by
    /// asking for `example.com:80`.
    fn host_matches(&self, request: &'a Request<'a>, pattern: &StringMatch) -> bool {
        let host = self.host.get_or_init(|| Host::new(request.host));
        let bare = host.port_at.and_then(|at| host.whole.get(..at));
        let meets = |text: &str| match pattern {
            StringMatch::Exact(t) => text.eq_ignore_ascii_case(t),
            StringMatch::Prefix(t) => starts_with_any_case(text, t),
            StringMatch::Suffix(t) => ends_with_any_case(text, t),
            StringMatch::Presence => !text.is_empty(),
        };
        meets(&host.whole) || bare.is_some_and(meets)
    }
}

impl<'a> Host<'a> {
    fn new(text: &'a str) -> Self {
        let port_at = text
            .rfind(':')
            .filter(|at| text.get(at + 1..).is_some_and(is_port))
            // The last colon of a bare IPv6 address starts no port.
            .filter(|at| text.starts_with('[') || text.find(':') == Some(*at));
        Self {
            whole: Cow::Borrowed(text),
            port_at,
        }
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

fn starts_with_any_case(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

fn ends_with_any_case(text: &str, suffix: &str) -> bool {
    text.len()
        .checked_sub(suffix.len())
        .and_then(|at| text.get(at..))
        .is_some_and(|tail| tail.eq_ignore_ascii_case(suffix))
}

/// Positive list empty or any hits, and negative list has no hit.
fn field<T>(positive: &[T], negative: &[T], hits: impl Fn(&T) -> bool) -> bool {
    (positive.is_empty() || positive.iter().any(&hits)) && !negative.iter().any(&hits)
}

/// A header that is repeated has no one value: applications take the first, the last, or all joined
/// by commas (RFC 9110 section 5.3). What the application will take is not known here, so a DENY holds
/// when any reading does, an ALLOW only when every reading does.
///
/// A list in one line is the same to an application that reads lists, so the members of a list are
/// readings too of what a DENY looks for. Not of what it looks for the absence of, nor of an ALLOW: a
/// value with a comma in it is more often no list.
fn header_holds(request: &Request<'_>, condition: &HeaderCondition, action: Action) -> bool {
    let HeaderCondition {
        values, not_values, ..
    } = condition;
    let lines = (request.header)(&condition.name);
    if lines.is_empty() {
        return values.is_empty();
    }
    let joined = lines.join(",");
    let is_one_of = |list: &[StringMatch], text: &str| list.iter().any(|p| p.matches(text));
    let good = |text: &str| values.is_empty() || is_one_of(values, text);
    let bad = |text: &str| is_one_of(not_values, text);
    let mut readings = lines.iter().map(String::as_str).chain([joined.as_str()]);
    match action {
        Action::Allow => readings.all(|text| good(text) && !bad(text)),
        Action::Deny => {
            let mut members = joined.split(',').map(str::trim);
            (readings.clone().any(good) || members.any(good)) && readings.any(|text| !bad(text))
        }
    }
}

fn has_l4(m: &PolicyMatch) -> bool {
    !(m.namespaces.is_empty()
        && m.not_namespaces.is_empty()
        && m.principals.is_empty()
        && m.not_principals.is_empty()
        && m.service_accounts.is_empty()
        && m.not_service_accounts.is_empty()
        && m.source_ips.is_empty()
        && m.not_source_ips.is_empty()
        && m.destination_ips.is_empty()
        && m.not_destination_ips.is_empty()
        && m.destination_ports.is_empty()
        && m.not_destination_ports.is_empty())
}

fn has_http(m: &PolicyMatch) -> bool {
    !(m.hosts.is_empty()
        && m.not_hosts.is_empty()
        && m.methods.is_empty()
        && m.not_methods.is_empty()
        && m.paths.is_empty()
        && m.not_paths.is_empty()
        && m.headers.is_empty())
}
