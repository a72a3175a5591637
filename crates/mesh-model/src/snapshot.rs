//! The immutable state of the mesh as one proxy knows it, and the builder that keeps it up.
//!
//! Readers hold an `Arc<Snapshot>` for the length of one decision, so no decision sees half a
//! change. Tables are shared between successive snapshots: building one costs a clone of the tables
//! that changed, nothing else.

use crate::{
    AuthorizationPolicy, GatewayListener, HttpRouteRule, NetworkAddress, NetworkMode, ObjectName,
    ParentKey, PolicyScope, Resource, ResourceKey, ResourceKind, Service, ServiceName,
    TcpRouteRule, Workload, WorkloadUid,
};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// The policies that apply to a workload, and the names of those that should and are not known.
#[derive(Debug, Clone, Default)]
pub struct PolicySet {
    /// Known policies.
    pub policies: Vec<Arc<AuthorizationPolicy>>,
    /// Referenced and not received: the evaluation denies (fails closed).
    pub missing: Vec<ObjectName>,
}

#[derive(Debug, Clone, Default)]
struct Endpoints {
    by_service: HashMap<ServiceName, BTreeMap<WorkloadUid, Arc<Workload>>>,
}

#[derive(Debug, Clone, Default)]
struct Workloads {
    by_uid: HashMap<WorkloadUid, Arc<Workload>>,
    by_address: HashMap<NetworkAddress, Vec<Arc<Workload>>>,
}

#[derive(Debug, Clone, Default)]
struct Services {
    by_name: HashMap<ServiceName, Arc<Service>>,
    by_vip: HashMap<NetworkAddress, Vec<Arc<Service>>>,
    by_hostname: HashMap<Arc<str>, Vec<Arc<Service>>>,
    ranges: Vec<Arc<Service>>,
}

#[derive(Debug, Clone, Default)]
struct Policies {
    by_name: BTreeMap<ObjectName, Arc<AuthorizationPolicy>>,
}

#[derive(Debug, Clone, Default)]
struct Routes {
    http: BTreeMap<ResourceKey, Arc<HttpRouteRule>>,
    tcp: BTreeMap<ResourceKey, Arc<TcpRouteRule>>,
    http_by_parent: HashMap<ParentKey, Vec<Arc<HttpRouteRule>>>,
    tcp_by_parent: HashMap<ParentKey, Vec<Arc<TcpRouteRule>>>,
}

#[derive(Debug, Clone, Default)]
struct Listeners {
    by_key: BTreeMap<ResourceKey, Arc<GatewayListener>>,
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
            .flat_map(BTreeMap::values)
    }

    /// The L4 policies that apply to a workload (interop/authz.md section 3).
    pub fn policies_for(&self, workload: &Workload) -> PolicySet {
        policies_of(&self.policies, workload)
    }

    /// The full policies that apply to a workload at its own L7 proxy (a sidecar).
    pub fn http_policies_for(&self, workload: &Workload) -> PolicySet {
        policies_of(&self.http_policies, workload)
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
        }
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

fn policies_of(policies: &Policies, workload: &Workload) -> PolicySet {
    let mut set = PolicySet::default();
    for policy in policies.by_name.values() {
        match policy.scope {
            PolicyScope::Global => set.policies.push(policy.clone()),
            PolicyScope::Namespace if policy.name.namespace == workload.namespace => {
                set.policies.push(policy.clone());
            }
            _ => {}
        }
    }
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

/// Takes resources one at a time and gives a snapshot of them.
#[derive(Debug, Clone, Default)]
pub struct SnapshotBuilder {
    state: Snapshot,
}

impl SnapshotBuilder {
    /// An empty state.
    pub fn new() -> Self {
        Self::default()
    }

    /// A state to begin with; it is not changed.
    pub fn of(snapshot: &Snapshot) -> Self {
        Self {
            state: snapshot.clone(),
        }
    }

    /// The state as it stands.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::new(self.state.clone())
    }

    /// Adds a resource, in place of the one of the same key.
    pub fn upsert(&mut self, resource: Resource) {
        let key = resource.key();
        match resource {
            Resource::Workload(workload) => {
                self.remove_workload(&workload.uid);
                self.add_workload(workload);
            }
            Resource::Service(service) => {
                self.remove_service(&service.name);
                self.add_service(service);
            }
            Resource::Policy(policy) => {
                Arc::make_mut(&mut self.state.policies)
                    .by_name
                    .insert(policy.name.clone(), policy);
            }
            Resource::HttpPolicy(policy) => {
                Arc::make_mut(&mut self.state.http_policies)
                    .by_name
                    .insert(policy.name.clone(), policy);
            }
            Resource::HttpRoute(rule) => {
                Arc::make_mut(&mut self.state.routes).http.insert(key, rule);
                self.index_routes();
            }
            Resource::TcpRoute(rule) => {
                Arc::make_mut(&mut self.state.routes).tcp.insert(key, rule);
                self.index_routes();
            }
            Resource::Listener(listener) => {
                Arc::make_mut(&mut self.state.listeners)
                    .by_key
                    .insert(key, listener);
            }
        }
    }

    /// Removes the resource of a key; nothing happens when there is none.
    pub fn remove(&mut self, key: &ResourceKey) {
        match key.kind {
            ResourceKind::Workload => self.remove_workload(&WorkloadUid(key.name.clone())),
            ResourceKind::Service => {
                if let Ok(name) = key.name.parse::<ServiceName>() {
                    self.remove_service(&name);
                }
            }
            ResourceKind::Policy => {
                if let Ok(name) = key.name.parse::<ObjectName>() {
                    Arc::make_mut(&mut self.state.policies)
                        .by_name
                        .remove(&name);
                }
            }
            ResourceKind::HttpPolicy => {
                if let Ok(name) = key.name.parse::<ObjectName>() {
                    Arc::make_mut(&mut self.state.http_policies)
                        .by_name
                        .remove(&name);
                }
            }
            ResourceKind::HttpRoute => {
                Arc::make_mut(&mut self.state.routes).http.remove(key);
                self.index_routes();
            }
            ResourceKind::TcpRoute => {
                Arc::make_mut(&mut self.state.routes).tcp.remove(key);
                self.index_routes();
            }
            ResourceKind::Listener => {
                Arc::make_mut(&mut self.state.listeners).by_key.remove(key);
            }
        }
    }

    fn add_workload(&mut self, workload: Arc<Workload>) {
        let endpoints = Arc::make_mut(&mut self.state.endpoints);
        for service in workload.services.keys() {
            endpoints
                .by_service
                .entry(service.clone())
                .or_default()
                .insert(workload.uid.clone(), workload.clone());
        }
        let workloads = Arc::make_mut(&mut self.state.workloads);
        if workload.network_mode == NetworkMode::Standard {
            for address in addresses_of(&workload) {
                let at = workloads.by_address.entry(address).or_default();
                at.push(workload.clone());
                at.sort_by(|a, b| a.uid.cmp(&b.uid));
            }
        }
        workloads.by_uid.insert(workload.uid.clone(), workload);
    }

    fn remove_workload(&mut self, uid: &WorkloadUid) {
        if !self.state.workloads.by_uid.contains_key(uid) {
            return;
        }
        let workloads = Arc::make_mut(&mut self.state.workloads);
        let Some(old) = workloads.by_uid.remove(uid) else {
            return;
        };
        for address in addresses_of(&old) {
            drop_from(&mut workloads.by_address, &address, |w| w.uid == *uid);
        }
        let endpoints = Arc::make_mut(&mut self.state.endpoints);
        for service in old.services.keys() {
            if let Some(of_service) = endpoints.by_service.get_mut(service) {
                of_service.remove(uid);
                if of_service.is_empty() {
                    endpoints.by_service.remove(service);
                }
            }
        }
    }

    fn add_service(&mut self, service: Arc<Service>) {
        let services = Arc::make_mut(&mut self.state.services);
        let mut ranged = false;
        for (network, cidr) in &service.vips {
            if *cidr == crate::Cidr::host(cidr.address()) {
                let key = NetworkAddress {
                    network: network.clone(),
                    address: cidr.address(),
                };
                services
                    .by_vip
                    .entry(key)
                    .or_default()
                    .push(service.clone());
            } else {
                ranged = true;
            }
        }
        if ranged {
            services.ranges.push(service.clone());
        }
        let hostname = service.name.hostname.clone();
        services
            .by_hostname
            .entry(hostname)
            .or_default()
            .push(service.clone());
        services.by_name.insert(service.name.clone(), service);
    }

    fn remove_service(&mut self, name: &ServiceName) {
        if !self.state.services.by_name.contains_key(name) {
            return;
        }
        let services = Arc::make_mut(&mut self.state.services);
        let Some(old) = services.by_name.remove(name) else {
            return;
        };
        for (network, cidr) in &old.vips {
            let key = NetworkAddress {
                network: network.clone(),
                address: cidr.address(),
            };
            drop_from(&mut services.by_vip, &key, |s| s.name == *name);
        }
        drop_from(&mut services.by_hostname, &name.hostname, |s| {
            s.name == *name
        });
        services.ranges.retain(|s| s.name != *name);
    }

    fn index_routes(&mut self) {
        let routes = Arc::make_mut(&mut self.state.routes);
        routes.http_by_parent.clear();
        for rule in routes.http.values() {
            for parent in parent_keys(&rule.parents) {
                routes
                    .http_by_parent
                    .entry(parent)
                    .or_default()
                    .push(rule.clone());
            }
        }
        routes.tcp_by_parent.clear();
        for rule in routes.tcp.values() {
            for parent in parent_keys(&rule.parents) {
                let of_parent = routes.tcp_by_parent.entry(parent).or_default();
                of_parent.push(rule.clone());
                of_parent
                    .sort_by(|a, b| (a.created_unix_s, &a.name).cmp(&(b.created_unix_s, &b.name)));
            }
        }
    }
}

fn addresses_of(workload: &Workload) -> impl Iterator<Item = NetworkAddress> {
    workload.addresses.iter().map(|address| NetworkAddress {
        network: workload.network.clone(),
        address: address.to_canonical(),
    })
}

fn parent_keys(parents: &[crate::ParentRef]) -> std::collections::BTreeSet<ParentKey> {
    parents.iter().map(crate::ParentRef::key).collect()
}

fn drop_from<K: Eq + std::hash::Hash, V>(
    table: &mut HashMap<K, Vec<V>>,
    key: &K,
    gone: impl Fn(&V) -> bool,
) {
    if let Some(list) = table.get_mut(key) {
        list.retain(|v| !gone(v));
        if list.is_empty() {
            table.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
