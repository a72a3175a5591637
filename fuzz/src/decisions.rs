//! Decisions on traffic: authorization, and the plans of every proxy.

use crate::input::Input;
use mesh_authz::{Connection, Decision, Request};
use mesh_discovery::codec;
use mesh_model::{
    Action, AuthorizationPolicy, Cidr, Dice, HeaderCondition, ObjectName, PolicyClause,
    PolicyMatch, PolicyRule, PolicyScope, PolicySet, Reason, ServiceAccountMatch, Snapshot,
    SnapshotBuilder, SpiffeId, StringMatch, Workload,
};
use mesh_plan::{
    Authority, Client, ExplainRequest, HttpFacts, HttpPlan, HttpScope, Target, WaypointTarget,
};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Authorization: what is broken or missing denies, what is in dry run changes nothing, and what passes
/// as a connection passes as any request in it too.
pub fn authorize(data: &[u8]) {
    let mut input = Input::new(data);
    let set = PolicySet {
        missing: input.list(2, |_| ObjectName::new("demo", "missing")),
        policies: input.list(5, |i| Arc::new(policy(i))),
        ..PolicySet::default()
    };
    let identity = SpiffeId::new(&word(&mut input), &word(&mut input), &word(&mut input)).ok();
    let connection = Connection {
        identity: identity.as_ref(),
        source_ip: ip(&mut input),
        destination: SocketAddr::new(ip(&mut input), input.u16()),
    };
    let (host, method, path) = (word(&mut input), word(&mut input), word(&mut input));
    let header = word(&mut input);
    let of_name = |name: &str| match name.len() {
        0..3 => vec![header.clone(); name.len()],
        _ => Vec::new(),
    };
    let upper = host.to_ascii_uppercase();
    let request = |host| Request {
        host,
        method: &method,
        path: &path,
        header: &of_name,
    };
    let alone = mesh_authz::authorize(&set, &connection, None);
    let asked = mesh_authz::authorize(&set, &connection, Some(&request(&host)));
    for decision in [&alone, &asked] {
        is_sound(&set, decision);
    }
    assert!(!alone.allowed || asked.allowed, "a request undoes an ALLOW");
    let other_case = mesh_authz::authorize(&set, &connection, Some(&request(&upper)));
    assert_eq!(asked, other_case);
    let mut enforced = set;
    enforced.policies.retain(|p| !p.dry_run);
    let without = mesh_authz::authorize(&enforced, &connection, Some(&request(&host)));
    assert_eq!((without.allowed, without.rule), (asked.allowed, asked.rule));
}

fn is_sound(set: &PolicySet, decision: &Decision) {
    let enforced = || set.policies.iter().filter(|p| !p.dry_run);
    let broken = !set.missing.is_empty() || enforced().any(|p| p.invalid.is_some());
    assert!(!(broken && decision.allowed));
    assert_eq!(decision.allowed, decision.reason == Reason::Ok);
    assert_eq!(decision.allowed, decision.detail.is_empty());
    if enforced().next().is_none() && set.missing.is_empty() {
        assert!(decision.allowed);
    }
    if decision.allowed && enforced().any(|p| p.action == Action::Allow) {
        assert!(decision.policy.is_some() && decision.rule.is_some());
    }
}

/// A short text of few letters, so that conditions and facts meet.
fn word(input: &mut Input<'_>) -> String {
    let letters = input.list(8, |i| i.below(16));
    let letter = |n: u8| char::from(*b"abAB/.:0[]-*@% \xff".get(usize::from(n)).unwrap_or(&b'a'));
    letters.into_iter().map(letter).collect()
}

fn ip(input: &mut Input<'_>) -> IpAddr {
    let low = input.byte();
    match input.below(3) {
        0 => IpAddr::from([10, 0, 0, low]),
        1 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(low)]),
        _ => IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, u16::from(low)]),
    }
}

fn policy(input: &mut Input<'_>) -> AuthorizationPolicy {
    let flags = input.byte();
    AuthorizationPolicy {
        name: ObjectName::new("demo", word(input)),
        scope: PolicyScope::Namespace,
        action: if flags & 1 == 0 {
            Action::Allow
        } else {
            Action::Deny
        },
        dry_run: flags & 0x30 == 0x30,
        invalid: (flags & 0xc0 == 0xc0).then(|| "broken".into()),
        http_dropped: flags & 0x0c == 0x0c,
        targets: Vec::new(),
        rules: input.list(4, |i| PolicyRule {
            clauses: i.list(3, |i| PolicyClause {
                matches: i.list(3, policy_match),
            }),
        }),
    }
}

fn policy_match(input: &mut Input<'_>) -> PolicyMatch {
    let mut m = PolicyMatch::default();
    for _ in 0..=input.below(3) {
        let field = input.below(19);
        let pattern = || StringMatch::from_pattern(&word(input));
        match field {
            0 => m.namespaces.push({ pattern }()),
            1 => m.not_namespaces.push({ pattern }()),
            2 => m.principals.push({ pattern }()),
            3 => m.not_principals.push({ pattern }()),
            4 => m.hosts.push({ pattern }()),
            5 => m.not_hosts.push({ pattern }()),
            6 => m.methods.push({ pattern }()),
            7 => m.not_methods.push({ pattern }()),
            8 => m.paths.push({ pattern }()),
            9 => m.not_paths.push({ pattern }()),
            10 => m.source_ips.extend(range(input)),
            11 => m.not_source_ips.extend(range(input)),
            12 => m.destination_ips.extend(range(input)),
            13 => m.not_destination_ips.extend(range(input)),
            14 => m.destination_ports.push(input.u16()),
            15 => m.not_destination_ports.push(input.u16()),
            16 => m.service_accounts.push(account(input)),
            17 => m.not_service_accounts.push(account(input)),
            _ => m.headers.push(HeaderCondition {
                name: word(input).into(),
                values: input.list(3, |i| StringMatch::from_pattern(&word(i))),
                not_values: input.list(3, |i| StringMatch::from_pattern(&word(i))),
            }),
        }
    }
    m
}

fn range(input: &mut Input<'_>) -> Option<Cidr> {
    Cidr::new(ip(input), input.byte()).ok()
}

fn account(input: &mut Input<'_>) -> ServiceAccountMatch {
    ServiceAccountMatch {
        namespace: word(input).into(),
        name: word(input).into(),
    }
}

/// Resources in a mesh, at most.
const RESOURCES_MAX: usize = 24;
/// Ports and places asked about, at most.
const QUESTIONS_MAX: usize = 6;

/// Plans of every proxy over any mesh that decodes: a sequence of resources, each with its type and
/// length before it. Every workload asks for every address; nothing asked makes a proxy fall over, and
/// where traffic goes is said in a form that the next proxy can read.
pub fn plan(data: &[u8]) {
    let mut input = Input::new(data);
    let mut builder = SnapshotBuilder::new();
    for _ in 0..RESOURCES_MAX {
        if input.is_empty() {
            break;
        }
        let kind = codec::TYPES_ALL[usize::from(input.below(6))];
        if let Ok(resource) = codec::decode(kind, "demo/some", input.chunk()) {
            builder.upsert(resource);
        }
    }
    let snapshot = builder.snapshot();
    let mut dice = Dice::seeded(7);
    let addresses = addresses(&snapshot);
    for workload in snapshot.workloads().take(QUESTIONS_MAX) {
        for address in &addresses {
            connections(&snapshot, workload, *address, &mut dice);
        }
        requests(&snapshot, workload, &mut dice);
    }
    gateways(&snapshot, &mut dice);
}

fn addresses(snapshot: &Snapshot) -> Vec<SocketAddr> {
    let of_services = snapshot.services().flat_map(|s| {
        let ports = s.ports.iter().map(|p| p.service_port).chain([80]);
        let vips = s.vips.iter().map(|(_, range)| range.address());
        ports.take(2).flat_map(move |port| {
            vips.clone()
                .take(2)
                .map(move |ip| SocketAddr::new(ip, port))
        })
    });
    let of_workloads = snapshot.workloads().flat_map(|w| {
        let ports = w.services.values().flatten().map(|p| p.target_port);
        let port = ports.chain([80]).next().unwrap_or(80);
        w.addresses
            .iter()
            .take(2)
            .map(move |ip| SocketAddr::new(*ip, port))
    });
    of_services
        .take(QUESTIONS_MAX)
        .chain(of_workloads.take(QUESTIONS_MAX))
        .chain([SocketAddr::from(([203, 0, 113, 1], 443))])
        .collect()
}

fn connections(snapshot: &Snapshot, me: &Arc<Workload>, to: SocketAddr, dice: &mut Dice) {
    let client = Client::of(me);
    if let Ok(target) = mesh_plan::outbound(snapshot, &client, to, dice) {
        can_be_asked_for(&target);
    }
    mesh_plan::sidecar_destination(snapshot, &client, to);
    mesh_plan::inbound_protocol(snapshot, me, to.port());
    mesh_plan::sidecar_policies(snapshot, me);
    let Ok(authority) = to.to_string().parse::<Authority>() else {
        return;
    };
    if let Ok(app) = mesh_plan::inbound(snapshot, me, to.ip(), &authority) {
        assert!(![15001, 15006, 15008].contains(&app.port()));
        assert_eq!(app.ip(), to.ip().to_canonical());
    }
    if let Ok(target) = mesh_plan::waypoint(snapshot, me, &authority) {
        mesh_plan::waypoint_policies(snapshot, me, &target);
        if let WaypointTarget::Workload { workload, address } = target {
            can_be_asked_for(&mesh_plan::to_workload(&workload, address));
        }
    }
    let question = ExplainRequest {
        from: me.object_name().to_string(),
        to: to.ip().to_string(),
        port: to.port(),
        path: Some("/a?b=c".into()),
        ..ExplainRequest::default()
    };
    let answer = mesh_plan::explain(snapshot, &question);
    assert_eq!(answer.allowed, answer.reason == Reason::Ok);
}

/// Mutual TLS to no one in particular, or an authority without a port, is a bug.
fn can_be_asked_for(target: &Target) {
    if let mesh_plan::Transport::Hbone { authority, .. } = &target.transport {
        assert!(authority.rsplit_once(':').is_some(), "{authority}");
        assert_eq!(target.address.port() == 0, false, "{target:?}");
    }
}

const FACTS: HttpFacts<'static> = HttpFacts {
    host: "shop.example",
    path: "/a/b",
    query: Some("a=1&b=%20"),
    method: "GET",
    headers: &|name| (name.len() % 2 == 0).then(|| "1".to_owned()),
};

fn requests(snapshot: &Snapshot, me: &Arc<Workload>, dice: &mut Dice) {
    let client = Client::of(me);
    for service in snapshot.services().take(QUESTIONS_MAX) {
        for port in service.ports.iter().map(|p| p.service_port).take(2) {
            let scope = HttpScope::Service { service, port };
            forwarded(&mesh_plan::http(snapshot, &client, &scope, &FACTS, dice));
            if let Ok(target) = mesh_plan::to_service(snapshot, &client, service, port, dice) {
                can_be_asked_for(&target);
                mesh_plan::retry_target(snapshot, &client, &target, dice);
            }
        }
    }
}

fn forwarded(plan: &HttpPlan) {
    if let HttpPlan::Forward(forward) = plan {
        can_be_asked_for(&forward.target);
    }
}

fn gateways(snapshot: &Snapshot, dice: &mut Dice) {
    let client = Client::at("", "demo");
    for resource in snapshot.resources() {
        let mesh_model::Resource::Listener(listener) = resource else {
            continue;
        };
        let gateway = &listener.key.gateway;
        let scope = HttpScope::Gateway {
            gateway,
            listener: &listener,
        };
        forwarded(&mesh_plan::http(snapshot, &client, &scope, &FACTS, dice));
        if let Ok((_, target)) = mesh_plan::tcp(snapshot, &client, gateway, &listener, dice) {
            can_be_asked_for(&target);
        }
        mesh_plan::gateway_policies(snapshot, gateway, None);
    }
}
