//! Resources to and from the wire (interop/xds-workload.md sections 5 and 6; `strata.config.v1`).
//!
//! Decoding is strict where a mistake would change meaning (unknown enum values, missing oneofs,
//! addresses of the wrong length: refused, naming object and field) and lenient where a newer
//! control plane may say more (unknown fields: ignored).

mod address;
mod authorization;
mod context;
mod extensions;
mod http_policy;
mod listener;
mod route;
mod route_parts;
#[cfg(test)]
mod tests;

use context::Context;
use mesh_model::{
    AuthorizationPolicy, ObjectName, PolicyScope, Resource, ResourceKey, ResourceKind,
};
use prost::Message;
use std::sync::Arc;

/// Workloads and services.
pub const TYPE_ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
/// L4 authorization policies.
pub const TYPE_AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";
/// Full authorization policies.
pub const TYPE_HTTP_POLICY: &str = "type.googleapis.com/strata.config.v1.HttpPolicy";
/// Rules of HTTPRoutes.
pub const TYPE_HTTP_ROUTE: &str = "type.googleapis.com/strata.config.v1.HttpRouteRule";
/// Rules of TCPRoutes.
pub const TYPE_TCP_ROUTE: &str = "type.googleapis.com/strata.config.v1.TcpRouteRule";
/// Listeners of Gateways.
pub const TYPE_LISTENER: &str = "type.googleapis.com/strata.config.v1.GatewayListener";

/// What an L4 proxy subscribes to. Policies first: they are pushed before the workloads.
pub const TYPES_L4: [&str; 2] = [TYPE_AUTHORIZATION, TYPE_ADDRESS];
/// What an L7 proxy subscribes to.
pub const TYPES_ALL: [&str; 6] = [
    TYPE_AUTHORIZATION,
    TYPE_HTTP_POLICY,
    TYPE_ADDRESS,
    TYPE_HTTP_ROUTE,
    TYPE_TCP_ROUTE,
    TYPE_LISTENER,
];

/// A resource as it goes on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireResource {
    /// Its type.
    pub type_url: &'static str,
    /// Its name.
    pub name: String,
    /// The encoded message. The same resource always encodes to the same bytes.
    pub value: Vec<u8>,
}

/// Why a resource was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no message of the type.
    #[error("{name}: not a message of its type: {why}")]
    Message {
        /// The resource.
        name: String,
        /// Why.
        why: String,
    },
    /// A field holds what it may not.
    #[error("{name}: {field}: {why}")]
    Field {
        /// The resource.
        name: String,
        /// The field's path.
        field: String,
        /// Why.
        why: String,
    },
    /// The type is not one of ours.
    #[error("{name}: unknown type {type_url}")]
    Type {
        /// The resource.
        name: String,
        /// The type URL.
        type_url: String,
    },
}

/// Encodes a resource.
pub fn encode(resource: &Resource) -> WireResource {
    let key = resource.key();
    let value = match resource {
        Resource::Workload(w) => address::of_workload(w).encode_to_vec(),
        Resource::Service(s) => address::of_service(s).encode_to_vec(),
        Resource::Policy(p) => authorization::encode(p).encode_to_vec(),
        Resource::HttpPolicy(p) => http_policy::encode(p).encode_to_vec(),
        Resource::HttpRoute(r) => route::encode_http(r).encode_to_vec(),
        Resource::TcpRoute(r) => route::encode_tcp(r).encode_to_vec(),
        Resource::Listener(l) => listener::encode(l).encode_to_vec(),
    };
    WireResource {
        type_url: type_url(key.kind),
        name: key.name.to_string(),
        value,
    }
}

/// Decodes a resource.
///
/// # Errors
/// When the type is unknown, the bytes are no message of it, or a field holds what it may not.
pub fn decode(type_url: &str, name: &str, value: &[u8]) -> Result<Resource, DecodeError> {
    let cx = Context::new(name);
    match type_url {
        TYPE_ADDRESS => address::decode(&cx, message(name, value)?),
        TYPE_AUTHORIZATION => authorization::decode(&cx, &message(name, value)?)
            .map(|p| Resource::Policy(Arc::new(p))),
        TYPE_HTTP_POLICY => http_policy::decode(&cx, message(name, value)?)
            .map(|p| Resource::HttpPolicy(Arc::new(p))),
        TYPE_HTTP_ROUTE => {
            route::decode_http(&cx, message(name, value)?).map(|r| Resource::HttpRoute(Arc::new(r)))
        }
        TYPE_TCP_ROUTE => {
            route::decode_tcp(&cx, message(name, value)?).map(|r| Resource::TcpRoute(Arc::new(r)))
        }
        TYPE_LISTENER => {
            listener::decode(&cx, message(name, value)?).map(|l| Resource::Listener(Arc::new(l)))
        }
        _ => Err(DecodeError::Type {
            name: name.into(),
            type_url: type_url.into(),
        }),
    }
}

fn message<M: Message + Default>(name: &str, value: &[u8]) -> Result<M, DecodeError> {
    M::decode(value).map_err(|e| DecodeError::Message {
        name: name.into(),
        why: e.to_string(),
    })
}

/// An L4 policy that [`decode`] refuses, as Istio's ztunnel takes it: entries of its lists that
/// cannot be read are left out, which may widen what it lets through. `why` stays with it. `None`
/// for what that ztunnel refuses too, and for other types, which it does not know.
pub fn decode_leniently(type_url: &str, name: &str, value: &[u8], why: &str) -> Option<Resource> {
    if type_url != TYPE_AUTHORIZATION {
        return None;
    }
    let policy = message(name, value).ok()?;
    let mut policy = authorization::decode(&Context::lenient(name), &policy).ok()?;
    policy.invalid = Some(why.into());
    Some(Resource::Policy(Arc::new(policy)))
}

/// What stands in for a policy that could not be decoded and of which no older version is held: a
/// policy that denies wherever the bad one would have applied. `None` for other types, whose
/// absence weakens nothing. When not even the scope can be read, the policy's namespace is denied.
pub fn unreadable(type_url: &str, name: &str, value: &[u8], why: &str) -> Option<Resource> {
    let (namespace, own) = name.split_once('/')?;
    // A further slash, for which the policy may have been refused, is in no name.
    let name: ObjectName = format!("{namespace}/{}", own.replace('/', "_"))
        .parse()
        .ok()?;
    match type_url {
        TYPE_AUTHORIZATION => {
            let (scope, dry_run) = authorization::reach_of(value);
            let scope = scope.unwrap_or(PolicyScope::Namespace);
            let mut policy = AuthorizationPolicy::unreadable(name, scope, why);
            policy.dry_run = dry_run;
            Some(Resource::Policy(Arc::new(policy)))
        }
        TYPE_HTTP_POLICY => {
            let (scope, targets) =
                http_policy::scope_of(value).unwrap_or((PolicyScope::Namespace, Vec::new()));
            let mut policy = AuthorizationPolicy::unreadable(name, scope, why);
            policy.targets = targets;
            Some(Resource::HttpPolicy(Arc::new(policy)))
        }
        _ => None,
    }
}

/// The type URL of a kind.
pub const fn type_url(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::Workload | ResourceKind::Service => TYPE_ADDRESS,
        ResourceKind::Policy => TYPE_AUTHORIZATION,
        ResourceKind::HttpPolicy => TYPE_HTTP_POLICY,
        ResourceKind::HttpRoute => TYPE_HTTP_ROUTE,
        ResourceKind::TcpRoute => TYPE_TCP_ROUTE,
        ResourceKind::Listener => TYPE_LISTENER,
    }
}

/// The keys a name of a type may stand for: workloads and services share a type and differ in
/// what their names look like, so both are given.
pub fn keys(type_url: &str, name: &str) -> Vec<ResourceKey> {
    let kinds: &[ResourceKind] = match type_url {
        TYPE_ADDRESS => &[ResourceKind::Workload, ResourceKind::Service],
        TYPE_AUTHORIZATION => &[ResourceKind::Policy],
        TYPE_HTTP_POLICY => &[ResourceKind::HttpPolicy],
        TYPE_HTTP_ROUTE => &[ResourceKind::HttpRoute],
        TYPE_TCP_ROUTE => &[ResourceKind::TcpRoute],
        TYPE_LISTENER => &[ResourceKind::Listener],
        _ => &[],
    };
    let key = |kind: &ResourceKind| ResourceKey {
        kind: *kind,
        name: name.into(),
    };
    kinds.iter().map(key).collect()
}
