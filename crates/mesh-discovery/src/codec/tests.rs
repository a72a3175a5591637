//! Every resource survives the wire; what may not pass is refused by name and field.

use super::*;
use mesh_model::{
    Action, AppProtocol, ApplicationTunnel, Backend, Cidr, GatewayAddress, GatewayDestination,
    GatewayListener, Header, HeaderCondition, HeaderModifier, Health, HealthPolicy, HttpFilter,
    HttpMatch, HttpRouteRule, ListenerKey, ListenerProtocol, LoadBalancing, LoadBalancingMode,
    Locality, NetworkAddress, NetworkMode, ParentRef, PathMatch, PathModifier, PolicyClause,
    PolicyMatch, PolicyRule, PolicyTarget, Redirect, Regex, RouteRuleName, RouteTimeouts,
    RoutingScope, Service, ServiceAccountMatch, ServiceName, ServicePort, SpiffeId, StringMatch,
    TcpRouteRule, TlsCertificatePem, TunnelProtocol, UrlRewrite, ValueMatch, ValueMatcher,
    WeightedBackend, WeightedWaypoint, Workload,
};
use mesh_proto::{config, security, workload as wire};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use std::net::IpAddr;
use std::time::Duration;

fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-z][a-z0-9-]{0,8}".prop_map(Arc::from)
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from)
    ]
}

fn cidr() -> impl Strategy<Value = Cidr> {
    (ip(), 0..=32u8).prop_map(|(ip, length)| Cidr::new(ip, length).unwrap())
}

fn object() -> impl Strategy<Value = ObjectName> {
    (text(), text()).prop_map(|(a, b)| ObjectName::new(a, b))
}

fn service_name() -> impl Strategy<Value = ServiceName> {
    (text(), text()).prop_map(|(a, b)| ServiceName::new(a, &b))
}

fn port() -> impl Strategy<Value = ServicePort> {
    let protocols = vec![
        AppProtocol::Unknown,
        AppProtocol::Http11,
        AppProtocol::Http2,
        AppProtocol::Grpc,
        AppProtocol::Tcp,
        AppProtocol::Tls,
    ];
    (any::<u16>(), any::<u16>(), select(protocols)).prop_map(|(service_port, target_port, p)| {
        ServicePort {
            service_port,
            target_port,
            app_protocol: p,
        }
    })
}

fn gateway() -> impl Strategy<Value = GatewayAddress> {
    let address = (text(), ip()).prop_map(|(network, address)| {
        GatewayDestination::Address(NetworkAddress { network, address })
    });
    let destination = prop_oneof![
        service_name().prop_map(GatewayDestination::Hostname),
        address
    ];
    (destination, 1..u16::MAX).prop_map(|(destination, hbone_port)| GatewayAddress {
        destination,
        hbone_port,
    })
}

prop_compose! {
    fn workload()(
        names in (text(), text(), text(), text(), text(), text()),
        addresses in vec(ip(), 0..3),
        hostname in option::of(text()),
        flags in any::<[bool; 4]>(),
        gateways in (option::of(gateway()), option::of(gateway())),
        services in proptest::collection::btree_map(service_name(), vec(port(), 0..3), 0..3),
        authorization_policies in vec(object(), 0..3),
        tunnel in option::of((any::<bool>(), option::of(1..u16::MAX))),
        workload_type in select(vec!["deployment", "cronjob", "pod", "job"]),
        locality in (text(), text(), text()),
        capacity in 1..9u32,
    ) -> Workload {
        let (uid, namespace, name, account, node, trust_domain) = names;
        let mut w = Workload::new(&uid, &namespace, &name);
        w.addresses = addresses;
        w.hostname = hostname;
        w.service_account = account;
        w.node = node.clone();
        w.trust_domain = trust_domain;
        w.canonical_name = node;
        if flags[0] {
            w.protocol = TunnelProtocol::Hbone;
        }
        if flags[1] {
            w.health = Health::Unhealthy;
        }
        if flags[2] {
            w.network_mode = NetworkMode::HostNetwork;
        }
        w.native_tunnel = flags[3];
        w.waypoint = gateways.0;
        w.network_gateway = gateways.1;
        w.services = services;
        w.authorization_policies = authorization_policies;
        w.application_tunnel =
            tunnel.map(|(proxy_protocol, port)| ApplicationTunnel { proxy_protocol, port });
        w.workload_type = workload_type;
        w.locality = Locality { region: locality.0, zone: locality.1, subzone: locality.2 };
        w.capacity = capacity;
        w
    }
}

prop_compose! {
    fn service()(
        name in service_name(),
        short_name in text(),
        vips in vec((text(), cidr()), 0..3),
        ports in vec(port(), 0..3),
        account in text(),
        waypoint in option::of(gateway()),
        weighted in vec((gateway(), any::<u32>()), 0..2),
        preferences in vec(select(vec![
            RoutingScope::Region, RoutingScope::Zone, RoutingScope::Subzone,
            RoutingScope::Node, RoutingScope::Cluster, RoutingScope::Network,
        ]), 0..3),
        mode in select(vec![
            LoadBalancingMode::Unspecified, LoadBalancingMode::Strict,
            LoadBalancingMode::Failover, LoadBalancingMode::Passthrough,
        ]),
        flags in any::<[bool; 3]>(),
    ) -> Service {
        let mut s = Service::new(name, &short_name);
        s.vips = vips;
        s.ports = ports;
        s.subject_alt_names = vec![SpiffeId::new("td", "ns", &account).unwrap()];
        s.waypoint = waypoint;
        s.weighted_waypoints = weighted
            .into_iter()
            .map(|(destination, weight)| WeightedWaypoint { destination, weight })
            .collect();
        let health = if flags[0] { HealthPolicy::AllowAll } else { HealthPolicy::OnlyHealthy };
        s.load_balancing = LoadBalancing { preferences, mode, health };
        s.canonical = flags[1];
        s.ingress_use_waypoint = flags[2];
        s
    }
}

fn condition() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        text().prop_map(StringMatch::Exact),
        text().prop_map(StringMatch::Prefix),
        text().prop_map(StringMatch::Suffix),
        Just(StringMatch::Presence)
    ]
}

fn account() -> impl Strategy<Value = ServiceAccountMatch> {
    object().prop_map(|o| ServiceAccountMatch {
        namespace: o.namespace,
        name: o.name,
    })
}

prop_compose! {
    fn l4_match()(
        texts in vec(vec(condition(), 0..2), 4),
        accounts in vec(vec(account(), 0..2), 2),
        ips in vec(vec(cidr(), 0..2), 4),
        ports in vec(vec(any::<u16>(), 0..2), 2),
    ) -> PolicyMatch {
        PolicyMatch {
            namespaces: texts[0].clone(),
            not_namespaces: texts[1].clone(),
            principals: texts[2].clone(),
            not_principals: texts[3].clone(),
            service_accounts: accounts[0].clone(),
            not_service_accounts: accounts[1].clone(),
            source_ips: ips[0].clone(),
            not_source_ips: ips[1].clone(),
            destination_ips: ips[2].clone(),
            not_destination_ips: ips[3].clone(),
            destination_ports: ports[0].clone(),
            not_destination_ports: ports[1].clone(),
            ..PolicyMatch::default()
        }
    }
}

prop_compose! {
    fn http_match_of_policy()(
        l4 in l4_match(),
        texts in vec(vec(condition(), 0..2), 6),
        header in option::of((text(), vec(condition(), 0..2), vec(condition(), 0..2))),
    ) -> PolicyMatch {
        PolicyMatch {
            hosts: texts[0].clone(),
            not_hosts: texts[1].clone(),
            methods: texts[2].clone(),
            not_methods: texts[3].clone(),
            paths: texts[4].clone(),
            not_paths: texts[5].clone(),
            headers: header
                .into_iter()
                .map(|(name, values, not_values)| HeaderCondition { name, values, not_values })
                .collect(),
            ..l4
        }
    }
}

fn policy(
    m: impl Strategy<Value = PolicyMatch>,
    scopes: Vec<PolicyScope>,
) -> impl Strategy<Value = AuthorizationPolicy> {
    let clause = vec(m, 0..2).prop_map(|matches| PolicyClause { matches });
    let rule = vec(clause, 0..3).prop_map(|clauses| PolicyRule { clauses });
    let target = (text(), object()).prop_map(|(kind, o)| PolicyTarget {
        kind,
        namespace: o.namespace,
        name: o.name,
    });
    (
        object(),
        select(scopes),
        any::<[bool; 2]>(),
        vec(rule, 0..3),
        vec(target, 0..2),
    )
        .prop_map(|(name, scope, flags, rules, targets)| AuthorizationPolicy {
            name,
            scope,
            action: if flags[0] {
                Action::Allow
            } else {
                Action::Deny
            },
            rules,
            dry_run: flags[1],
            targets: if scope == PolicyScope::Targets {
                targets
            } else {
                Vec::new()
            },
            invalid: None,
        })
}

fn parent() -> impl Strategy<Value = ParentRef> {
    let port = || option::of(1..u16::MAX);
    prop_oneof![
        (object(), option::of(text()), port()).prop_map(|(name, section, port)| {
            ParentRef::Gateway {
                name,
                section,
                port,
            }
        }),
        (service_name(), port()).prop_map(|(name, port)| ParentRef::Service { name, port })
    ]
}

fn value_match() -> impl Strategy<Value = ValueMatch> {
    let value = prop_oneof![
        text().prop_map(ValueMatcher::Exact),
        text().prop_map(|t| ValueMatcher::Regex(Regex::new(&t).unwrap()))
    ];
    (text(), value).prop_map(|(name, value)| ValueMatch { name, value })
}

fn http_match() -> impl Strategy<Value = HttpMatch> {
    let path = prop_oneof![
        text().prop_map(PathMatch::Exact),
        text().prop_map(PathMatch::Prefix),
        text().prop_map(|t| PathMatch::Regex(Regex::new(&t).unwrap()))
    ];
    (
        option::of(path),
        vec(value_match(), 0..2),
        vec(value_match(), 0..2),
        option::of(text()),
    )
        .prop_map(|(path, headers, query, method)| HttpMatch {
            path,
            headers,
            query,
            method,
        })
}

fn filter() -> impl Strategy<Value = HttpFilter> {
    let header = || (text(), text()).prop_map(|(name, value)| Header { name, value });
    let modifier = move || {
        (vec(header(), 0..2), vec(header(), 0..2), vec(text(), 0..2))
            .prop_map(|(set, add, remove)| HeaderModifier { set, add, remove })
    };
    let path = || {
        option::of(prop_oneof![
            text().prop_map(PathModifier::ReplaceFull),
            text().prop_map(PathModifier::ReplacePrefix)
        ])
    };
    let redirect = (
        option::of(text()),
        option::of(text()),
        path(),
        option::of(1..u16::MAX),
        select(vec![301, 302, 303, 307, 308]),
    )
        .prop_map(|(scheme, hostname, path, port, status)| {
            HttpFilter::Redirect(Redirect {
                scheme,
                hostname,
                path,
                port,
                status,
            })
        });
    let rewrite = (option::of(text()), path())
        .prop_map(|(hostname, path)| HttpFilter::Rewrite(UrlRewrite { hostname, path }));
    prop_oneof![
        modifier().prop_map(HttpFilter::RequestHeaders),
        modifier().prop_map(HttpFilter::ResponseHeaders),
        redirect,
        rewrite
    ]
}

fn backend() -> impl Strategy<Value = WeightedBackend> {
    let backend = prop_oneof![
        (service_name(), any::<u16>()).prop_map(|(name, port)| Backend::Service { name, port }),
        text().prop_map(|why| Backend::Invalid { why })
    ];
    (backend, any::<u32>(), vec(filter(), 0..2)).prop_map(|(backend, weight, filters)| {
        WeightedBackend {
            backend,
            weight,
            filters,
        }
    })
}

fn rule_name() -> impl Strategy<Value = RouteRuleName> {
    (object(), any::<u16>()).prop_map(|(route, rule)| RouteRuleName { route, rule })
}

fn http_rule() -> impl Strategy<Value = HttpRouteRule> {
    let duration = || option::of((0..9_000_000_000u64).prop_map(Duration::from_micros));
    (
        (rule_name(), any::<i64>(), vec(parent(), 0..3)),
        (vec(text(), 0..2), vec(http_match(), 0..3)),
        (vec(filter(), 0..3), vec(backend(), 0..3)),
        (duration(), duration()),
    )
        .prop_map(
            |(head, (hosts, matches), (filters, backends), timeouts)| HttpRouteRule {
                name: head.0,
                created_unix_s: head.1,
                parents: head.2,
                // A host name's label may not end in what `text` may.
                hostnames: hosts.iter().map(|h| h.parse().unwrap()).collect(),
                matches,
                filters,
                backends,
                timeouts: RouteTimeouts {
                    request: timeouts.0,
                    backend_request: timeouts.1,
                },
            },
        )
}

fn tcp_rule() -> impl Strategy<Value = TcpRouteRule> {
    (
        rule_name(),
        any::<i64>(),
        vec(parent(), 0..3),
        vec(backend(), 0..3),
    )
        .prop_map(|(name, created_unix_s, parents, backends)| TcpRouteRule {
            name,
            created_unix_s,
            parents,
            backends,
        })
}

fn listener() -> impl Strategy<Value = GatewayListener> {
    let protocols = vec![
        ListenerProtocol::Http,
        ListenerProtocol::Https,
        ListenerProtocol::Tcp,
        ListenerProtocol::TlsPassthrough,
    ];
    let certificate =
        (text(), text()).prop_map(|(chain_pem, key_pem)| TlsCertificatePem { chain_pem, key_pem });
    (
        object(),
        text(),
        1..u16::MAX,
        select(protocols),
        option::of(text()),
        vec(certificate, 0..2),
    )
        .prop_map(
            |(gateway, name, port, protocol, host, certificates)| GatewayListener {
                key: ListenerKey { gateway, name },
                port,
                protocol,
                hostname: host.map(|h| h.parse().unwrap()),
                certificates,
            },
        )
}

fn resource() -> impl Strategy<Value = Resource> {
    use PolicyScope::{Global, Namespace, Targets, WorkloadSelector};
    let l4 = policy(l4_match(), vec![Global, Namespace, WorkloadSelector]);
    let full = policy(
        http_match_of_policy(),
        vec![Global, Namespace, WorkloadSelector, Targets],
    );
    prop_oneof![
        workload().prop_map(|w| Resource::Workload(Arc::new(w))),
        service().prop_map(|s| Resource::Service(Arc::new(s))),
        l4.prop_map(|p| Resource::Policy(Arc::new(p))),
        full.prop_map(|p| Resource::HttpPolicy(Arc::new(p))),
        http_rule().prop_map(|r| Resource::HttpRoute(Arc::new(r))),
        tcp_rule().prop_map(|r| Resource::TcpRoute(Arc::new(r))),
        listener().prop_map(|l| Resource::Listener(Arc::new(l))),
    ]
}

proptest! {
    #[test]
    fn a_resource_survives_the_wire(resource in resource()) {
        let wire = encode(&resource);
        prop_assert_eq!(&encode(&resource), &wire, "one resource, one encoding");
        prop_assert_eq!(wire.name.as_str(), &*resource.key().name);
        let back = decode(wire.type_url, &wire.name, &wire.value);
        prop_assert_eq!(back, Ok(resource.clone()));
        prop_assert!(keys(wire.type_url, &wire.name).contains(&resource.key()));
    }

    #[test]
    fn any_bytes_decode_or_err_without_panic(bytes in vec(any::<u8>(), 0..200)) {
        for type_url in TYPES_ALL {
            decode(type_url, "a/b", &bytes).ok();
            unreadable(type_url, "a/b", &bytes, "why");
        }
    }

    #[test]
    fn unknown_fields_are_ignored(resource in resource()) {
        let mut wire = encode(&resource);
        // Field 4000, a varint.
        wire.value.extend([0x80, 0xfa, 0x01, 0x07]);
        prop_assert_eq!(decode(wire.type_url, &wire.name, &wire.value), Ok(resource));
    }
}

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
