//! The typed objects that make up the configuration.

mod istio;
mod read;

pub(crate) use istio::{
    AuthorizationPolicy, Condition, MutualTlsMode, Operation, PeerAuthentication, PolicyAction,
    Resolution, Rule, ServiceEntry, ServiceEntryPort, Source, TargetRef, TcpRoute, WorkloadEntry,
    WorkloadEntrySpec,
};
pub(crate) use read::{Document, FILE_BYTES_MAX, ReadError, read};

use gateway_api::gateways::Gateway;
use gateway_api::httproutes::HttpRoute;
use gateway_api::referencegrants::ReferenceGrant;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_model::ObjectName;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The namespace of an object that names none.
const NAMESPACE_DEFAULT: &str = "default";

/// Names an object among all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ObjectId {
    /// `HTTPRoute`.
    pub(crate) kind: &'static str,
    /// Namespace (empty for cluster-scoped kinds) and name.
    pub(crate) name: ObjectName,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name.name)
        } else {
            write!(f, "{} {}", self.kind, self.name)
        }
    }
}

impl Serialize for ObjectId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

macro_rules! kinds {
    ($($variant:ident, $field:ident, $type:ty, $kind:literal, $namespaced:literal;)*) => {
        /// One object.
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) enum Object {
            $($variant(Arc<$type>),)*
        }

        impl Object {
            /// Its name among all.
            pub(crate) fn id(&self) -> ObjectId {
                match self {
                    $(Self::$variant(o) => ObjectId {
                        kind: $kind,
                        name: name_of(&o.metadata, $namespaced),
                    },)*
                }
            }
        }

        /// Every object, by kind and name.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub(crate) struct Objects {
            $(pub(crate) $field: BTreeMap<ObjectName, Arc<$type>>,)*
        }

        impl Objects {
            /// Adds an object, in place of one of the same name.
            pub(crate) fn insert(&mut self, object: Object) {
                match object {
                    $(Object::$variant(o) => {
                        self.$field.insert(name_of(&o.metadata, $namespaced), o);
                    })*
                }
            }

            /// The names of all, by kind.
            pub(crate) fn ids(&self) -> Vec<ObjectId> {
                let mut ids = Vec::new();
                $(ids.extend(self.$field.keys().map(|name| ObjectId {
                    kind: $kind,
                    name: name.clone(),
                }));)*
                ids
            }
        }
    };
}

kinds! {
    Namespace, namespaces, Namespace, "Namespace", false;
    Node, nodes, Node, "Node", false;
    Service, services, Service, "Service", true;
    EndpointSlice, endpoint_slices, EndpointSlice, "EndpointSlice", true;
    Pod, pods, Pod, "Pod", true;
    Secret, secrets, Secret, "Secret", true;
    Gateway, gateways, Gateway, "Gateway", true;
    HttpRoute, http_routes, HttpRoute, "HTTPRoute", true;
    TcpRoute, tcp_routes, TcpRoute, "TCPRoute", true;
    ReferenceGrant, reference_grants, ReferenceGrant, "ReferenceGrant", true;
    ServiceEntry, service_entries, ServiceEntry, "ServiceEntry", true;
    WorkloadEntry, workload_entries, WorkloadEntry, "WorkloadEntry", true;
    AuthorizationPolicy, authorization_policies, AuthorizationPolicy, "AuthorizationPolicy", true;
    PeerAuthentication, peer_authentications, PeerAuthentication, "PeerAuthentication", true;
}

/// The name of an object, its namespace filled in.
fn name_of(metadata: &ObjectMeta, namespaced: bool) -> ObjectName {
    let namespace = match metadata.namespace.as_deref() {
        _ if !namespaced => "",
        None | Some("") => NAMESPACE_DEFAULT,
        Some(namespace) => namespace,
    };
    ObjectName::new(namespace, metadata.name.as_deref().unwrap_or_default())
}

/// A label's value.
pub(crate) fn label<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// An annotation's value.
pub(crate) fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Creation, seconds since 1970; 0 for objects from files, which carry none.
pub(crate) fn created_unix_s(metadata: &ObjectMeta) -> i64 {
    metadata
        .creation_timestamp
        .as_ref()
        .map_or(0, |t| t.0.as_second())
}
