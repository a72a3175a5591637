//! Takes resources one at a time and gives snapshots of them.

use super::{Group, Policies, Routes, Snapshot, Table};
use crate::{
    AuthorizationPolicy, Cidr, NetworkAddress, NetworkMode, ObjectName, ParentKey,
    PolicyCompatibility, PolicyScope, Resource, ResourceKey, ResourceKind, Service, ServiceName,
    Workload, WorkloadUid,
};
use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::hash::Hash;
use std::sync::Arc;

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

    /// An empty state whose policies are read as the given setting says.
    pub fn with_compatibility(compatibility: PolicyCompatibility) -> Self {
        let mut builder = Self::default();
        builder.state.compatibility = compatibility;
        builder
    }

    /// A state to begin with; it is not changed.
    pub fn of(snapshot: &Snapshot) -> Self {
        Self {
            state: snapshot.clone(),
        }
    }

    /// The state as it stands. It shares all tables with the builder and the snapshots before.
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
            Resource::Policy(policy) => put_policy(&mut self.state.policies, policy),
            Resource::HttpPolicy(policy) => put_policy(&mut self.state.http_policies, policy),
            Resource::HttpRoute(rule) => {
                let routes = Arc::make_mut(&mut self.state.routes);
                remove_http_route(routes, &key);
                for parent in parent_keys(&rule.parents) {
                    push(&mut routes.http_by_parent, parent, rule.clone());
                }
                routes.http.insert_mut(key, rule);
            }
            Resource::TcpRoute(rule) => {
                let routes = Arc::make_mut(&mut self.state.routes);
                remove_tcp_route(routes, &key);
                for parent in parent_keys(&rule.parents) {
                    place(&mut routes.tcp_by_parent, parent, rule.clone(), |r| {
                        (r.created_unix_s, r.name.clone())
                    });
                }
                routes.tcp.insert_mut(key, rule);
            }
            Resource::Listener(listener) => {
                let listeners = Arc::make_mut(&mut self.state.listeners);
                listeners.by_key.insert_mut(key, listener);
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
                    remove_policy(&mut self.state.policies, &name);
                }
            }
            ResourceKind::HttpPolicy => {
                if let Ok(name) = key.name.parse::<ObjectName>() {
                    remove_policy(&mut self.state.http_policies, &name);
                }
            }
            ResourceKind::HttpRoute => {
                remove_http_route(Arc::make_mut(&mut self.state.routes), key);
            }
            ResourceKind::TcpRoute => {
                remove_tcp_route(Arc::make_mut(&mut self.state.routes), key);
            }
            ResourceKind::Listener => {
                let listeners = Arc::make_mut(&mut self.state.listeners);
                listeners.by_key.remove_mut(key);
            }
        }
    }

    fn add_workload(&mut self, workload: Arc<Workload>) {
        let uid = &workload.uid;
        let endpoints = Arc::make_mut(&mut self.state.endpoints);
        for service in workload.services.keys() {
            join(&mut endpoints.by_service, service, uid, &workload);
        }
        let workloads = Arc::make_mut(&mut self.state.workloads);
        if workload.network_mode == NetworkMode::Standard {
            for address in addresses_of(&workload) {
                let table = &mut workloads.by_address;
                place(table, address, workload.clone(), |w| w.uid.clone());
            }
        }
        join(&mut workloads.by_node, &workload.node, uid, &workload);
        workloads.by_uid.insert_mut(uid.clone(), workload);
    }

    fn remove_workload(&mut self, uid: &WorkloadUid) {
        let Some(old) = self.state.workloads.by_uid.get(uid).cloned() else {
            return;
        };
        let workloads = Arc::make_mut(&mut self.state.workloads);
        workloads.by_uid.remove_mut(uid);
        for address in addresses_of(&old) {
            drop_from(&mut workloads.by_address, &address, |w| w.uid == *uid);
        }
        leave(&mut workloads.by_node, &old.node, uid);
        let endpoints = Arc::make_mut(&mut self.state.endpoints);
        for service in old.services.keys() {
            leave(&mut endpoints.by_service, service, uid);
        }
    }

    fn add_service(&mut self, service: Arc<Service>) {
        let services = Arc::make_mut(&mut self.state.services);
        let mut ranged = false;
        for (network, cidr) in &service.vips {
            if *cidr == Cidr::host(cidr.address()) {
                let key = NetworkAddress {
                    network: network.clone(),
                    address: cidr.address(),
                };
                push(&mut services.by_vip, key, service.clone());
            } else {
                ranged = true;
            }
        }
        if ranged {
            Arc::make_mut(&mut services.ranges).push(service.clone());
        }
        let hostname = service.name.hostname.clone();
        push(&mut services.by_hostname, hostname, service.clone());
        services.by_name.insert_mut(service.name.clone(), service);
    }

    fn remove_service(&mut self, name: &ServiceName) {
        let Some(old) = self.state.services.by_name.get(name).cloned() else {
            return;
        };
        let services = Arc::make_mut(&mut self.state.services);
        services.by_name.remove_mut(name);
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
        if services.ranges.iter().any(|s| s.name == *name) {
            Arc::make_mut(&mut services.ranges).retain(|s| s.name != *name);
        }
    }
}

fn put_policy(policies: &mut Arc<Policies>, policy: Arc<AuthorizationPolicy>) {
    remove_policy(policies, &policy.name);
    let policies = Arc::make_mut(policies);
    match policy.scope {
        PolicyScope::Global => {
            Arc::make_mut(&mut policies.global).insert(policy.name.clone(), policy.clone());
        }
        PolicyScope::Namespace => {
            let namespace = &policy.name.namespace;
            join(&mut policies.by_namespace, namespace, &policy.name, &policy);
        }
        PolicyScope::WorkloadSelector | PolicyScope::Targets => {}
    }
    policies.by_name.insert_mut(policy.name.clone(), policy);
}

fn remove_policy(policies: &mut Arc<Policies>, name: &ObjectName) {
    let Some(old) = policies.by_name.get(name).cloned() else {
        return;
    };
    let policies = Arc::make_mut(policies);
    policies.by_name.remove_mut(name);
    match old.scope {
        PolicyScope::Global => {
            Arc::make_mut(&mut policies.global).remove(name);
        }
        PolicyScope::Namespace => leave(&mut policies.by_namespace, &name.namespace, name),
        PolicyScope::WorkloadSelector | PolicyScope::Targets => {}
    }
}

fn remove_http_route(routes: &mut Routes, key: &ResourceKey) {
    let Some(old) = routes.http.get(key).cloned() else {
        return;
    };
    routes.http.remove_mut(key);
    for parent in parent_keys(&old.parents) {
        drop_from(&mut routes.http_by_parent, &parent, |r| r.name == old.name);
    }
}

fn remove_tcp_route(routes: &mut Routes, key: &ResourceKey) {
    let Some(old) = routes.tcp.get(key).cloned() else {
        return;
    };
    routes.tcp.remove_mut(key);
    for parent in parent_keys(&old.parents) {
        drop_from(&mut routes.tcp_by_parent, &parent, |r| r.name == old.name);
    }
}

fn addresses_of(workload: &Workload) -> impl Iterator<Item = NetworkAddress> {
    workload.addresses.iter().map(|address| NetworkAddress {
        network: workload.network.clone(),
        address: address.to_canonical(),
    })
}

fn parent_keys(parents: &[crate::ParentRef]) -> BTreeSet<ParentKey> {
    parents.iter().map(crate::ParentRef::key).collect()
}

/// Appends to the list of a key.
fn push<K: Eq + Hash + Clone, V: Clone>(table: &mut Table<K, Vec<V>>, key: K, value: V) {
    match table.get_mut(&key) {
        Some(list) => list.push(value),
        None => table.insert_mut(key, vec![value]),
    }
}

/// Puts a value into the list of a key, where its rank says.
fn place<K, V, R>(table: &mut Table<K, Vec<V>>, key: K, value: V, rank: impl Fn(&V) -> R)
where
    K: Eq + Hash + Clone,
    V: Clone,
    R: Ord,
{
    match table.get_mut(&key) {
        Some(list) => {
            let own = rank(&value);
            let at = list.partition_point(|other| rank(other) <= own);
            list.insert(at, value);
        }
        None => table.insert_mut(key, vec![value]),
    }
}

fn drop_from<K, Q, V>(table: &mut Table<K, Vec<V>>, key: &Q, gone: impl Fn(&V) -> bool)
where
    K: Eq + Hash + Clone + Borrow<Q>,
    Q: Eq + Hash + ?Sized,
    V: Clone,
{
    let Some(list) = table.get_mut(key) else {
        return;
    };
    list.retain(|v| !gone(v));
    if list.is_empty() {
        table.remove_mut(key);
    }
}

/// Puts a member into the group of a key.
fn join<K, M, V>(table: &mut Table<K, Group<M, V>>, key: &K, member: &M, value: &Arc<V>)
where
    K: Eq + Hash + Clone,
    M: Ord + Clone,
{
    if let Some(group) = table.get_mut(key) {
        Arc::make_mut(group).insert(member.clone(), value.clone());
        return;
    }
    let mut group = Group::default();
    Arc::make_mut(&mut group).insert(member.clone(), value.clone());
    table.insert_mut(key.clone(), group);
}

/// Takes a member out of the group of a key; an empty group goes.
fn leave<K, M, V>(table: &mut Table<K, Group<M, V>>, key: &K, member: &M)
where
    K: Eq + Hash + Clone,
    M: Ord + Clone,
{
    let Some(group) = table.get_mut(key) else {
        return;
    };
    Arc::make_mut(group).remove(member);
    if group.is_empty() {
        table.remove_mut(key);
    }
}
