//! Pure endpoint choice: which workload behind a service takes a connection.
//!
//! Source: interop/xds-workload.md section 7 (endpoint filters and ranking).

use mesh_model::{
    Dice, Health, HealthPolicy, LoadBalancingMode, Locality, RoutingScope, Service, ServicePort,
    Snapshot, Workload,
};
use std::net::SocketAddr;
use std::sync::Arc;

/// How many endpoints [`order`] gives at most: the first try and two more. More tries than that
/// multiply load on a service that is failing anyway.
pub const ORDER_MAX: usize = 3;

/// An endpoint and where its application listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The endpoint.
    pub workload: Arc<Workload>,
    /// Its address and target port.
    pub address: SocketAddr,
}

/// Where the client is, as far as that is known.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Its network: endpoints elsewhere cannot be reached from there.
    pub network: &'a str,
    /// Its workload, for locality.
    pub workload: Option<&'a Workload>,
}

impl<'a> From<&'a Workload> for Client<'a> {
    fn from(workload: &'a Workload) -> Self {
        Self {
            network: &workload.network,
            workload: Some(workload),
        }
    }
}

impl<'a> From<Option<&'a Workload>> for Client<'a> {
    fn from(workload: Option<&'a Workload>) -> Self {
        Self {
            network: workload.map_or("", |w| &w.network),
            workload,
        }
    }
}

/// Chooses an endpoint: usable ones only, the nearest as the service's preferences say, then by
/// chance in proportion to capacity.
pub fn choose<'a>(
    snapshot: &Snapshot,
    service: &Service,
    port: &ServicePort,
    client: impl Into<Client<'a>>,
    dice: &mut Dice,
) -> Option<Choice> {
    let client = client.into();
    let (mut best, mut best_rank, mut total) = (None, 0, 0u64);
    for (rank, choice) in usable(snapshot, service, port, client) {
        if best.is_none() || rank > best_rank {
            (best, best_rank, total) = (None, rank, 0);
        } else if rank < best_rank {
            continue;
        }
        // One pass, no list: each endpoint replaces the one held with probability weight / total.
        let weight = weight(&choice.workload);
        total += weight;
        if dice.below(total) < weight {
            best = Some(choice);
        }
    }
    best
}

/// The endpoints among which [`choose`] chooses, with their weights, in order of key.
pub fn candidates<'a>(
    snapshot: &Snapshot,
    service: &Service,
    port: &ServicePort,
    client: impl Into<Client<'a>>,
) -> Vec<(Choice, u32)> {
    let client = client.into();
    let all: Vec<(usize, Choice)> = usable(snapshot, service, port, client).collect();
    let best = all.iter().map(|(rank, _)| *rank).max();
    all.into_iter()
        .filter(|(rank, _)| Some(*rank) == best)
        .map(|(_, choice)| {
            let capacity = choice.workload.capacity.max(1);
            (choice, capacity)
        })
        .collect()
}

/// Up to [`ORDER_MAX`] different endpoints, the one to try first in front: nearer ones before
/// farther ones, within a distance by chance in proportion to capacity.
pub fn order<'a>(
    snapshot: &Snapshot,
    service: &Service,
    port: &ServicePort,
    client: impl Into<Client<'a>>,
    dice: &mut Dice,
) -> Vec<Choice> {
    let mut left: Vec<(usize, Choice)> = usable(snapshot, service, port, client.into()).collect();
    let mut ordered = Vec::new();
    while ordered.len() < ORDER_MAX && !left.is_empty() {
        let best = left.iter().map(|(rank, _)| *rank).max().unwrap_or(0);
        let (mut at, mut total) = (0, 0u64);
        for (n, (_, choice)) in left.iter().enumerate().filter(|(_, (r, _))| *r == best) {
            let weight = weight(&choice.workload);
            total += weight;
            if dice.below(total) < weight {
                at = n;
            }
        }
        ordered.push(left.swap_remove(at).1);
    }
    ordered
}

/// The port an endpoint serves a service's port on: its own map first, then the service's target
/// port; a workload with an application tunnel takes any port (interop/waypoint.md section 2).
pub fn target_port(workload: &Workload, service: &Service, port: &ServicePort) -> Option<u16> {
    let own = workload
        .services
        .get(&service.name)
        .and_then(|ports| ports.iter().find(|p| p.service_port == port.service_port))
        .map(|p| p.target_port)
        .filter(|p| *p != 0);
    own.or_else(|| Some(port.target_port).filter(|p| *p != 0))
        .or_else(|| workload.application_tunnel.map(|_| port.service_port))
}

/// The endpoints that can take a connection, each with how many preferences it meets.
fn usable<'a>(
    snapshot: &'a Snapshot,
    service: &'a Service,
    port: &'a ServicePort,
    client: Client<'a>,
) -> impl Iterator<Item = (usize, Choice)> + 'a {
    let balancing = &service.load_balancing;
    snapshot
        .endpoints(&service.name)
        .filter(|w| w.health == Health::Healthy || balancing.health == HealthPolicy::AllowAll)
        .filter(move |w| *w.network == *client.network)
        .filter_map(move |w| {
            let met = preferences_met(&balancing.preferences, client, w);
            let rank = match balancing.mode {
                LoadBalancingMode::Strict if met < balancing.preferences.len() => return None,
                LoadBalancingMode::Strict | LoadBalancingMode::Failover => met,
                LoadBalancingMode::Unspecified | LoadBalancingMode::Passthrough => 0,
            };
            let address = SocketAddr::new(w.address()?, target_port(w, service, port)?);
            let workload = w.clone();
            Some((rank, Choice { workload, address }))
        })
}

/// How many preferences hold, counted from the most important to the first that does not.
fn preferences_met(preferences: &[RoutingScope], client: Client<'_>, endpoint: &Workload) -> usize {
    preferences
        .iter()
        .take_while(|scope| same(**scope, client, endpoint))
        .count()
}

fn same(scope: RoutingScope, client: Client<'_>, endpoint: &Workload) -> bool {
    if scope == RoutingScope::Network {
        return *client.network == *endpoint.network;
    }
    let Some(from) = client.workload else {
        return false;
    };
    // A zone is one only within its region, a sub-zone only within its zone.
    let depth = |l: &Locality| (l.region.clone(), l.zone.clone(), l.subzone.clone());
    let (a, b) = (depth(&from.locality), depth(&endpoint.locality));
    match scope {
        RoutingScope::Region => a.0 == b.0,
        RoutingScope::Zone => (a.0, a.1) == (b.0, b.1),
        RoutingScope::Subzone => a == b,
        RoutingScope::Node => from.node == endpoint.node && from.cluster == endpoint.cluster,
        RoutingScope::Cluster => from.cluster == endpoint.cluster,
        RoutingScope::Network => true,
    }
}

fn weight(workload: &Workload) -> u64 {
    u64::from(workload.capacity.max(1))
}

#[cfg(test)]
mod tests;
