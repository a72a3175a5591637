//! Each line of interop/waypoint.md section 2 and interop/xds-workload.md section 7.

use super::*;
use crate::testing::{
    at, behind, by_name, client, ip, mesh, name, pod, port, s, service, vip, w, wp,
};
use crate::{SidecarPlan, sidecar_destination};
use mesh_model::{
    Health, NetworkAddress, Reason, Resource, SnapshotBuilder, SpiffeId, WeightedWaypoint, Workload,
};

fn frontend() -> Workload {
    pod("frontend", 1)
}

fn plan(resources: Vec<Resource>, destination: SocketAddr) -> Result<Target, Refusal> {
    let dice = &mut Dice::seeded(1);
    outbound(&mesh(resources), &client(&frontend()), destination, dice)
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "demo", account).unwrap()
}

fn hbone(authority: &str, expected: &[&str]) -> Transport {
    Transport::Hbone {
        authority: authority.to_owned(),
        expected: expected.iter().map(|a| id(a)).collect(),
    }
}

#[test]
fn an_unknown_address_passes_through() {
    let target = plan(vec![], at(ip(50), 80)).unwrap();
    assert_eq!(target.kind, TargetKind::Passthrough);
    assert_eq!(target.transport, Transport::Plain);
    assert_eq!(target.address, at(ip(50), 80));
}

#[test]
fn a_service_goes_to_an_endpoint_that_may_prove_its_own_or_the_services_names() {
    let mut shop = service("shop", 1);
    shop.subject_alt_names = vec![id("extra")];
    let target = plan(
        vec![s(shop), w(behind(pod("shop-1", 2), &["shop"]))],
        at(vip(1), 80),
    )
    .unwrap();
    assert_eq!(target.kind, TargetKind::Endpoint);
    assert_eq!(target.address, at(ip(2), 15008));
    assert_eq!(target.destination, at(ip(2), 8080));
    assert_eq!(target.service_port, Some(80));
    assert_eq!(
        target.transport,
        hbone("10.0.0.2:8080", &["shop-1", "extra"])
    );
}

#[test]
fn a_mapped_address_is_the_address_it_stands_for() {
    let mapped = "[::ffff:10.96.0.1]:80".parse().unwrap();
    let target = plan(
        vec![
            s(service("shop", 1)),
            w(behind(pod("shop-1", 2), &["shop"])),
        ],
        mapped,
    );
    assert_eq!(target.unwrap().address, at(ip(2), 15008));
}

#[test]
fn an_endpoint_outside_the_mesh_gets_plain_bytes() {
    let mut legacy = behind(pod("shop-1", 2), &["shop"]);
    legacy.protocol = TunnelProtocol::None;
    let target = plan(vec![s(service("shop", 1)), w(legacy)], at(vip(1), 80)).unwrap();
    assert_eq!(target.transport, Transport::Plain);
    assert_eq!(target.address, at(ip(2), 8080));
}

#[test]
fn a_known_service_without_endpoint_or_port_fails() {
    let mut sick = behind(pod("shop-1", 2), &["shop"]);
    sick.health = Health::Unhealthy;
    let all = vec![s(service("shop", 1)), w(sick)];
    assert_eq!(
        plan(all.clone(), at(vip(1), 80)).unwrap_err().reason,
        Reason::NoEndpoint
    );
    assert_eq!(
        plan(all, at(vip(1), 81)).unwrap_err().reason,
        Reason::NoEndpoint
    );
}

#[test]
fn a_passthrough_service_keeps_the_address() {
    let mut shop = service("shop", 1);
    shop.load_balancing.mode = LoadBalancingMode::Passthrough;
    let target = plan(vec![s(shop)], at(vip(1), 99)).unwrap();
    assert_eq!(target.kind, TargetKind::Passthrough);
    assert_eq!(target.address, at(vip(1), 99));
    assert!(target.service.is_some());
}

#[test]
fn a_service_waypoint_gets_the_original_address_through_its_mapped_port() {
    let mut shop = service("shop", 1);
    shop.waypoint = Some(by_name("wp"));
    let mut all = vec![s(shop), w(behind(pod("shop-1", 2), &["shop"]))];
    let refused = plan(all.clone(), at(vip(1), 80)).unwrap_err();
    assert_eq!(
        refused.reason,
        Reason::NoWaypoint,
        "unknown waypoint: {refused:?}"
    );
    all.extend(wp());
    let target = plan(all.clone(), at(vip(1), 80)).unwrap();
    assert_eq!(target.kind, TargetKind::Waypoint);
    assert_eq!(target.address, at(ip(9), 16008));
    assert_eq!(target.destination, at(vip(1), 80));
    assert_eq!(target.transport, hbone("10.96.0.1:80", &["wp"]));
    assert_eq!(target.service.unwrap().name, name("shop"));
    // The same holds for a sidecar, which must not read HTTP past it.
    let snapshot = mesh(all);
    let from = client(&frontend());
    assert_eq!(
        sidecar_destination(&snapshot, &from, at(vip(1), 80)),
        SidecarPlan::L4
    );
}

#[test]
fn a_waypoint_without_endpoints_is_not_passed_by() {
    let mut shop = service("shop", 1);
    shop.waypoint = Some(by_name("wp"));
    let [service, _] = wp().try_into().unwrap();
    let all = vec![s(shop), w(behind(pod("shop-1", 2), &["shop"])), service];
    let refused = plan(all, at(vip(1), 80)).unwrap_err();
    assert_eq!(refused.reason, Reason::NoWaypoint);
}

#[test]
fn a_waypoint_may_be_named_by_address() {
    for address in [vip(9), ip(9)] {
        let mut shop = service("shop", 1);
        let network = "".into();
        shop.waypoint = Some(GatewayAddress {
            destination: mesh_model::GatewayDestination::Address(NetworkAddress {
                network,
                address,
            }),
            hbone_port: 15008,
        });
        let mut all = vec![s(shop)];
        all.extend(wp());
        let target = plan(all, at(vip(1), 80)).unwrap();
        let port = if address == vip(9) { 16008 } else { 15008 };
        assert_eq!(target.address, at(ip(9), port));
        assert_eq!(target.transport, hbone("10.96.0.1:80", &["wp"]));
    }
}

#[test]
fn a_service_waypoint_is_not_passed_by_where_the_address_is_the_endpoints_own() {
    let mut outside = service("outside", 1);
    outside.vips = vec![("".into(), mesh_model::Cidr::host(ip(2)))];
    outside.waypoint = Some(by_name("wp"));
    let endpoint = behind(pod("outside-1", 2), &["outside"]);
    let mut all = vec![s(outside), w(endpoint.clone())];
    all.extend(wp());
    let target = plan(all.clone(), at(ip(2), 80)).unwrap();
    assert_eq!(target.kind, TargetKind::Waypoint);
    assert_eq!(target.transport, hbone("10.0.0.2:80", &["wp"]));
    // The waypoint takes it for the service's, and goes direct itself.
    let snapshot = mesh(all);
    let me = snapshot.workload_at("", ip(9)).unwrap();
    let asked = crate::Authority::Address(at(ip(2), 80));
    let served = crate::waypoint(&snapshot, me, &asked).unwrap();
    assert!(matches!(
        served,
        crate::WaypointTarget::Service { port: 80, .. }
    ));
    let dice = &mut Dice::seeded(1);
    let direct = outbound(&snapshot, &client(me), at(ip(2), 80), dice).unwrap();
    assert_eq!(direct.kind, TargetKind::Endpoint);
    // Its own waypoint comes first where it has one.
    let mut bound = endpoint;
    bound.waypoint = Some(by_name("other"));
    let mut builder = SnapshotBuilder::new();
    for resource in snapshot.resources().into_iter().chain([w(bound)]) {
        builder.upsert(resource);
    }
    let from = client(&frontend());
    let refused = outbound(&builder.snapshot(), &from, at(ip(2), 80), dice).unwrap_err();
    assert_eq!(refused.reason, Reason::NoWaypoint);
}

#[test]
fn a_workload_waypoint_serves_pod_addresses_only_and_not_its_own_traffic() {
    let mut shop = behind(pod("shop-1", 2), &["shop"]);
    shop.waypoint = Some(by_name("wp"));
    let mut all = vec![s(service("shop", 1)), w(shop)];
    all.extend(wp());
    let snapshot = mesh(all);
    let dice = &mut Dice::seeded(1);
    let from = client(&frontend());
    let by_pod = outbound(&snapshot, &from, at(ip(2), 7000), dice).unwrap();
    assert_eq!(by_pod.kind, TargetKind::Waypoint);
    assert_eq!(by_pod.transport, hbone("10.0.0.2:7000", &["wp"]));
    let by_service = outbound(&snapshot, &from, at(vip(1), 80), dice).unwrap();
    assert_eq!(by_service.kind, TargetKind::Endpoint);
    let itself = client(snapshot.workload_at("", ip(9)).unwrap());
    let direct = outbound(&snapshot, &itself, at(ip(2), 7000), dice).unwrap();
    assert_eq!(direct.kind, TargetKind::Endpoint);
    assert_eq!(direct.transport, hbone("10.0.0.2:7000", &["shop-1"]));
}

#[test]
fn weighted_waypoints_share_by_weight() {
    let mut shop = service("shop", 1);
    shop.waypoint = Some(by_name("gone"));
    shop.weighted_waypoints = vec![
        WeightedWaypoint {
            destination: by_name("gone"),
            weight: 0,
        },
        WeightedWaypoint {
            destination: by_name("wp"),
            weight: 7,
        },
    ];
    let mut all = vec![s(shop)];
    all.extend(wp());
    let snapshot = mesh(all);
    let from = client(&frontend());
    for seed in 0..50 {
        let target = outbound(&snapshot, &from, at(vip(1), 80), &mut Dice::seeded(seed));
        assert_eq!(target.unwrap().address, at(ip(9), 16008));
    }
}

#[test]
fn a_sidecar_reads_http_only_where_the_port_may_speak_it() {
    let mut shop = service("shop", 1);
    shop.ports.push(port(443, 8443, AppProtocol::Tls));
    shop.ports.push(port(90, 9090, AppProtocol::Unknown));
    let snapshot = mesh(vec![s(shop), w(pod("shop-1", 2))]);
    let from = client(&frontend());
    let reads = |to| {
        matches!(
            sidecar_destination(&snapshot, &from, to),
            SidecarPlan::Service(_)
        )
    };
    assert!(reads(at(vip(1), 80)));
    assert!(reads(at(vip(1), 90)));
    assert!(!reads(at(vip(1), 443)));
    assert!(!reads(at(vip(1), 81)));
    assert!(!reads(at(ip(2), 80)));
    assert!(!reads(at(ip(77), 80)));
}

#[test]
fn what_does_not_come_from_the_pods_own_address_is_not_carried_within_the_node() {
    let on_node = |mut pod: Workload| {
        pod.node = "n1".into();
        pod
    };
    let mut from = on_node(frontend());
    from.addresses.push("fd00::1".parse().unwrap());
    let resources = vec![w(from.clone()), w(on_node(pod("shop-1", 2)))];
    let snapshot = mesh(resources);
    let client = client(&from);
    let target = outbound(&snapshot, &client, at(ip(2), 80), &mut Dice::seeded(1)).unwrap();
    let carried = |source: Option<&str>| {
        let source: Option<IpAddr> = source.map(|s| s.parse().unwrap());
        same_node(&client.clone().from_address(source), &target)
    };
    for own in ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1"] {
        assert!(carried(Some(own)), "{own}");
    }
    for other in ["10.0.0.2", "10.0.0.9", "127.0.0.1", "fd00::2"] {
        assert!(!carried(Some(other)), "{other}");
    }
    assert!(!carried(None));
}
