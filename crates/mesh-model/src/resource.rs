//! Everything the control plane serves, as one sum type with stable keys.

use crate::{AuthorizationPolicy, GatewayListener, HttpRouteRule, Service, TcpRouteRule, Workload};
use std::fmt;
use std::sync::Arc;

/// The kinds of resource; one type URL each on the wire, but workloads and services share theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKind {
    /// A workload, keyed by uid.
    Workload,
    /// A service, keyed by `namespace/hostname`.
    Service,
    /// An L4 policy, keyed by `namespace/name`.
    Policy,
    /// A policy in full fidelity, keyed by `namespace/name`.
    HttpPolicy,
    /// A rule of an HTTPRoute, keyed by `namespace/name/rule`.
    HttpRoute,
    /// A rule of a TCPRoute, keyed by `namespace/name/rule`.
    TcpRoute,
    /// A listener of a Gateway, keyed by `namespace/gateway/listener`.
    Listener,
}

/// The key of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceKey {
    /// Kind.
    pub kind: ResourceKind,
    /// Name, as on the wire.
    pub name: Arc<str>,
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

/// One resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// A workload.
    Workload(Arc<Workload>),
    /// A service.
    Service(Arc<Service>),
    /// The L4 projection of a policy, for enforcement points that see no HTTP.
    Policy(Arc<AuthorizationPolicy>),
    /// A policy in full fidelity.
    HttpPolicy(Arc<AuthorizationPolicy>),
    /// A rule of an HTTPRoute.
    HttpRoute(Arc<HttpRouteRule>),
    /// A rule of a TCPRoute.
    TcpRoute(Arc<TcpRouteRule>),
    /// A listener of a Gateway.
    Listener(Arc<GatewayListener>),
}

impl Resource {
    /// The resource's key.
    pub fn key(&self) -> ResourceKey {
        let (kind, name): (_, Arc<str>) = match self {
            Self::Workload(w) => (ResourceKind::Workload, w.uid.0.clone()),
            Self::Service(s) => (ResourceKind::Service, s.name.to_string().into()),
            Self::Policy(p) => (ResourceKind::Policy, p.name.to_string().into()),
            Self::HttpPolicy(p) => (ResourceKind::HttpPolicy, p.name.to_string().into()),
            Self::HttpRoute(r) => (ResourceKind::HttpRoute, r.name.to_string().into()),
            Self::TcpRoute(r) => (ResourceKind::TcpRoute, r.name.to_string().into()),
            Self::Listener(l) => (ResourceKind::Listener, l.key.to_string().into()),
        };
        ResourceKey { kind, name }
    }
}
