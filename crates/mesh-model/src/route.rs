//! Routes: the rules of HTTPRoute and TCPRoute, one message a rule (Gateway API v1).

use crate::{Host, ObjectName, Regex, ServiceName};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A rule of a route, shown as `namespace/route/index`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteRuleName {
    /// The route object.
    pub route: ObjectName,
    /// Its rule, from 0.
    pub rule: u16,
}

impl fmt::Display for RouteRuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.route, self.rule)
    }
}

impl fmt::Debug for RouteRuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a route hangs on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ParentRef {
    /// Listeners of a Gateway.
    Gateway {
        /// The Gateway.
        name: ObjectName,
        /// One listener only.
        section: Option<Arc<str>>,
        /// Listeners of one port only.
        port: Option<u16>,
    },
    /// A Service (east-west, GEP-1294).
    Service {
        /// The service.
        name: ServiceName,
        /// One port only.
        port: Option<u16>,
    },
}

/// The object of a [`ParentRef`], under which a snapshot files routes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ParentKey {
    /// A Gateway.
    Gateway(ObjectName),
    /// A Service.
    Service(ServiceName),
}

impl ParentRef {
    /// The object referred to.
    pub fn key(&self) -> ParentKey {
        match self {
            Self::Gateway { name, .. } => ParentKey::Gateway(name.clone()),
            Self::Service { name, .. } => ParentKey::Service(name.clone()),
        }
    }
}

/// A condition on the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(Arc<str>),
    /// Whole path elements from the left: `/a` matches `/a` and `/a/b`, not `/ab`.
    Prefix(Arc<str>),
    /// A regular expression on the whole path.
    Regex(Regex),
}

/// A condition on a header's or query parameter's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatcher {
    /// Equal.
    Exact(Arc<str>),
    /// A regular expression on the whole value.
    Regex(Regex),
}

impl ValueMatcher {
    /// Whether the value meets the condition.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => value == &**text,
            Self::Regex(regex) => regex.matches(value),
        }
    }
}

/// A condition on a header or query parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueMatch {
    /// Its name; lower case for headers.
    pub name: Arc<str>,
    /// The condition.
    pub value: ValueMatcher,
}

/// Conditions AND-ed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpMatch {
    /// On the path; none given: every path.
    pub path: Option<PathMatch>,
    /// On headers.
    pub headers: Vec<ValueMatch>,
    /// On query parameters.
    pub query: Vec<ValueMatch>,
    /// On the method, upper case; none given: every method.
    pub method: Option<Arc<str>>,
}

/// A header and its value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Header {
    /// Lower-case name.
    pub name: Arc<str>,
    /// Value.
    pub value: Arc<str>,
}

/// Changes to headers, in the order set, add, remove.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderModifier {
    /// Overwritten.
    pub set: Vec<Header>,
    /// Appended.
    pub add: Vec<Header>,
    /// Removed; lower-case names.
    pub remove: Vec<Arc<str>>,
}

/// A change of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathModifier {
    /// The whole path.
    ReplaceFull(Arc<str>),
    /// The prefix that matched.
    ReplacePrefix(Arc<str>),
}

/// An answer that sends the client elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`; none given: the request's.
    pub scheme: Option<Arc<str>>,
    /// Host; none given: the request's.
    pub hostname: Option<Arc<str>>,
    /// Path; none given: the request's.
    pub path: Option<PathModifier>,
    /// Port; none given: by the scheme, else the listener's.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// A change of host or path before the request goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlRewrite {
    /// New host.
    pub hostname: Option<Arc<str>>,
    /// New path.
    pub path: Option<PathModifier>,
}

/// What is done to a request or response on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpFilter {
    /// Changes request headers.
    RequestHeaders(HeaderModifier),
    /// Changes response headers.
    ResponseHeaders(HeaderModifier),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Rewrites host or path.
    Rewrite(UrlRewrite),
}

/// Where traffic goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// A port of a service.
    Service {
        /// The service.
        name: ServiceName,
        /// Its service-side port.
        port: u16,
    },
    /// The reference does not hold (missing, not permitted, unsupported kind): its share of the
    /// traffic is answered 500 (Gateway API, HTTPRouteRule.backendRefs).
    Invalid {
        /// Why.
        why: Arc<str>,
    },
}

/// A backend and its share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightedBackend {
    /// Where.
    pub backend: Backend,
    /// Share relative to the rule's other backends; 0 takes none.
    pub weight: u32,
    /// Filters for this backend only.
    pub filters: Vec<HttpFilter>,
}

/// Time limits of a rule (GEP-1742). `None`: no limit from the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteTimeouts {
    /// From the whole request to the whole response.
    pub request: Option<Duration>,
    /// One try at one backend.
    pub backend_request: Option<Duration>,
}

/// One rule of one HTTPRoute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRouteRule {
    /// Which rule.
    pub name: RouteRuleName,
    /// Creation of the route, seconds since 1970: older routes win ties.
    pub created_unix_s: i64,
    /// What it hangs on.
    pub parents: Vec<ParentRef>,
    /// Hosts; none given: the listener's. Ignored for Service parents.
    pub hostnames: Vec<Host>,
    /// Matches OR-ed; none given: everything.
    pub matches: Vec<HttpMatch>,
    /// Filters, in order.
    pub filters: Vec<HttpFilter>,
    /// Backends. None given, or all of weight 0, and no redirect: 500.
    pub backends: Vec<WeightedBackend>,
    /// Time limits.
    pub timeouts: RouteTimeouts,
}

/// One rule of one TCPRoute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpRouteRule {
    /// Which rule.
    pub name: RouteRuleName,
    /// Creation of the route, seconds since 1970.
    pub created_unix_s: i64,
    /// What it hangs on.
    pub parents: Vec<ParentRef>,
    /// Backends; filters do not apply.
    pub backends: Vec<WeightedBackend>,
}
