//! What must hold of every plan, whatever the mesh looks like.

use crate::testing::{at, behind, by_name, client, ip, mesh, pod, s, service, vip, w, wp};
use crate::{
    HttpFacts, HttpPlan, HttpScope, Refusal, Target, TargetKind, Transport, http, outbound,
};
use mesh_model::{Dice, Health, Reason, Resource, Snapshot, TunnelProtocol};
use proptest::prelude::*;
use std::sync::Arc;

/// A mesh of one service: which parts there are, and in what state.
#[derive(Debug, Clone)]
struct Shape {
    bound_service: bool,
    bound_pod: bool,
    waypoint_known: bool,
    endpoint: bool,
    healthy: bool,
    tunnel: bool,
}

fn shape() -> impl Strategy<Value = Shape> {
    any::<[bool; 6]>().prop_map(|b| Shape {
        bound_service: b[0],
        bound_pod: b[1],
        waypoint_known: b[2],
        endpoint: b[3],
        healthy: b[4],
        tunnel: b[5],
    })
}

fn build(shape: &Shape) -> Arc<Snapshot> {
    let mut shop = service("shop", 1);
    shop.waypoint = shape.bound_service.then(|| by_name("wp"));
    let mut endpoint = behind(pod("shop-1", 2), &["shop"]);
    endpoint.waypoint = shape.bound_pod.then(|| by_name("wp"));
    if !shape.healthy {
        endpoint.health = Health::Unhealthy;
    }
    if !shape.tunnel {
        endpoint.protocol = TunnelProtocol::None;
    }
    let mut all: Vec<Resource> = vec![s(shop)];
    if shape.endpoint {
        all.push(w(endpoint));
    }
    if shape.waypoint_known {
        all.extend(wp());
    }
    mesh(all)
}

/// The plan of a sidecar that reads HTTP for the service.
fn by_http(snapshot: &Snapshot, seed: u64) -> Result<Target, Refusal> {
    let shop = snapshot.service(&crate::testing::name("shop")).unwrap();
    let scope = HttpScope::Service {
        service: shop,
        port: 80,
    };
    let facts = HttpFacts {
        host: "shop",
        path: "/",
        query: None,
        method: "GET",
        headers: &|_| None,
    };
    let from = client(&pod("frontend", 1));
    match http(snapshot, &from, &scope, &facts, &mut Dice::seeded(seed)) {
        HttpPlan::Forward(forward) => Ok(forward.target),
        HttpPlan::Refuse(refusal) => Err(refusal),
        HttpPlan::Redirect(_) => panic!("no route redirects"),
    }
}

proptest! {
    #[test]
    fn a_waypoint_is_never_passed_by(shape in shape(), seed in any::<u64>(), to_pod in any::<bool>()) {
        let snapshot = build(&shape);
        let from = client(&pod("frontend", 1));
        let destination = if to_pod { at(ip(2), 80) } else { at(vip(1), 80) };
        let bound = if to_pod { shape.bound_pod && shape.endpoint } else { shape.bound_service };
        let mut plans = vec![outbound(&snapshot, &from, destination, &mut Dice::seeded(seed))];
        if !to_pod {
            plans.push(by_http(&snapshot, seed));
        }
        for plan in plans {
            match plan {
                Ok(target) => prop_assert_eq!(target.kind == TargetKind::Waypoint, bound),
                Err(refusal) if bound => {
                    prop_assert_eq!(refusal.reason, Reason::NoWaypoint);
                    prop_assert!(!shape.waypoint_known);
                }
                Err(refusal) => {
                    prop_assert_eq!(refusal.reason, Reason::NoEndpoint);
                    prop_assert!(!(to_pod || shape.endpoint && shape.healthy));
                }
            }
        }
    }

    #[test]
    fn a_tunnel_ends_where_it_says_and_expects_somebody(
        shape in shape(),
        seed in any::<u64>(),
        to_pod in any::<bool>(),
    ) {
        let snapshot = build(&shape);
        let from = client(&pod("frontend", 1));
        let destination = if to_pod { at(ip(2), 80) } else { at(vip(1), 80) };
        let Ok(target) = outbound(&snapshot, &from, destination, &mut Dice::seeded(seed)) else {
            return Ok(());
        };
        match (&target.transport, target.kind) {
            (Transport::Hbone { authority, expected }, kind) => {
                prop_assert_eq!(authority, &target.destination.to_string());
                let own = target.workload.as_ref().and_then(|w| w.identity()).unwrap();
                prop_assert!(expected.contains(&own));
                if kind == TargetKind::Endpoint {
                    prop_assert_eq!(target.address, at(target.destination.ip(), 15008));
                    prop_assert!(shape.tunnel);
                }
            }
            (Transport::DoubleHbone { .. }, _) => prop_assert!(false, "there is one network"),
            (Transport::Plain, kind) => {
                prop_assert_eq!(target.address, target.destination);
                prop_assert!(kind == TargetKind::Passthrough || !shape.tunnel);
            }
        }
    }
}
