//! The immutable state of the mesh as one proxy knows it, and the builder that keeps it up.
//!
//! Readers hold an `Arc<Snapshot>` for the length of one decision, so no decision sees half a
//! change. Successive snapshots share their tables, which are persistent maps: a change costs a path
//! of the tables it touches and the lists it is in (the endpoints of a service, the workloads of a
//! node), whatever the size of the mesh.

mod builder;

pub use builder::SnapshotBuilder;

use crate::{
    AuthorizationPolicy, GatewayListener, HttpRouteRule, NetworkAddress, ObjectName, ParentKey,
    PolicyCompatibility, PolicyScope, Resource, ResourceKey, Service, ServiceName, TcpRouteRule,
    Workload, WorkloadUid,
};
use rpds::{HashTrieMapSync, RedBlackTreeMapSync};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A table that a change copies one path of.
type Table<K, V> = HashTrieMapSync<K, V>;
/// The same, kept in order.
type Sorted<K, V> = RedBlackTreeMapSync<K, V>;
/// A list that a change copies whole: read often, and short beside the table it is in.
type Group<K, V> = Arc<BTreeMap<K, Arc<V>>>;

/// The policies that apply to a workload, and the names of those that should and are not known.
#[derive(Debug, Clone, Default)]
pub struct PolicySet {
    /// Known policies.
    pub policies: Vec<Arc<AuthorizationPolicy>>,
    /// Referenced and not received: the evaluation denies (fails closed), or passes them over, as
    /// `compatibility` says.
    pub missing: Vec<ObjectName>,
    /// What becomes of a policy that cannot be evaluated.
    pub compatibility: PolicyCompatibility,
}

#[derive(Debug, Clone, Default)]
struct Endpoints {
    by_service: Table<ServiceName, Group<WorkloadUid, Workload>>,
}

#[derive(Debug, Clone, Default)]
struct Workloads {
    by_uid: Table<WorkloadUid, Arc<Workload>>,
    by_address: Table<NetworkAddress, Vec<Arc<Workload>>>,
    by_node: Table<Arc<str>, Group<WorkloadUid, Workload>>,
}

#[derive(Debug, Clone, Default)]
struct Services {
    by_name: Table<ServiceName, Arc<Service>>,
    by_vip: Table<NetworkAddress, Vec<Arc<Service>>>,
    by_hostname: Table<Arc<str>, Vec<Arc<Service>>>,
    ranges: Arc<Vec<Arc<Service>>>,
}

#[derive(Debug, Clone, Default)]
struct Policies {
    by_name: Sorted<ObjectName, Arc<AuthorizationPolicy>>,
    global: Group<ObjectName, AuthorizationPolicy>,
    by_namespace: Table<Arc<str>, Group<ObjectName, AuthorizationPolicy>>,
}

#[derive(Debug, Clone, Default)]
struct Routes {
    http: Sorted<ResourceKey, Arc<HttpRouteRule>>,
    tcp: Sorted<ResourceKey, Arc<TcpRouteRule>>,
    http_by_parent: Table<ParentKey, Vec<Arc<HttpRouteRule>>>,
    tcp_by_parent: Table<ParentKey, Vec<Arc<TcpRouteRule>>>,
}

#[derive(Debug, Clone, Default)]
struct Listeners {
    by_key: Sorted<ResourceKey, Arc<GatewayListener>>,
}

/// The state of the mesh at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    workloads: Arc<Workloads>,
    endpoints: Arc<Endpoints>,
    services: Arc<Services>,
    policies: Arc<Policies>,
    http_policies: Arc<Policies>,
    routes: Arc<Routes>,
    listeners: Arc<Listeners>,
    compatibility: PolicyCompatibility,
}

impl Snapshot {
    /// The workload of a key.
    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.by_uid.get(uid)
    }

    /// The workload at an address. Host-network workloads are never found this way; of several at
    /// one address the one with the smallest key is given.
    pub fn workload_at(&self, network: &str, address: IpAddr) -> Option<&Arc<Workload>> {
        let key = NetworkAddress {
            network: network.into(),
            address: address.to_canonical(),
        };
        self.workloads.by_address.get(&key)?.first()
    }

    /// The workload of a name within a namespace on a node; `node` empty means any.
    pub fn workload_named(
        &self,
        node: &str,
        namespace: &str,
        name: &str,
    ) -> Option<&Arc<Workload>> {
        self.workloads.by_uid.values().find(|w| {
            &*w.name == name && &*w.namespace == namespace && (node.is_empty() || &*w.node == node)
        })
    }

    /// The workloads of a node, in order of key; of an empty name, every workload there is.
    pub fn workloads_on<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Arc<Workload>> {
        let all = node.is_empty().then(|| self.workloads());
        let of_node = (!node.is_empty()).then(|| self.workloads.by_node.get(node));
        all.into_iter().flatten().chain(
            of_node
                .flatten()
                .into_iter()
                .flat_map(|group| group.values()),
        )
    }

    /// Every workload.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.by_uid.values()
    }

    /// The service of a name.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.by_name.get(name)
    }

    /// Every service.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.by_name.values()
    }

    /// The service at a virtual address as a client of the given namespace sees it: an exact
    /// address beats a range; the client's namespace, then the canonical service, wins; among
    /// ranges the longest prefix (interop/xds-workload.md section 7).
    pub fn service_at(
        &self,
        network: &str,
        address: IpAddr,
        client_namespace: &str,
    ) -> Option<&Arc<Service>> {
        self.service_among(network, address, client_namespace, |_| true)
    }

    /// As [`Snapshot::service_at`], among the services that the client may know of
    /// ([`Service::visible_to`]). For who asks on behalf of the client; a waypoint, or the proxy of
    /// an endpoint, asks on behalf of the service.
    pub fn visible_service_at(
        &self,
        network: &str,
        address: IpAddr,
        client_namespace: &str,
    ) -> Option<&Arc<Service>> {
        let seen = |service: &Service| service.visible_to(client_namespace);
        self.service_among(network, address, client_namespace, seen)
    }

    fn service_among(
        &self,
        network: &str,
        address: IpAddr,
        client_namespace: &str,
        seen: impl Fn(&Service) -> bool,
    ) -> Option<&Arc<Service>> {
        let address = address.to_canonical();
        let key = NetworkAddress {
            network: network.into(),
            address,
        };
        let exact = self.services.by_vip.get(&key).into_iter().flatten();
        if let Some(service) = preferred(exact.filter(|s| seen(s)), client_namespace) {
            return Some(service);
        }
        self.services
            .ranges
            .iter()
            .filter(|s| seen(s))
            .filter_map(|service| {
                let hit =
                    |(n, c): &&(Arc<str>, crate::Cidr)| &**n == network && c.contains(address);
                let length = service
                    .vips
                    .iter()
                    .filter(hit)
                    .map(|(_, c)| c.prefix_length())
                    .max()?;
                Some((
                    (&*service.name.namespace == client_namespace, length),
                    service,
                ))
            })
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, service)| service)
    }

    /// The service of a host name as a client of the given namespace sees it.
    pub fn service_by_hostname(
        &self,
        hostname: &str,
        client_namespace: &str,
    ) -> Option<&Arc<Service>> {
        let services = self.services_of_hostname(&hostname.to_ascii_lowercase());
        preferred(services, client_namespace)
    }

    /// Every service of a host name, which must be in lower case, visible or not.
    pub fn services_of_hostname(&self, hostname: &str) -> &[Arc<Service>] {
        self.services
            .by_hostname
            .get(hostname)
            .map_or(&[], Vec::as_slice)
    }

    /// The workloads behind a service, in order of key, healthy or not.
    pub fn endpoints(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Workload>> {
        self.endpoints
            .by_service
            .get(service)
            .into_iter()
            .flat_map(|group| group.values())
    }

    /// The L4 policies that apply to a workload (interop/authz.md section 3).
    pub fn policies_for(&self, workload: &Workload) -> PolicySet {
        policies_of(&self.policies, workload, self.compatibility)
    }

    /// The full policies that apply to a workload at its own L7 proxy (a sidecar).
    pub fn http_policies_for(&self, workload: &Workload) -> PolicySet {
        policies_of(&self.http_policies, workload, self.compatibility)
    }

    /// The full policies that name an object by `targetRefs`: `kind` as in
    /// [`crate::PolicyTarget::kind`], `name` the object's name, or host name for services.
    pub fn http_policies_for_target(&self, kind: &str, namespace: &str, name: &str) -> PolicySet {
        let applies = |p: &&Arc<AuthorizationPolicy>| {
            p.scope == PolicyScope::Targets
                && p.targets
                    .iter()
                    .any(|t| &*t.kind == kind && &*t.namespace == namespace && &*t.name == name)
        };
        PolicySet {
            policies: self
                .http_policies
                .by_name
                .values()
                .filter(applies)
                .cloned()
                .collect(),
            missing: Vec::new(),
            compatibility: self.compatibility,
        }
    }

    /// What becomes of a policy that cannot be evaluated.
    pub fn policy_compatibility(&self) -> PolicyCompatibility {
        self.compatibility
    }

    /// Whether no policy differs between two states that follow one another. May say no when none
    /// does; costs nothing.
    pub fn same_policies(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.policies, &other.policies)
            && Arc::ptr_eq(&self.http_policies, &other.http_policies)
    }

    /// Every L4 policy.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<AuthorizationPolicy>> {
        self.policies.by_name.values()
    }

    /// Every full policy.
    pub fn http_policies(&self) -> impl Iterator<Item = &Arc<AuthorizationPolicy>> {
        self.http_policies.by_name.values()
    }

    /// The HTTPRoute rules that hang on an object, in no particular order.
    pub fn http_routes(&self, parent: &ParentKey) -> &[Arc<HttpRouteRule>] {
        self.routes
            .http_by_parent
            .get(parent)
            .map_or(&[], Vec::as_slice)
    }

    /// The TCPRoute rules that hang on an object, oldest route first.
    pub fn tcp_routes(&self, parent: &ParentKey) -> &[Arc<TcpRouteRule>] {
        self.routes
            .tcp_by_parent
            .get(parent)
            .map_or(&[], Vec::as_slice)
    }

    /// Every listener of a Gateway, by name.
    pub fn listeners<'a>(
        &'a self,
        gateway: &'a ObjectName,
    ) -> impl Iterator<Item = &'a Arc<GatewayListener>> {
        self.listeners
            .by_key
            .values()
            .filter(move |l| l.key.gateway == *gateway)
    }

    /// Every resource, in order of kind and key.
    pub fn resources(&self) -> Vec<Resource> {
        let mut all: Vec<Resource> = Vec::new();
        all.extend(
            self.workloads
                .by_uid
                .values()
                .cloned()
                .map(Resource::Workload),
        );
        all.extend(
            self.services
                .by_name
                .values()
                .cloned()
                .map(Resource::Service),
        );
        all.extend(
            self.policies
                .by_name
                .values()
                .cloned()
                .map(Resource::Policy),
        );
        all.extend(
            self.http_policies
                .by_name
                .values()
                .cloned()
                .map(Resource::HttpPolicy),
        );
        all.extend(self.routes.http.values().cloned().map(Resource::HttpRoute));
        all.extend(self.routes.tcp.values().cloned().map(Resource::TcpRoute));
        all.extend(
            self.listeners
                .by_key
                .values()
                .cloned()
                .map(Resource::Listener),
        );
        all.sort_by_key(Resource::key);
        all
    }
}

fn preferred<'a>(
    services: impl IntoIterator<Item = &'a Arc<Service>>,
    client_namespace: &str,
) -> Option<&'a Arc<Service>> {
    services
        .into_iter()
        .max_by_key(|s| (&*s.name.namespace == client_namespace, s.canonical))
}

fn policies_of(
    policies: &Policies,
    workload: &Workload,
    compatibility: PolicyCompatibility,
) -> PolicySet {
    let mut set = PolicySet {
        compatibility,
        ..PolicySet::default()
    };
    let of_namespace = policies.by_namespace.get(&workload.namespace);
    set.policies
        .extend(of_namespace.into_iter().flat_map(|g| g.values()).cloned());
    set.policies.extend(policies.global.values().cloned());
    for name in &workload.authorization_policies {
        match policies.by_name.get(name) {
            // A policy that turned global or namespace-wide is in the set already.
            Some(policy) if policy.scope == PolicyScope::WorkloadSelector => {
                set.policies.push(policy.clone());
            }
            Some(_) => {}
            None => set.missing.push(name.clone()),
        }
    }
    set
}

#[cfg(test)]
mod tests;
