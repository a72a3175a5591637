//! Decisions, targets and endpoints in words.

use super::EndpointShare;
use crate::{Client, Target, TargetKind, Transport, waypoint};
use mesh_authz::Decision;
use mesh_model::{
    Backend, HttpRouteRule, Snapshot, SpiffeId, TunnelProtocol, WeightedBackend, Workload,
};

/// Which proxy stands in front of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proxy {
    Ztunnel,
    Sidecar,
    None,
}

impl Proxy {
    pub(super) fn of(workload: &Workload) -> Self {
        match (workload.native_tunnel, workload.protocol) {
            (true, _) => Self::Sidecar,
            (false, TunnelProtocol::Hbone) => Self::Ztunnel,
            (false, TunnelProtocol::None) => Self::None,
        }
    }

    pub(super) fn named(self, workload: &Workload) -> String {
        let name = workload.object_name();
        match self {
            Self::Ztunnel => format!("ztunnel of {name}"),
            Self::Sidecar => format!("sidecar of {name}"),
            Self::None => format!("no proxy ({name} is not in the mesh)"),
        }
    }
}

pub(super) fn policy(decision: &Decision) -> String {
    let mut text = match (&decision.policy, decision.rule) {
        _ if !decision.allowed => format!("denied: {}", decision.detail),
        (Some(name), Some(rule)) => format!("allowed by rule {rule} of {name}"),
        (Some(name), None) => format!("allowed by {name}"),
        (None, _) => "allowed: no ALLOW policy applies, and no DENY matches".to_owned(),
    };
    for name in &decision.dry_run {
        text.push_str(&format!("; {name} would deny, and is in dry run"));
    }
    for gap in &decision.gaps {
        let (name, cause) = (&gap.policy, gap.cause.as_str());
        text.push_str(&format!("; {name} is not evaluated as written ({cause})"));
    }
    text
}

pub(super) fn expected(target: &Target) -> Vec<String> {
    let expected = match &target.transport {
        Transport::DoubleHbone { gateway, .. } => gateway,
        other => other.expected(),
    };
    expected.iter().map(SpiffeId::to_string).collect()
}

/// How a target is reached; a waypoint that should stand in the way and does not is told of.
pub(super) fn way(client: &Client, target: &Target, past_waypoint: bool) -> String {
    let to = target.workload.as_ref().map_or_else(
        || target.address.to_string(),
        |w| format!("{} at {}", w.object_name(), target.address),
    );
    let same_node = crate::same_node(client, target);
    let mut text = match (&target.transport, target.kind) {
        (Transport::Hbone { authority, .. }, _) if same_node => {
            let w = target
                .workload
                .as_ref()
                .map(|w| w.object_name().to_string());
            let name = w.unwrap_or_default();
            format!(
                "hands over to {name} within the node's ztunnel (transport node), as {authority}"
            )
        }
        (Transport::DoubleHbone { authority, .. }, _) => {
            format!("tunnels to network gateway {to}, and within that to {authority}")
        }
        (Transport::Hbone { authority, .. }, TargetKind::Waypoint) => {
            format!("tunnels to waypoint {to}, asking for {authority}")
        }
        (Transport::Hbone { authority, .. }, _) => {
            format!("tunnels to {to}, asking for {authority}")
        }
        (Transport::Plain, _) => format!("sends plain text to {to}"),
    };
    let service = target.service.as_ref().filter(|s| s.waypoint.is_some());
    if let (Some(service), TargetKind::Endpoint, false) = (service, target.kind, past_waypoint) {
        text.push_str(&format!("; the waypoint of {} is passed by", service.name));
    }
    text
}

/// What a target was chosen from: the endpoints of its service, or itself alone.
pub(super) fn endpoints(
    snapshot: &Snapshot,
    client: &Client,
    target: &Target,
) -> Vec<EndpointShare> {
    let port = match (&target.service, target.service_port, target.kind) {
        (Some(service), Some(port), TargetKind::Endpoint) => {
            service.port(port).map(|p| (service, p))
        }
        (Some(service), Some(port), TargetKind::NetworkGateway)
            if waypoint::waypoints(service).next().is_none() =>
        {
            service.port(port).map(|p| (service, p))
        }
        _ => None,
    };
    let Some((service, port)) = port else {
        let alone = target.workload.iter().map(|w| EndpointShare {
            name: w.object_name().to_string(),
            address: Some(target.address.to_string()),
            weight: 1,
        });
        return alone.collect();
    };
    let all = mesh_balance::candidates(snapshot, service, port, client.place());
    all.into_iter()
        .map(|(choice, weight)| EndpointShare {
            name: choice.workload.object_name().to_string(),
            address: Some(if choice.workload.network == client.network {
                choice.address.to_string()
            } else {
                format!("on network {}", choice.workload.network)
            }),
            weight,
        })
        .collect()
}

/// The backends of a rule and their weights.
pub(super) fn backends(backends: &[WeightedBackend]) -> Vec<EndpointShare> {
    let share = |backend: &WeightedBackend| EndpointShare {
        name: match &backend.backend {
            Backend::Service { name, port } => format!("service {name} port {port}"),
            Backend::Invalid { why } => format!("invalid backend ({why})"),
        },
        address: None,
        weight: backend.weight,
    };
    backends.iter().map(share).collect()
}

pub(super) fn route(rule: &HttpRouteRule) -> String {
    format!("HTTPRoute {}, rule {}", rule.name.route, rule.name.rule)
}
