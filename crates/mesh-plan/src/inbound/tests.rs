//! The authority-IP rule of interop/hbone.md, line by line.

use super::*;
use crate::testing::{at, behind, by_name, ip, mesh, name, pod, port, s, service, w};
use mesh_model::{AppProtocol, ApplicationTunnel, Resource};
use proptest::prelude::*;

fn enter(
    resources: Vec<Resource>,
    local: &Workload,
    authority: &str,
) -> Result<SocketAddr, Reason> {
    let authority = authority.parse().unwrap();
    inbound(&mesh(resources), local, ip(2), &authority).map_err(|r| r.reason)
}

#[test]
fn its_own_address_is_taken_and_others_are_not() {
    let local = pod("shop-1", 2);
    assert_eq!(enter(vec![], &local, "10.0.0.2:8080"), Ok(at(ip(2), 8080)));
    assert_eq!(
        enter(vec![], &local, "[::ffff:10.0.0.2]:8080"),
        Ok(at(ip(2), 8080))
    );
    assert_eq!(
        enter(vec![], &local, "10.0.0.3:8080"),
        Err(Reason::WrongDestination)
    );
    let shop = s(service("shop", 1));
    let member = behind(local, &["shop"]);
    assert_eq!(
        enter(vec![shop], &member, "10.96.0.1:80"),
        Err(Reason::WrongDestination),
        "an endpoint is not the waypoint of its service"
    );
}

#[test]
fn the_ports_of_the_proxy_are_refused() {
    for port in [15001, 15006, 15008] {
        let authority = format!("10.0.0.2:{port}");
        assert_eq!(
            enter(vec![], &pod("shop-1", 2), &authority),
            Err(Reason::ConnectFailed)
        );
    }
}

#[test]
fn plaintext_is_for_the_pods_own_addresses_and_not_for_the_proxys_ports() {
    let local = pod("shop-1", 2);
    let to = |text: &str, found: bool| {
        plaintext(&local, text.parse().unwrap(), |_| found).map_err(|r| r.reason)
    };
    let wrong = Err(Reason::WrongDestination);
    assert_eq!(to("10.0.0.2:80", false), Ok(at(ip(2), 80)));
    assert_eq!(to("[::ffff:10.0.0.2]:80", false), Ok(at(ip(2), 80)));
    assert_eq!(to("10.0.0.3:80", false), wrong, "another pod's");
    assert_eq!(to("10.0.0.3:80", true), Ok(at(ip(3), 80)), "a second one");
    assert_eq!(to("127.0.0.1:80", true), wrong, "what is for the pod alone");
    assert_eq!(to("[::1]:80", true), wrong);
    for port in [15001, 15006, 15008] {
        assert_eq!(to(&format!("10.0.0.2:{port}"), true), wrong);
    }
}

#[test]
fn a_waypoint_takes_what_is_bound_to_it() {
    let (mut shop, mut other) = (service("shop", 1), pod("other", 5));
    shop.waypoint = Some(by_name("wp"));
    other.waypoint = Some(by_name("wp"));
    let all = vec![s(shop), w(other), w(pod("third", 6))];
    let local = behind(pod("wp", 2), &["wp"]);
    assert_eq!(
        enter(all.clone(), &local, "10.96.0.1:80"),
        Ok(at(ip(2), 80))
    );
    assert_eq!(
        enter(all.clone(), &local, "10.0.0.5:7000"),
        Ok(at(ip(2), 7000))
    );
    assert_eq!(
        enter(all, &local, "10.0.0.6:7000"),
        Err(Reason::WrongDestination)
    );
}

#[test]
fn an_application_tunnel_takes_any_address() {
    let mut local = pod("wp", 2);
    local.application_tunnel = Some(ApplicationTunnel {
        proxy_protocol: true,
        port: Some(15088),
    });
    assert_eq!(enter(vec![], &local, "10.0.0.77:80"), Ok(at(ip(2), 80)));
}

#[test]
fn a_host_is_mapped_to_the_local_port() {
    let mut local = behind(pod("shop-1", 2), &["shop"]);
    let all = vec![s(service("shop", 1)), s(service("cart", 3))];
    let host = "shop.demo.svc.cluster.local:80";
    assert_eq!(enter(all.clone(), &local, host), Ok(at(ip(2), 8080)));
    let own = vec![port(80, 8181, AppProtocol::Unknown)];
    local.services.insert(name("shop"), own);
    assert_eq!(enter(all.clone(), &local, host), Ok(at(ip(2), 8181)));
    let unknown_port = "shop.demo.svc.cluster.local:81";
    assert_eq!(
        enter(all.clone(), &local, unknown_port),
        Err(Reason::NoEndpoint)
    );
    assert_eq!(
        enter(all.clone(), &local, "gone.demo:80"),
        Err(Reason::NoEndpoint)
    );
    let cart = "cart.demo.svc.cluster.local:80";
    assert_eq!(enter(all, &local, cart), Err(Reason::WrongDestination));
}

proptest! {
    /// Whatever is asked, the answer is the local address and never a port of the proxy.
    #[test]
    fn only_the_local_address_is_ever_connected_to(last in 0..4u8, port in 1..=u16::MAX) {
        let local = pod("shop-1", 2);
        let authority = Authority::Address(at(ip(last), port));
        match inbound(&mesh(vec![]), &local, ip(2), &authority) {
            Ok(address) => {
                prop_assert_eq!(address, at(ip(2), port));
                prop_assert_eq!(last, 2);
                prop_assert!(![15001, 15006, 15008].contains(&port));
            }
            Err(_) => prop_assert!(last != 2 || [15001, 15006, 15008].contains(&port)),
        }
    }
}
