//! Any workload, service or policy.

use mesh_model::{
    Action, AppProtocol, ApplicationTunnel, AuthorizationPolicy, Cidr, GatewayAddress,
    GatewayDestination, HeaderCondition, Health, HealthPolicy, IpFamilies, LoadBalancing,
    LoadBalancingMode, Locality, NetworkAddress, NetworkMode, ObjectName, PolicyClause,
    PolicyMatch, PolicyRule, PolicyScope, PolicyTarget, RoutingScope, Service, ServiceAccountMatch,
    ServiceName, ServicePort, SpiffeId, StringMatch, TunnelProtocol, Visibility, WeightedWaypoint,
    Workload,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use std::net::IpAddr;
use std::sync::Arc;

pub(super) fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-z][a-z0-9-]{0,8}".prop_map(Arc::from)
}

pub(super) fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from)
    ]
}

pub(super) fn cidr() -> impl Strategy<Value = Cidr> {
    (ip(), 0..=32u8).prop_map(|(ip, length)| Cidr::new(ip, length).unwrap())
}

pub(super) fn object() -> impl Strategy<Value = ObjectName> {
    (text(), text()).prop_map(|(a, b)| ObjectName::new(a, b))
}

pub(super) fn service_name() -> impl Strategy<Value = ServiceName> {
    (text(), text()).prop_map(|(a, b)| ServiceName::new(a, &b))
}

pub(super) fn port() -> impl Strategy<Value = ServicePort> {
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

pub(super) fn gateway() -> impl Strategy<Value = GatewayAddress> {
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
    pub(super) fn workload()(
        names in (text(), text(), text(), text(), text(), text()),
        addresses in vec(ip(), 0..3),
        hostname in option::of(text()),
        flags in any::<[bool; 5]>(),
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
        w.encrypt_same_node = flags[4];
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
    pub(super) fn service()(
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
        ip_families in select(vec![
            IpFamilies::Automatic, IpFamilies::V4Only, IpFamilies::V6Only, IpFamilies::Dual,
        ]),
        visibility in select(vec![Visibility::Public, Visibility::Namespace]),
        flags in any::<[bool; 4]>(),
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
        s.ip_families = ip_families;
        s.visibility = visibility;
        s.sticky_by_source = flags[3];
        s
    }
}

pub(super) fn condition() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        text().prop_map(StringMatch::Exact),
        text().prop_map(StringMatch::Prefix),
        text().prop_map(StringMatch::Suffix),
        Just(StringMatch::Presence)
    ]
}

pub(super) fn account() -> impl Strategy<Value = ServiceAccountMatch> {
    object().prop_map(|o| ServiceAccountMatch {
        namespace: o.namespace,
        name: o.name,
    })
}

prop_compose! {
    pub(super) fn l4_match()(
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
    pub(super) fn http_match_of_policy()(
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

pub(super) fn policy(
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
            http_dropped: false,
        })
}
