//! What a waypoint serves: interop/waypoint.md section 3.

use super::*;
use crate::testing::{at, behind, by_name, client, ip, mesh, name, pod, s, service, vip, w, wp};

fn served(authority: &str) -> Result<WaypointTarget, Reason> {
    let (mut shop, mut pod_bound) = (service("shop", 1), pod("bound", 5));
    shop.waypoint = Some(by_name("wp"));
    pod_bound.waypoint = Some(by_name("wp"));
    let mut elsewhere = service("cart", 2);
    elsewhere.waypoint = Some(by_name("other"));
    let mut all = vec![s(shop), s(elsewhere), w(pod_bound), w(pod("free", 6))];
    all.extend(wp());
    let snapshot = mesh(all);
    let me = snapshot.workload_at("", ip(9)).unwrap().clone();
    waypoint(&snapshot, &me, &authority.parse().unwrap()).map_err(|r| r.reason)
}

#[test]
fn it_serves_what_is_bound_to_it_by_address_or_name() {
    for authority in ["10.96.0.1:80", "shop.demo.svc.cluster.local:80"] {
        match served(authority) {
            Ok(WaypointTarget::Service { service, port }) => {
                assert_eq!((&service.name, port), (&name("shop"), 80));
            }
            other => panic!("{authority}: {other:?}"),
        }
    }
    match served("10.0.0.5:7000") {
        Ok(WaypointTarget::Workload { workload, address }) => {
            assert_eq!((&*workload.name, address), ("bound", at(ip(5), 7000)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_serves_nothing_else() {
    for authority in [
        "10.96.0.2:80",
        "10.0.0.6:80",
        "10.0.0.9:80",
        "10.99.0.1:80",
        "cart.demo.svc.cluster.local:80",
        "gone:80",
    ] {
        assert_eq!(
            served(authority),
            Err(Reason::WrongDestination),
            "{authority}"
        );
    }
}

#[test]
fn a_retry_goes_to_another_instance_of_the_same_waypoint() {
    let mut shop = service("shop", 1);
    shop.waypoint = Some(by_name("wp"));
    let mut all = vec![s(shop)];
    all.extend(wp());
    let from = client(&pod("frontend", 1));
    let dice = &mut Dice::seeded(1);
    let snapshot = mesh(all.clone());
    let first = crate::outbound(&snapshot, &from, at(vip(1), 80), dice).unwrap();
    assert_eq!(crate::retry_target(&snapshot, &from, &first, dice), None);
    let mut second = behind(pod("wp", 10), &["wp"]);
    second.uid = mesh_model::WorkloadUid("other".into());
    all.push(w(second));
    let snapshot = mesh(all);
    let other = crate::retry_target(&snapshot, &from, &first, dice).unwrap();
    assert_eq!(other.address, at(ip(10), 16008));
    assert_eq!((other.kind, other.transport), (first.kind, first.transport));
}

#[test]
fn a_retry_goes_to_another_endpoint_of_the_same_service() {
    let mut all = vec![
        s(service("shop", 1)),
        w(behind(pod("shop-1", 2), &["shop"])),
    ];
    let from = client(&pod("frontend", 1));
    let dice = &mut Dice::seeded(1);
    let snapshot = mesh(all.clone());
    let first = crate::outbound(&snapshot, &from, at(vip(1), 80), dice).unwrap();
    assert_eq!(crate::retry_target(&snapshot, &from, &first, dice), None);
    all.push(w(behind(pod("shop-2", 3), &["shop"])));
    let other = crate::retry_target(&mesh(all), &from, &first, dice).unwrap();
    assert_eq!(other.destination, at(ip(3), 8080));
}
