//! What may not pass is refused by name and field, and what stands in for it denies.

use super::super::*;
use mesh_model::Action;
use mesh_proto::{config, security, workload as wire};
use std::net::IpAddr;

fn refusal<M: Message>(type_url: &str, message: &M) -> String {
    let error = decode(type_url, "the-object", &message.encode_to_vec()).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("the-object: "), "{text}");
    text
}

fn wire_workload(change: impl FnOnce(&mut wire::Workload)) -> wire::Address {
    let mut w = wire::Workload {
        uid: "u".into(),
        name: "p".into(),
        namespace: "ns".into(),
        ..wire::Workload::default()
    };
    change(&mut w);
    wire::Address {
        r#type: Some(wire::address::Type::Workload(w)),
    }
}

#[test]
fn a_bad_workload_is_refused_by_field() {
    let list = wire::PortList::default();
    let cases = [
        (wire_workload(|w| w.tunnel_protocol = 2), "tunnel_protocol"),
        (wire_workload(|w| w.tunnel_protocol = 9), "tunnel_protocol"),
        (wire_workload(|w| w.status = 5), "status"),
        (wire_workload(|w| w.network_mode = 5), "network_mode"),
        (wire_workload(|w| w.workload_type = 5), "workload_type"),
        (
            wire_workload(|w| w.addresses = vec![vec![1, 2, 3]]),
            "addresses[0]",
        ),
        (
            wire_workload(|w| w.waypoint = Some(wire::GatewayAddress::default())),
            "waypoint",
        ),
        (wire_workload(|w| w.uid.clear()), "uid"),
        (
            wire_workload(|w| w.authorization_policies = vec!["x".into()]),
            "authorization_policies",
        ),
        (
            wire_workload(|w| {
                w.services.insert("no-slash".into(), list);
            }),
            "services",
        ),
        (wire::Address::default(), "type"),
    ];
    for (message, field) in cases {
        let text = refusal(TYPE_ADDRESS, &message);
        assert!(text.contains(field), "{text} does not name {field}");
    }
}

#[test]
fn a_bad_service_is_refused_by_field() {
    let service = |change: fn(&mut wire::Service)| {
        let mut s = wire::Service {
            namespace: "ns".into(),
            hostname: "h".into(),
            ..wire::Service::default()
        };
        change(&mut s);
        wire::Address {
            r#type: Some(wire::address::Type::Service(s)),
        }
    };
    let scope = |number| wire::LoadBalancing {
        routing_preference: vec![number],
        ..wire::LoadBalancing::default()
    };
    fn address(bytes: Vec<u8>, length: u32) -> wire::NetworkAddress {
        wire::NetworkAddress {
            address: bytes,
            length: Some(length),
            network: String::new(),
        }
    }
    let mut unspecified = service(|_| ());
    if let Some(wire::address::Type::Service(s)) = &mut unspecified.r#type {
        s.load_balancing = Some(scope(0));
    }
    let cases = [
        (service(|s| s.visibility = 9), "visibility"),
        (service(|s| s.ip_families = 9), "ip_families"),
        (service(|s| s.hostname.clear()), "hostname"),
        (
            service(|s| s.addresses = vec![address(vec![1; 5], 8)]),
            "addresses[0]",
        ),
        (
            service(|s| s.addresses = vec![address(vec![1; 4], 33)]),
            "addresses[0].length",
        ),
        (unspecified, "routing_preference"),
    ];
    for (message, field) in cases {
        let text = refusal(TYPE_ADDRESS, &message);
        assert!(text.contains(field), "{text} does not name {field}");
    }
}

fn wire_policy(change: impl FnOnce(&mut security::Match)) -> security::Authorization {
    let mut m = security::Match::default();
    change(&mut m);
    security::Authorization {
        name: "p".into(),
        namespace: "ns".into(),
        scope: security::Scope::Namespace.into(),
        groups: vec![security::Group {
            rules: vec![security::Rules { matches: vec![m] }],
        }],
        ..security::Authorization::default()
    }
}

#[test]
fn a_policy_is_refused_where_dropping_an_entry_would_widen_it() {
    let bad_ip = wire_policy(|m| {
        m.source_ips = vec![security::Address {
            address: vec![1],
            length: 8,
        }];
    });
    assert!(refusal(TYPE_AUTHORIZATION, &bad_ip).contains("source_ips"));
    let empty = wire_policy(|m| m.principals = vec![security::StringMatch::default()]);
    assert!(refusal(TYPE_AUTHORIZATION, &empty).contains("principals"));
    let mut scope = wire_policy(|_| ());
    scope.scope = 7;
    assert!(refusal(TYPE_AUTHORIZATION, &scope).contains("scope"));
    let mut action = wire_policy(|_| ());
    action.action = 7;
    assert!(refusal(TYPE_AUTHORIZATION, &action).contains("action"));
}

#[test]
fn a_part_of_a_key_holds_no_slash() {
    let mut policy = wire_policy(|_| ());
    policy.name = "p/q".into();
    assert!(refusal(TYPE_AUTHORIZATION, &policy).contains("name"));
    // What stands in for it has a key that reads back.
    let stand_in = unreadable(TYPE_AUTHORIZATION, "ns/p/q", &policy.encode_to_vec(), "why");
    let key = stand_in.unwrap().key();
    assert_eq!(key.name.parse(), Ok(ObjectName::new("ns", "p_q")));
    let service = wire::Service {
        namespace: "ns".into(),
        hostname: "a/b".into(),
        ..wire::Service::default()
    };
    let service = wire::Address {
        r#type: Some(wire::address::Type::Service(service)),
    };
    assert!(refusal(TYPE_ADDRESS, &service).contains("hostname"));
    let route = config::TcpRouteRule {
        namespace: "n/s".into(),
        name: "r".into(),
        ..config::TcpRouteRule::default()
    };
    assert!(refusal(TYPE_TCP_ROUTE, &route).contains("namespace"));
}

#[test]
fn a_mapped_address_is_the_v4_address() {
    let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
    let IpAddr::V6(mapped) = mapped else {
        panic!("not mapped");
    };
    let workload = wire::Workload {
        uid: "u".into(),
        addresses: vec![mapped.octets().to_vec()],
        ..wire::Workload::default()
    };
    let address = wire::Address {
        r#type: Some(wire::address::Type::Workload(workload)),
    };
    let decoded = decode(TYPE_ADDRESS, "u", &address.encode_to_vec()).unwrap();
    let Resource::Workload(workload) = decoded else {
        panic!("no workload");
    };
    assert_eq!(workload.addresses, [IpAddr::from([10, 0, 0, 1])]);
}

#[test]
fn an_unreadable_policy_denies_where_the_bad_one_would_have_applied() {
    let mut bad = wire_policy(|m| m.principals = vec![security::StringMatch::default()]);
    bad.scope = security::Scope::Global.into();
    let Some(Resource::Policy(policy)) =
        unreadable(TYPE_AUTHORIZATION, "ns/p", &bad.encode_to_vec(), "why")
    else {
        panic!("no stand-in");
    };
    assert_eq!(policy.scope, PolicyScope::Global);
    assert_eq!(policy.action, Action::Deny);
    assert_eq!(policy.invalid.as_deref(), Some("why"));
    let full = config::HttpPolicy {
        scope: config::http_policy::Scope::Targets.into(),
        action: 9,
        targets: vec![config::PolicyTarget {
            kind: "Service".into(),
            namespace: "ns".into(),
            name: "h".into(),
        }],
        ..config::HttpPolicy::default()
    };
    let Some(Resource::HttpPolicy(policy)) =
        unreadable(TYPE_HTTP_POLICY, "ns/p", &full.encode_to_vec(), "why")
    else {
        panic!("no stand-in");
    };
    assert_eq!(policy.scope, PolicyScope::Targets);
    assert_eq!(policy.targets.len(), 1);
    assert!(unreadable(TYPE_ADDRESS, "ns/p", &[], "why").is_none());
}

#[test]
fn an_unknown_type_is_named() {
    let error = decode("type.googleapis.com/x", "n", &[]).unwrap_err();
    assert!(error.to_string().contains("type.googleapis.com/x"));
}
