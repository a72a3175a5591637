//! Pure endpoint choice: which workload behind a service takes a connection.
//!
//! Source: interop/xds-workload.md section 7 (endpoint filters and ranking). Among endpoints that
//! can take it (on other networks too, as far as the client reaches them: [`Elsewhere`]), in this order: one that is not avoided ([`Ejections`]), the nearest as the service's
//! preferences say, then the one its source sticks to where the service asks for that, else by
//! chance in proportion to capacity.

mod across;
mod affinity;
mod ejection;

pub use ejection::{AVOID_MAX, AVOID_MIN, Avoided, ENDPOINTS_MAX, Ejected, Ejections};

use mesh_model::{
    Dice, Health, HealthPolicy, LoadBalancingMode, Locality, RoutingScope, Service, ServicePort,
    Snapshot, Workload,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// How many endpoints [`order`] gives at most: the first try and two more. More tries than that
/// multiply load on a service that is failing anyway.
pub const ORDER_MAX: usize = 3;

/// An endpoint and where its application listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The endpoint.
    pub workload: Arc<Workload>,
    /// Its address and target port. On another network the address is that network's, and the
    /// unspecified one where it is not known here.
    pub address: SocketAddr,
}

/// Which endpoints on other networks than the client's count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Elsewhere {
    /// None: nothing there can be reached.
    #[default]
    Nothing,
    /// Those that a network gateway leads to, whether or not their address is known.
    ByGateway,
    /// Those with an address: the gateways themselves, whose addresses every network reaches.
    Direct,
}

/// Where the client is, as far as that is known.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Its network.
    pub network: &'a str,
    /// What it can reach outside of that.
    pub elsewhere: Elsewhere,
    /// Its workload, for locality.
    pub workload: Option<&'a Workload>,
    /// The address the connection comes from, for services whose clients stick to an endpoint.
    pub source: Option<IpAddr>,
    /// Endpoints that it lately failed to reach.
    pub avoided: Option<&'a Avoided>,
}

impl<'a> From<&'a Workload> for Client<'a> {
    fn from(workload: &'a Workload) -> Self {
        Self {
            network: &workload.network,
            elsewhere: Elsewhere::Nothing,
            workload: Some(workload),
            source: None,
            avoided: None,
        }
    }
}

impl<'a> From<Option<&'a Workload>> for Client<'a> {
    fn from(workload: Option<&'a Workload>) -> Self {
        Self {
            network: workload.map_or("", |w| &w.network),
            elsewhere: Elsewhere::Nothing,
            workload,
            source: None,
            avoided: None,
        }
    }
}

/// How good an endpoint is for a client, apart from its weight: first whether it is not avoided, then
/// how many preferences it meets. Of a service whose endpoints are all avoided none is, in effect.
type Rank = (bool, usize);

/// Chooses an endpoint: usable ones only, those not avoided before others, the nearest as the
/// service's preferences say, then the one the source sticks to, or by chance in proportion to
/// capacity.
pub fn choose<'a>(
    snapshot: &Snapshot,
    service: &Service,
    port: &ServicePort,
    client: impl Into<Client<'a>>,
    dice: &mut Dice,
) -> Option<Choice> {
    let client = client.into();
    let mut pick = Pick::new(service, client);
    let mut best: Option<(Rank, Choice)> = None;
    // One pass, no list.
    for (rank, choice) in usable(snapshot, service, port, client) {
        match &best {
            Some((held, _)) if rank < *held => continue,
            Some((held, _)) if rank == *held => {}
            _ => pick = Pick::new(service, client),
        }
        // The first of a rank is always taken.
        if pick.takes(&choice.workload, dice) {
            best = Some((rank, choice));
        }
    }
    best.map(|(_, choice)| choice)
}

/// The endpoints among which [`choose`] chooses, with their weights, in order of key: one, where the
/// source sticks to it.
pub fn candidates<'a>(
    snapshot: &Snapshot,
    service: &Service,
    port: &ServicePort,
    client: impl Into<Client<'a>>,
) -> Vec<(Choice, u32)> {
    let client = client.into();
    let weighted = |choice: Choice| {
        let capacity = choice.workload.capacity.max(1);
        (choice, capacity)
    };
    if client.source.is_some() && service.sticky_by_source {
        // Chance has no say.
        let only = choose(snapshot, service, port, client, &mut Dice::seeded(0));
        return only.map(weighted).into_iter().collect();
    }
    let all: Vec<(Rank, Choice)> = usable(snapshot, service, port, client).collect();
    let best = all.iter().map(|(rank, _)| *rank).max();
    let of_best = all.into_iter().filter(|(rank, _)| Some(*rank) == best);
    of_best.map(|(_, choice)| weighted(choice)).collect()
}

/// Up to [`ORDER_MAX`] different endpoints, the one to try first in front: those not avoided before
/// others, nearer ones before farther ones, then as [`choose`] does. Of those behind one gateway of
/// another network there is one: which of them takes a connection is for the gateway to choose.
pub fn order<'a>(
    snapshot: &Snapshot,
    service: &Service,
    port: &ServicePort,
    client: impl Into<Client<'a>>,
    dice: &mut Dice,
) -> Vec<Choice> {
    let client = client.into();
    let mut left: Vec<(Rank, Choice)> = usable(snapshot, service, port, client).collect();
    let mut ordered = Vec::new();
    while ordered.len() < ORDER_MAX && !left.is_empty() {
        let best = left.iter().map(|(rank, _)| *rank).max();
        let mut pick = Pick::new(service, client);
        let mut at = 0;
        for (n, (rank, choice)) in left.iter().enumerate() {
            if Some(*rank) == best && pick.takes(&choice.workload, dice) {
                at = n;
            }
        }
        let choice = left.swap_remove(at).1;
        if let Some(Some(gateway)) = across::gateway(&choice.workload, client) {
            let behind = |w: &Workload| across::gateway(w, client) == Some(Some(gateway));
            left.retain(|(_, other)| !behind(&other.workload));
        }
        ordered.push(choice);
    }
    ordered
}

/// The choice among endpoints of one rank, which are shown one after another.
enum Pick {
    /// The total weight so far: each endpoint replaces the one held with probability weight / total.
    Chance(u64),
    /// The source, and the highest score so far.
    Sticky(IpAddr, f64),
}

impl Pick {
    fn new(service: &Service, client: Client<'_>) -> Self {
        match client.source {
            Some(source) if service.sticky_by_source => Self::Sticky(source, f64::NEG_INFINITY),
            _ => Self::Chance(0),
        }
    }

    /// Whether this one replaces the one held.
    fn takes(&mut self, endpoint: &Workload, dice: &mut Dice) -> bool {
        match self {
            Self::Chance(total) => {
                let weight = u64::from(endpoint.capacity.max(1));
                *total += weight;
                dice.below(*total) < weight
            }
            Self::Sticky(source, highest) => {
                let score = affinity::score(*source, endpoint);
                let higher = score > *highest;
                if higher {
                    *highest = score;
                }
                higher
            }
        }
    }
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

/// The endpoints that can take a connection, each with its rank.
fn usable<'a>(
    snapshot: &'a Snapshot,
    service: &'a Service,
    port: &'a ServicePort,
    client: Client<'a>,
) -> impl Iterator<Item = (Rank, Choice)> + 'a {
    let balancing = &service.load_balancing;
    snapshot
        .endpoints(&service.name)
        .filter(|w| w.health == Health::Healthy || balancing.health == HealthPolicy::AllowAll)
        .filter_map(move |w| {
            let gateway = across::gateway(w, client)?;
            let rank = match balancing.mode {
                LoadBalancingMode::Strict => strict_rank(&balancing.preferences, client, w)?,
                LoadBalancingMode::Failover => rank(&balancing.preferences, client, w),
                LoadBalancingMode::Unspecified | LoadBalancingMode::Passthrough => 0,
            };
            let ip = match (w.address(), gateway) {
                (Some(ip), _) => ip,
                (None, Some(_)) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                (None, None) => return None,
            };
            let address = SocketAddr::new(ip, target_port(w, service, port)?);
            let avoided = client.avoided.is_some_and(|avoided| match gateway {
                Some(gateway) => across::avoided(snapshot, gateway, avoided),
                None => avoided.contains(&address),
            });
            let workload = w.clone();
            Some(((!avoided, rank), Choice { workload, address }))
        })
}

/// The rank of an endpoint that meets every preference; none of any other.
fn strict_rank(preferences: &[RoutingScope], client: Client<'_>, w: &Workload) -> Option<usize> {
    let met = preferences_met(preferences, client, w);
    (met == preferences.len()).then_some(met)
}

/// How near an endpoint is. Where the network comes first, one on the client's own outranks all on
/// others, and those are told apart by the preferences that follow.
fn rank(preferences: &[RoutingScope], client: Client<'_>, endpoint: &Workload) -> usize {
    match preferences {
        [RoutingScope::Network, rest @ ..] => {
            let own = if same(RoutingScope::Network, client, endpoint) {
                preferences.len()
            } else {
                0
            };
            own + preferences_met(rest, client, endpoint)
        }
        _ => preferences_met(preferences, client, endpoint),
    }
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

#[cfg(test)]
mod tests;
