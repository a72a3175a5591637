//! Endpoints on several networks, against a naive oracle.

use super::{balancing, endpoint, mesh, name, port, service};
use crate::{Choice, Client, Elsewhere, candidates, choose, order};
use mesh_model::{
    Dice, GatewayAddress, GatewayDestination, Health, HealthPolicy, LoadBalancingMode,
    NetworkAddress, RoutingScope, TunnelProtocol, Workload,
};
use proptest::prelude::*;
use proptest::sample::select;
use std::net::IpAddr;

fn gateway(last: u8) -> GatewayAddress {
    GatewayAddress {
        destination: GatewayDestination::Address(NetworkAddress {
            network: "west".into(),
            address: IpAddr::from([10, 9, 0, last]),
        }),
        hbone_port: 15008,
    }
}

prop_compose! {
    fn placed(n: u8)(
        mut w in endpoint(n),
        network in select(vec!["", "west", "north"]),
        behind in 0..3u8,
        tunnel in any::<bool>(),
    ) -> Workload {
        w.network = network.into();
        w.network_gateway = (behind > 0).then(|| gateway(behind));
        w.protocol = if tunnel { TunnelProtocol::Hbone } else { TunnelProtocol::None };
        w
    }
}

fn all() -> impl Strategy<Value = Vec<Workload>> {
    (0..7u8).prop_flat_map(|n| (0..n).map(placed).collect::<Vec<_>>())
}

/// Points, more for nearer ones: one on the own network has more than any other where that is the
/// first wish; each further wish in a row is worth one.
fn points(wishes: &[RoutingScope], client: &Workload, w: &Workload) -> usize {
    let first = wishes.first() == Some(&RoutingScope::Network);
    let own = client.network == w.network;
    let rest = if first { &wishes[1..] } else { wishes };
    let run = super::rank(rest, client, w);
    if first && own { 100 + run } else { run }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_elsewhere_counts_as_far_as_it_is_reached(
        all in all(),
        client in placed(99),
        balancing in balancing(),
        elsewhere in select(vec![Elsewhere::Nothing, Elsewhere::ByGateway, Elsewhere::Direct]),
        seed in any::<u64>(),
    ) {
        let mut s = service();
        s.load_balancing = balancing.clone();
        s.ports = vec![port()];
        let snapshot = mesh(&s, &all);
        let from = Client { elsewhere, ..Client::from(&client) };
        let far = |w: &Workload| w.network != client.network;
        let reached = |w: &Workload| match (far(w), elsewhere) {
            (false, _) | (true, Elsewhere::Direct) => !w.addresses.is_empty(),
            (true, Elsewhere::Nothing) => false,
            (true, Elsewhere::ByGateway) => {
                w.network_gateway.is_some()
                    && (w.addresses.is_empty() || w.protocol == TunnelProtocol::Hbone)
            }
        };
        let well = |w: &Workload| w.health == Health::Healthy || balancing.health == HealthPolicy::AllowAll;
        let mut good: Vec<&Workload> = all.iter().filter(|w| well(w) && reached(w)).collect();
        if balancing.mode == LoadBalancingMode::Strict {
            let wishes = &balancing.preferences;
            good.retain(|w| super::rank(wishes, &client, w) == wishes.len());
        }
        let near = |w: &Workload| match balancing.mode {
            LoadBalancingMode::Failover => points(&balancing.preferences, &client, w),
            _ => 0,
        };
        let best = good.iter().map(|w| near(w)).max();
        let expected: Vec<_> = good.iter().filter(|w| Some(near(w)) == best).map(|w| &w.uid).collect();
        let listed = candidates(&snapshot, &s, &port(), from);
        let got: Vec<_> = listed.iter().map(|(c, _)| &c.workload.uid).collect();
        prop_assert_eq!(got, expected);

        let choice = choose(&snapshot, &s, &port(), from, &mut Dice::seeded(seed));
        prop_assert_eq!(choice.is_some(), !good.is_empty());
        prop_assert!(choice.is_none_or(|c| listed.iter().any(|(l, _)| *l == c)));

        // In an order each gateway leads once.
        let ordered = order(&snapshot, &s, &port(), from, &mut Dice::seeded(seed));
        let through = |c: &&Choice| elsewhere == Elsewhere::ByGateway && far(&c.workload);
        let mut gateways: Vec<_> = ordered.iter().filter(through).map(|c| &c.workload.network_gateway).collect();
        let count = gateways.len();
        gateways.sort_by_key(|g| format!("{g:?}"));
        gateways.dedup();
        prop_assert_eq!(gateways.len(), count);
        prop_assert_eq!(ordered.is_empty(), good.is_empty());
        prop_assert!(ordered.is_sorted_by_key(|c| usize::MAX - near(&c.workload)));
        prop_assert!(ordered.iter().all(|c| c.workload.services.contains_key(&name())));
    }
}
