//! Each line of interop/hbone.md, "Double HBONE", and what must hold of every choice between networks.

use super::*;
use crate::testing::{at, behind, by_name, client, mesh, pod, port, s, service, vip, w};
use crate::{ExplainRequest, explain, outbound, retry_target};
use mesh_model::{LoadBalancingMode, NetworkAddress, Resource, RoutingScope, TunnelProtocol};
use proptest::prelude::*;

fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "demo", account).unwrap()
}

fn from() -> Client {
    client(&pod("frontend", 1)).across_networks()
}

/// A gateway of network `west`, reached at an address.
fn gateway_at(last: u8) -> GatewayAddress {
    GatewayAddress {
        destination: GatewayDestination::Address(NetworkAddress {
            network: "west".into(),
            address: crate::testing::ip(last),
        }),
        hbone_port: 15008,
    }
}

fn gateway(name: &str, last: u8) -> Workload {
    let mut w = pod(name, last);
    w.network = "west".into();
    w
}

/// An endpoint of `shop` on network `west`, behind the gateway at 10.0.0.99.
fn far(name: &str, last: u8) -> Workload {
    let mut w = behind(pod(name, last), &["shop"]);
    w.network = "west".into();
    w.network_gateway = Some(gateway_at(99));
    w
}

/// What Istio's control plane tells of another network: one workload for all there are.
fn stand_in() -> Workload {
    let mut w = far("shop-west", 0);
    w.addresses.clear();
    w.service_account = "default".into();
    w
}

fn plan(resources: Vec<Resource>) -> Result<Target, Refusal> {
    let dice = &mut Dice::seeded(1);
    outbound(&mesh(resources), &from(), at(vip(1), 80), dice)
}

#[test]
fn an_endpoint_on_another_network_is_reached_through_its_gateway_by_name() {
    let all = vec![
        s(service("shop", 1)),
        w(far("shop-1", 2)),
        w(gateway("gw", 99)),
    ];
    let target = plan(all.clone()).unwrap();
    assert_eq!(target.kind, TargetKind::NetworkGateway);
    assert_eq!(target.address, "10.0.0.99:15008".parse().unwrap());
    assert_eq!(target.endpoint(), target.address);
    assert_eq!(target.destination, at(vip(1), 80));
    assert_eq!(
        target.transport,
        Transport::DoubleHbone {
            authority: "shop.demo.svc.cluster.local:80".to_owned(),
            gateway: vec![id("gw")],
            expected: vec![id("shop-1")],
            from: "".into(),
        }
    );
    // A client whose proxy does not cross networks: as if it were not there.
    let stays = client(&pod("frontend", 1));
    let refused = outbound(&mesh(all), &stays, at(vip(1), 80), &mut Dice::seeded(1)).unwrap_err();
    assert_eq!(refused.reason, Reason::NoEndpoint);
}

#[test]
fn a_gateway_by_name_is_an_instance_of_its_service() {
    let mut gw = service("gw", 9);
    gw.ports = vec![port(15008, 16008, AppProtocol::Unknown)];
    let mut there = far("shop-1", 2);
    there.network_gateway = Some(by_name("gw"));
    let one = behind(gateway("gw-1", 98), &["gw"]);
    let two = behind(gateway("gw-2", 99), &["gw"]);
    let all = vec![s(service("shop", 1)), s(gw), w(there), w(one), w(two)];
    let snapshot = mesh(all);
    let dice = &mut Dice::seeded(1);
    let first = outbound(&snapshot, &from(), at(vip(1), 80), dice).unwrap();
    assert_eq!(first.address.port(), 16008);
    let second = retry_target(&snapshot, &from(), &first, dice).unwrap();
    assert_eq!(second.kind, TargetKind::NetworkGateway);
    assert_ne!(second.address, first.address);
}

#[test]
fn without_a_known_gateway_the_refusal_names_it_and_nothing_goes_in_plain_text() {
    let mut stranded = far("shop-1", 2);
    stranded.network_gateway = None;
    let refused = plan(vec![s(service("shop", 1)), w(stranded)]).unwrap_err();
    assert_eq!(refused.reason, Reason::NoNetworkGateway);
    assert!(refused.detail.contains("network west"), "{refused:?}");
    let refused = plan(vec![s(service("shop", 1)), w(far("shop-1", 2))]).unwrap_err();
    assert_eq!(refused.reason, Reason::NoNetworkGateway);
    assert!(refused.detail.contains("west/10.0.0.99"), "{refused:?}");
    let mut there = far("shop-1", 2);
    there.network_gateway = Some(by_name("gone"));
    let refused = plan(vec![s(service("shop", 1)), w(there)]).unwrap_err();
    assert!(refused.detail.contains("gone.demo"), "{refused:?}");
}

#[test]
fn one_unknown_gateway_does_not_hide_another_network() {
    let mut lost = far("shop-1", 2);
    lost.network_gateway = Some(by_name("gone"));
    let all = vec![
        s(service("shop", 1)),
        w(lost),
        w(far("shop-2", 3)),
        w(gateway("gw", 99)),
    ];
    for seed in 0..20 {
        let dice = &mut Dice::seeded(seed);
        let target = outbound(&mesh(all.clone()), &from(), at(vip(1), 80), dice).unwrap();
        assert_eq!(target.address, "10.0.0.99:15008".parse().unwrap());
    }
}

#[test]
fn what_stands_for_others_has_no_identity_of_its_own() {
    let all = |names: Vec<SpiffeId>| {
        let mut shop = service("shop", 1);
        shop.subject_alt_names = names;
        vec![s(shop), w(stand_in()), w(gateway("gw", 99))]
    };
    let refused = plan(all(Vec::new())).unwrap_err();
    assert_eq!(refused.reason, Reason::TlsFailure);
    let target = plan(all(vec![id("shop-there")])).unwrap();
    assert_eq!(target.transport.expected(), [id("shop-there")]);
}

#[test]
fn the_own_network_is_preferred_where_the_service_says_so() {
    let near = behind(pod("shop-0", 5), &["shop"]);
    let mut shop = service("shop", 1);
    shop.load_balancing.preferences = vec![RoutingScope::Network, RoutingScope::Zone];
    let kinds = |mode, near: &Workload| {
        let mut shop = shop.clone();
        shop.load_balancing.mode = mode;
        let all = vec![
            s(shop),
            w(near.clone()),
            w(stand_in()),
            w(far("shop-1", 2)),
            w(gateway("gw", 99)),
        ];
        let snapshot = mesh(all);
        let plan = |seed| outbound(&snapshot, &from(), at(vip(1), 80), &mut Dice::seeded(seed));
        let mut kinds: Vec<_> = (0..40).map(|seed| plan(seed).map(|t| t.kind)).collect();
        kinds.dedup();
        kinds
    };
    use LoadBalancingMode::{Failover, Strict, Unspecified};
    assert_eq!(kinds(Failover, &near), [Ok(TargetKind::Endpoint)]);
    assert!(kinds(Unspecified, &near).len() > 1);
    let mut sick = near;
    sick.health = mesh_model::Health::Unhealthy;
    assert_eq!(kinds(Failover, &sick), [Ok(TargetKind::NetworkGateway)]);
    let refused = kinds(Strict, &sick).remove(0).unwrap_err();
    assert_eq!(refused.reason, Reason::NoEndpoint);
}

#[test]
fn a_waypoint_on_another_network_is_reached_through_its_gateway_for_services_only() {
    let mut shop = service("shop", 1);
    shop.waypoint = Some(by_name("wp"));
    let mut wp = service("wp", 9);
    wp.ports = vec![port(15008, 15008, AppProtocol::Unknown)];
    let mut there = behind(pod("wp-1", 9), &["wp"]);
    there.network = "west".into();
    there.network_gateway = Some(gateway_at(99));
    let mut near = pod("other", 7);
    near.waypoint = Some(by_name("wp"));
    let all = vec![s(shop), s(wp), w(there), w(near), w(gateway("gw", 99))];
    let target = plan(all.clone()).unwrap();
    assert_eq!(target.kind, TargetKind::NetworkGateway);
    assert_eq!(
        target.transport.authority(),
        Some("shop.demo.svc.cluster.local:80")
    );
    assert_eq!(target.transport.expected(), [id("wp-1")]);
    let snapshot = mesh(all);
    let dice = &mut Dice::seeded(1);
    assert_eq!(retry_target(&snapshot, &from(), &target, dice), None);
    let to_pod = outbound(&snapshot, &from(), at(crate::testing::ip(7), 80), dice).unwrap_err();
    assert_eq!(to_pod.reason, Reason::NoWaypoint);
    assert!(to_pod.detail.contains("network west"), "{to_pod:?}");
}

/// The gateway's own view.
fn passed_on(
    resources: Vec<Resource>,
    authority: &str,
    from_waypoint: bool,
) -> Result<Target, Refusal> {
    let me = Client::of(&Arc::new(gateway("gw", 99)));
    let (snapshot, dice) = (mesh(resources), &mut Dice::seeded(1));
    network_gateway(
        &snapshot,
        &me,
        &authority.parse().unwrap(),
        from_waypoint,
        dice,
    )
}

#[test]
fn a_gateway_passes_on_to_endpoints_of_its_network_or_their_waypoint() {
    let here = |name: &str, last| {
        let mut w = behind(pod(name, last), &["shop"]);
        w.network = "west".into();
        w
    };
    let shop = "shop.demo.svc.cluster.local:80";
    let mut all = vec![
        s(service("shop", 1)),
        w(here("shop-1", 2)),
        w(behind(pod("shop-0", 5), &["shop"])),
    ];
    let target = passed_on(all.clone(), shop, false).unwrap();
    assert_eq!(target.address, "10.0.0.2:15008".parse().unwrap());
    for (asked, reason) in [
        ("10.0.0.2:8080", Reason::WrongDestination),
        ("other.demo.svc.cluster.local:80", Reason::WrongDestination),
        ("shop.demo.svc.cluster.local:81", Reason::NoEndpoint),
    ] {
        assert_eq!(
            passed_on(all.clone(), asked, false).unwrap_err().reason,
            reason,
            "{asked}"
        );
    }
    let mut legacy = here("shop-1", 2);
    legacy.protocol = TunnelProtocol::None;
    let plain = vec![s(service("shop", 1)), w(legacy)];
    assert_eq!(
        passed_on(plain, shop, false).unwrap_err().reason,
        Reason::NoEndpoint
    );

    let mut bound = service("shop", 1);
    bound.waypoint = Some(by_name("wp"));
    let mut wp = service("wp", 9);
    wp.ports = vec![port(15008, 15008, AppProtocol::Unknown)];
    let mut instance = behind(pod("wp-1", 9), &["wp"]);
    instance.network = "west".into();
    all.extend([s(bound), s(wp), w(instance)]);
    let target = passed_on(all.clone(), shop, false).unwrap();
    assert_eq!(
        (target.kind, target.address),
        (TargetKind::Waypoint, "10.0.0.9:15008".parse().unwrap())
    );
    assert_eq!(
        passed_on(all, shop, true).unwrap().kind,
        TargetKind::Endpoint
    );
}

#[test]
fn the_explanation_goes_through_the_gateway_to_the_far_end() {
    let question = ExplainRequest {
        from: "demo/frontend".to_owned(),
        to: "shop.demo.svc.cluster.local".to_owned(),
        port: 80,
        ..ExplainRequest::default()
    };
    let all = |there: Workload| {
        let mut shop = service("shop", 1);
        shop.subject_alt_names = vec![id("shop-1")];
        mesh([
            w(pod("frontend", 1)),
            s(shop),
            w(there),
            w(gateway("gw", 99)),
        ])
    };
    let answer = explain(&all(far("shop-1", 2)), &question);
    assert!(answer.allowed, "{answer:#?}");
    let hops: Vec<&str> = answer.hops.iter().map(|h| &*h.proxy).collect();
    assert_eq!(
        hops,
        [
            "ztunnel of demo/frontend",
            "gateway demo/gw of network west",
            "ztunnel of demo/shop-1"
        ]
    );
    assert_eq!(answer.hops[0].expected, [id("gw").to_string()]);
    assert_eq!(answer.hops[1].expected, [id("shop-1").to_string()]);
    assert_eq!(answer.hops[2].presented, Some(id("frontend").to_string()));
    let answer = explain(&all(stand_in()), &question);
    assert!(answer.allowed && answer.hops.len() == 2, "{answer:#?}");
    let mut stranger = far("shop-1", 2);
    stranger.network_gateway = None;
    let answer = explain(&all(stranger), &question);
    assert!(
        !answer.allowed && answer.reason == Reason::NoNetworkGateway,
        "{answer:#?}"
    );
}

proptest! {
    #[test]
    fn a_plan_crosses_networks_in_two_tunnels_or_not_at_all(
        ends in proptest::collection::vec((0..3u8, any::<bool>(), any::<bool>(), 0..3u8), 0..5),
        known in any::<[bool; 2]>(),
        seed in any::<u64>(),
    ) {
        let mut all = vec![s(service("shop", 1))];
        for (n, (network, addressed, tunnel, gateway)) in ends.iter().enumerate() {
            let last = 10 + u8::try_from(n).unwrap();
            let mut end = behind(pod(&format!("shop-{n}"), last), &["shop"]);
            end.network = ["", "west", "north"][usize::from(*network)].into();
            end.network_gateway = (*gateway > 0).then(|| gateway_at(97 + gateway));
            if !addressed {
                end.addresses.clear();
            }
            if !tunnel {
                end.protocol = TunnelProtocol::None;
            }
            all.push(w(end));
        }
        for (n, known) in known.iter().enumerate() {
            if *known {
                all.push(w(gateway("gw", 98 + u8::try_from(n).unwrap())));
            }
        }
        let snapshot = mesh(all);
        // The oracle: what can be reached here, and through which gateways.
        let near = ends.iter().any(|(network, addressed, _, _)| *network == 0 && *addressed);
        let through = |gateway: u8| known[usize::from(gateway - 1)];
        // Of a workload that stands for others it is not known whom to expect.
        let named = |network: u8| {
            ends.iter().any(|(of, addressed, _, _)| *of == network && *addressed)
        };
        let far = |(network, addressed, tunnel, gateway): &(u8, bool, bool, u8)| {
            let takes = !addressed || *tunnel;
            *network != 0 && *gateway > 0 && takes && through(*gateway) && named(*network)
        };
        let target = outbound(&snapshot, &from(), at(vip(1), 80), &mut Dice::seeded(seed));
        match target {
            Ok(target) if target.kind == TargetKind::NetworkGateway => {
                prop_assert!(ends.iter().any(far));
                let gateway = target.address.ip();
                let known_gateway = (1..3u8)
                    .any(|n| through(n) && gateway == crate::testing::ip(97 + n));
                prop_assert!(known_gateway, "{}", gateway);
                let double = matches!(target.transport, Transport::DoubleHbone { .. });
                prop_assert!(double);
                prop_assert!(!target.transport.expected().is_empty());
            }
            Ok(target) => {
                prop_assert!(near);
                prop_assert_eq!(&*target.workload.unwrap().network, "");
            }
            Err(_) => prop_assert!(!near, "something near is always found"),
        }
    }
}
