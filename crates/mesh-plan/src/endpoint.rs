//! From a service or workload to the endpoint and how it is reached.

use crate::across::{self, Wanted};
use crate::{Client, Refusal, Target, TargetKind, Transport, waypoint};
use mesh_balance::Choice;
use mesh_model::{
    AppProtocol, Dice, PORT_HBONE, Reason, Service, ServicePort, Snapshot, SpiffeId,
    TunnelProtocol, Workload,
};
use std::net::SocketAddr;
use std::sync::Arc;

/// An endpoint of a service's port, never a waypoint: the way of gateways, waypoints and routes.
///
/// # Errors
/// [`Reason::NoEndpoint`]: the service has no such port, or no usable endpoint for it.
pub fn to_service(
    snapshot: &Snapshot,
    client: &Client,
    service: &Arc<Service>,
    port: u16,
    dice: &mut Dice,
) -> Result<Target, Refusal> {
    let port = service_port(service, port)?;
    let choice = mesh_balance::choose(snapshot, service, port, client.place(), dice)
        .ok_or_else(|| no_endpoint(snapshot, client, service, port.service_port))?;
    if choice.workload.network == client.network {
        return Ok(of_service(service, port, choice));
    }
    let first = across::target(snapshot, client, &wanted(service, port, &choice), &[], dice);
    // One gateway that is unknown does not stand in the way of all other endpoints.
    first.or_else(|refusal| another(snapshot, client, (service, port), &[], dice).ok_or(refusal))
}

fn wanted<'a>(service: &'a Arc<Service>, port: &ServicePort, choice: &'a Choice) -> Wanted<'a> {
    Wanted {
        service,
        port: port.service_port,
        there: &choice.workload,
        answered_by: Some(service),
    }
}

/// An endpoint that was not tried, here or behind a gateway that was not.
fn another(
    snapshot: &Snapshot,
    client: &Client,
    (service, port): (&Arc<Service>, &ServicePort),
    tried: &[SocketAddr],
    dice: &mut Dice,
) -> Option<Target> {
    let all = mesh_balance::order(snapshot, service, port, client.place(), dice);
    all.into_iter().find_map(|choice| {
        if choice.workload.network == client.network {
            let new = !tried.contains(&choice.address);
            return new.then(|| of_service(service, port, choice));
        }
        let wanted = wanted(service, port, &choice);
        across::target(snapshot, client, &wanted, tried, dice).ok()
    })
}

/// Another endpoint of the service of a target that failed, or another instance of the waypoint, for a
/// retry. None when there is no other.
pub fn retry_target(
    snapshot: &Snapshot,
    client: &Client,
    failed: &Target,
    dice: &mut Dice,
) -> Option<Target> {
    retry_target_untried(snapshot, client, failed, &[failed.endpoint()], dice)
}

/// As [`retry_target`], for a second retry: none of the endpoints in `tried` ([`Target::endpoint`]).
pub fn retry_target_untried(
    snapshot: &Snapshot,
    client: &Client,
    failed: &Target,
    tried: &[SocketAddr],
    dice: &mut Dice,
) -> Option<Target> {
    if failed.kind == TargetKind::Waypoint {
        return waypoint::another(snapshot, client, failed, tried, dice);
    }
    let service = failed.service.as_ref()?;
    let port = service.port(failed.service_port?)?;
    if failed.kind == TargetKind::NetworkGateway && waypoint::waypoints(service).next().is_some() {
        // It led to the waypoint, past which there is no way.
        return None;
    }
    another(snapshot, client, (service, port), tried, dice)
}

/// A workload asked for by its own address.
pub fn to_workload(workload: &Arc<Workload>, address: SocketAddr) -> Target {
    let expected = workload.identity().into_iter().collect();
    let (via, transport) = reached(workload, address, expected);
    Target {
        address: via,
        transport,
        workload: Some(workload.clone()),
        service: None,
        service_port: None,
        kind: TargetKind::Endpoint,
        app_protocol: AppProtocol::Unknown,
        destination: address,
    }
}

fn of_service(service: &Arc<Service>, port: &ServicePort, choice: Choice) -> Target {
    let expected = expected(&choice.workload, Some(service));
    let (via, transport) = reached(&choice.workload, choice.address, expected);
    Target {
        address: via,
        transport,
        workload: Some(choice.workload),
        service: Some(service.clone()),
        service_port: Some(port.service_port),
        kind: TargetKind::Endpoint,
        app_protocol: port.app_protocol,
        destination: choice.address,
    }
}

/// The identities a workload may prove: its own, and those its service vouches for.
pub(crate) fn expected(workload: &Workload, service: Option<&Arc<Service>>) -> Vec<SpiffeId> {
    let mut all: Vec<SpiffeId> = workload.identity().into_iter().collect();
    for name in service.iter().flat_map(|s| &s.subject_alt_names) {
        if !all.contains(name) {
            all.push(name.clone());
        }
    }
    all
}

fn reached(
    workload: &Workload,
    address: SocketAddr,
    expected: Vec<SpiffeId>,
) -> (SocketAddr, Transport) {
    match workload.protocol {
        TunnelProtocol::None => (address, Transport::Plain),
        TunnelProtocol::Hbone => (
            SocketAddr::new(address.ip(), PORT_HBONE),
            Transport::Hbone {
                authority: address.to_string(),
                expected,
            },
        ),
    }
}

pub(crate) fn service_port(service: &Service, port: u16) -> Result<&ServicePort, Refusal> {
    service.port(port).ok_or_else(|| {
        let detail = format!("service {} has no port {port}", service.name);
        Refusal::new(Reason::NoEndpoint, detail)
    })
}

/// Why a service has no endpoint: it may be that there is one on another network, without a way there.
pub(crate) fn no_endpoint(
    snapshot: &Snapshot,
    client: &Client,
    service: &Service,
    port: u16,
) -> Refusal {
    let refused = |reason, why: String| {
        let detail = format!(
            "service {} has no usable endpoint for port {port}{why}",
            service.name
        );
        Refusal::new(reason, detail)
    };
    let stranded = |w: &&Arc<Workload>| w.network != client.network && w.network_gateway.is_none();
    let stranded = snapshot.endpoints(&service.name).find(stranded);
    match stranded.filter(|_| client.across_networks) {
        Some(w) => {
            let (name, network) = (w.object_name(), &w.network);
            let why = format!(": no gateway is known to network {network}, where {name} is");
            refused(Reason::NoNetworkGateway, why)
        }
        None => refused(Reason::NoEndpoint, String::new()),
    }
}
