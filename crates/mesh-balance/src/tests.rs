//! What must hold of every choice, and shares by capacity.

mod across;
mod sticky;

use super::*;
use mesh_model::{
    AppProtocol, ApplicationTunnel, LoadBalancing, Resource, ServiceName, SnapshotBuilder,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use std::net::IpAddr;

fn name() -> ServiceName {
    ServiceName::new("demo", "shop.demo")
}

fn port() -> ServicePort {
    ServicePort {
        service_port: 80,
        target_port: 8080,
        app_protocol: AppProtocol::Unknown,
    }
}

fn service() -> Service {
    let mut s = Service::new(name(), "shop");
    s.ports = vec![port()];
    s
}

fn workload(n: u8) -> Workload {
    let mut w = Workload::new(&format!("uid-{n}"), "demo", &format!("pod-{n}"));
    w.addresses = vec![IpAddr::from([10, 0, 0, n])];
    w.services.insert(name(), Vec::new());
    w
}

fn mesh(service: &Service, workloads: &[Workload]) -> Arc<Snapshot> {
    let mut builder = SnapshotBuilder::new();
    builder.upsert(Resource::Service(Arc::new(service.clone())));
    for w in workloads {
        builder.upsert(Resource::Workload(Arc::new(w.clone())));
    }
    builder.snapshot()
}

#[test]
fn ports_come_from_the_endpoint_then_the_service_then_the_tunnel() {
    let mut w = workload(1);
    let named = ServicePort {
        target_port: 0,
        ..port()
    };
    assert_eq!(target_port(&w, &service(), &port()), Some(8080));
    assert_eq!(target_port(&w, &service(), &named), None);
    w.services.insert(
        name(),
        vec![ServicePort {
            target_port: 9090,
            ..port()
        }],
    );
    assert_eq!(target_port(&w, &service(), &port()), Some(9090));
    assert_eq!(target_port(&w, &service(), &named), Some(9090));
    w.services.insert(name(), vec![named]);
    w.application_tunnel = Some(ApplicationTunnel {
        proxy_protocol: true,
        port: None,
    });
    assert_eq!(target_port(&w, &service(), &named), Some(80));
}

#[test]
fn shares_follow_capacity() {
    let (light, mut heavy) = (workload(1), workload(2));
    heavy.capacity = 3;
    let s = service();
    let snapshot = mesh(&s, &[light, heavy.clone()]);
    let mut dice = Dice::seeded(1);
    let mut count = 0;
    for _ in 0..4000 {
        let choice = choose(&snapshot, &s, &port(), None, &mut dice).unwrap();
        count += u32::from(choice.workload.uid == heavy.uid);
    }
    assert!(
        (2850..3150).contains(&count),
        "{count} of 4000 instead of about 3000"
    );
}

#[test]
fn endpoints_without_address_or_elsewhere_are_passed_over() {
    let (mut nowhere, mut west) = (workload(1), workload(2));
    nowhere.addresses.clear();
    west.network = "west".into();
    let s = service();
    let snapshot = mesh(&s, &[nowhere, west.clone()]);
    let mut dice = Dice::seeded(1);
    assert_eq!(choose(&snapshot, &s, &port(), None, &mut dice), None);
    let there = choose(&snapshot, &s, &port(), &west, &mut dice).unwrap();
    assert_eq!(there.workload.uid, west.uid);
}

#[test]
fn failover_goes_near_first_and_order_goes_on_from_there() {
    let mut client = workload(9);
    client.locality.region = "r1".into();
    client.locality.zone = "z1".into();
    let near = Workload {
        locality: client.locality.clone(),
        ..workload(1)
    };
    let mut far = workload(2);
    far.locality.region = "r1".into();
    let mut s = service();
    s.load_balancing = LoadBalancing {
        preferences: vec![RoutingScope::Region, RoutingScope::Zone],
        mode: LoadBalancingMode::Failover,
        health: HealthPolicy::OnlyHealthy,
    };
    let snapshot = mesh(&s, &[near, far, workload(3)]);
    for seed in 0..20 {
        let order = order(&snapshot, &s, &port(), &client, &mut Dice::seeded(seed));
        let names: Vec<&str> = order.iter().map(|c| &*c.workload.name).collect();
        assert_eq!(names, ["pod-1", "pod-2", "pod-3"]);
    }
}

fn scope() -> impl Strategy<Value = RoutingScope> {
    select(vec![
        RoutingScope::Region,
        RoutingScope::Zone,
        RoutingScope::Subzone,
        RoutingScope::Node,
        RoutingScope::Cluster,
        RoutingScope::Network,
    ])
}

fn balancing() -> impl Strategy<Value = LoadBalancing> {
    let mode = select(vec![
        LoadBalancingMode::Unspecified,
        LoadBalancingMode::Strict,
        LoadBalancingMode::Failover,
    ]);
    let health = select(vec![HealthPolicy::OnlyHealthy, HealthPolicy::AllowAll]);
    (vec(scope(), 0..4), mode, health).prop_map(|(preferences, mode, health)| LoadBalancing {
        preferences,
        mode,
        health,
    })
}

prop_compose! {
    fn endpoint(n: u8)(
        healthy in any::<bool>(),
        (region, zone, subzone) in ("[ab]", "[ab]", "[ab]"),
        (node, cluster) in ("[ab]", "[ab]"),
        network in select(vec!["", "", "west"]),
        capacity in 0..4u32,
        addressed in 0..5u8,
        target in select(vec![0u16, 9000]),
    ) -> Workload {
        let mut w = workload(n);
        if !healthy {
            w.health = Health::Unhealthy;
        }
        w.locality = Locality { region: region.into(), zone: zone.into(), subzone: subzone.into() };
        (w.node, w.cluster, w.network) = (node.into(), cluster.into(), network.into());
        w.capacity = capacity;
        if addressed == 0 {
            w.addresses.clear();
        }
        w.services.insert(name(), vec![ServicePort { target_port: target, ..port() }]);
        w
    }
}

fn endpoints() -> impl Strategy<Value = Vec<Workload>> {
    (0..6u8).prop_flat_map(|n| (0..n).map(endpoint).collect::<Vec<_>>())
}

/// The length of the longest run of leading preferences that hold, written apart from the code.
fn rank(preferences: &[RoutingScope], a: &Workload, b: &Workload) -> usize {
    let place = |w: &Workload, scope| match scope {
        RoutingScope::Region => vec![w.locality.region.clone()],
        RoutingScope::Zone => vec![w.locality.region.clone(), w.locality.zone.clone()],
        RoutingScope::Subzone => vec![
            w.locality.region.clone(),
            w.locality.zone.clone(),
            w.locality.subzone.clone(),
        ],
        RoutingScope::Node => vec![w.cluster.clone(), w.node.clone()],
        RoutingScope::Cluster => vec![w.cluster.clone()],
        RoutingScope::Network => vec![w.network.clone()],
    };
    let met = |scope: &RoutingScope| place(a, *scope) == place(b, *scope);
    preferences
        .iter()
        .position(|s| !met(s))
        .unwrap_or(preferences.len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_choice_is_usable_and_the_best_there_is(
        all in endpoints(),
        client in endpoint(99),
        balancing in balancing(),
        named in any::<bool>(),
        avoid in vec(any::<bool>(), 6),
        sticky in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut s = service();
        s.load_balancing = balancing.clone();
        let port = ServicePort { target_port: if named { 0 } else { 8080 }, ..port() };
        s.ports = vec![port];
        s.sticky_by_source = sticky;
        let snapshot = mesh(&s, &all);
        let bad = |w: &Workload| {
            let n: usize = w.name.strip_prefix("pod-").unwrap().parse().unwrap();
            avoid[n]
        };
        let avoided: Avoided = all
            .iter()
            .filter(|w| bad(w))
            .filter_map(|w| {
                let target = w.services[&name()][0].target_port;
                let target = if target == 0 { port.target_port } else { target };
                Some(SocketAddr::new(w.address()?, target))
            })
            .collect();
        let from = Client {
            source: Some(IpAddr::from([10, 1, 0, 1])),
            avoided: Some(&avoided),
            ..Client::from(&client)
        };
        let usable = |w: &Workload| {
            (w.health == Health::Healthy || balancing.health == HealthPolicy::AllowAll)
                && w.network == client.network
                && !w.addresses.is_empty()
                && (!named || w.services[&name()][0].target_port != 0)
        };
        let of = |w: &Workload| rank(&balancing.preferences, &client, w);
        let mut good: Vec<&Workload> = all.iter().filter(|w| usable(w)).collect();
        if balancing.mode == LoadBalancingMode::Strict {
            good.retain(|w| of(w) == balancing.preferences.len());
        }
        let near = |w: &Workload| match balancing.mode {
            LoadBalancingMode::Failover => of(w),
            _ => 0,
        };
        // The oracle: all that are not avoided, or all if that is none; of them the nearest.
        let mut left: Vec<&Workload> = good.iter().copied().filter(|w| !bad(w)).collect();
        if left.is_empty() {
            left = good.clone();
        }
        let best = left.iter().map(|w| near(w)).max().unwrap_or(0);
        let listed = candidates(&snapshot, &s, &port, from);
        let expected: Vec<_> = left.iter().filter(|w| near(w) == best).map(|w| &w.uid).collect();
        let got: Vec<_> = listed.iter().map(|(c, _)| &c.workload.uid).collect();
        if sticky {
            prop_assert_eq!(got.len(), expected.len().min(1));
            prop_assert!(got.iter().all(|uid| expected.contains(uid)));
        } else {
            prop_assert_eq!(got, expected);
        }
        prop_assert!(listed.iter().all(|(c, weight)| *weight == c.workload.capacity.max(1)));

        let choice = choose(&snapshot, &s, &port, from, &mut Dice::seeded(seed));
        prop_assert_eq!(choice.is_some(), !good.is_empty());
        if let Some(choice) = &choice {
            prop_assert!(listed.iter().any(|(c, _)| c == choice));
            prop_assert!(choice.address.port() != 0);
        }

        let ordered = order(&snapshot, &s, &port, from, &mut Dice::seeded(seed));
        prop_assert_eq!(ordered.len(), good.len().min(ORDER_MAX));
        let mut uids: Vec<_> = ordered.iter().map(|c| c.workload.uid.clone()).collect();
        uids.sort();
        uids.dedup();
        prop_assert_eq!(uids.len(), ordered.len());
        prop_assert!(ordered.iter().all(|c| good.iter().any(|w| w.uid == c.workload.uid)));
        let key = |c: &Choice| (bad(&c.workload), usize::MAX - near(&c.workload));
        prop_assert!(ordered.is_sorted_by_key(key));
        if sticky {
            // Chance has no say, and the order starts with the choice.
            let again = choose(&snapshot, &s, &port, from, &mut Dice::seeded(!seed));
            prop_assert_eq!(&again, &choice);
            prop_assert_eq!(ordered.first(), choice.as_ref());
        }
    }
}
