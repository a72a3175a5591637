//! Across networks: through the gateway of another network, and what that gateway does.
//!
//! Source: interop/hbone.md ("Double HBONE"), interop/waypoint.md section 5.

use crate::waypoint::{hbone_port, of_service, service_of};
use crate::{Authority, Client, Refusal, Target, TargetKind, Transport, endpoint, to_service};
use crate::{is_waypoint_of, waypoint};
use mesh_balance::{Elsewhere, order};
use mesh_model::{
    AppProtocol, Dice, GatewayAddress, GatewayDestination, Reason, Service, Snapshot, SpiffeId,
    Workload,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// What is asked for on another network: always a service, for its gateway knows no other name.
pub(crate) struct Wanted<'a> {
    /// The service asked for.
    pub(crate) service: &'a Arc<Service>,
    /// The port of it.
    pub(crate) port: u16,
    /// The endpoint chosen there, or an instance of the waypoint in front of the service: it tells
    /// the network and the gateway, which makes a choice of its own.
    pub(crate) there: &'a Workload,
    /// The service whose endpoints the far peer may be: the one asked for, or its waypoint's.
    pub(crate) answered_by: Option<&'a Arc<Service>>,
}

/// The gateway through which something on another network is reached, not one of those tried.
///
/// # Errors
/// [`Reason::NoNetworkGateway`] when no gateway is named, or the one named is unknown;
/// [`Reason::TlsFailure`] when it is not known whom to expect behind it.
pub(crate) fn target(
    snapshot: &Snapshot,
    client: &Client,
    wanted: &Wanted<'_>,
    tried: &[SocketAddr],
    dice: &mut Dice,
) -> Result<Target, Refusal> {
    let (service, network) = (wanted.service, &wanted.there.network);
    let authority = format!("{}:{}", service.name.hostname, wanted.port);
    let no_gateway = |why: String| {
        let detail = format!("{authority} is on network {network}: {why}");
        Refusal::new(Reason::NoNetworkGateway, detail)
    };
    let at = wanted.there.network_gateway.as_ref();
    let at = at.ok_or_else(|| no_gateway("no gateway to it is known".to_owned()))?;
    let gateway = instance(snapshot, client, at, tried, dice).map_err(no_gateway)?;
    let expected = expected(snapshot, wanted);
    if expected.is_empty() {
        let detail = format!(
            "{authority} is on network {network}, and no identity is known that it may prove there"
        );
        return Err(Refusal::new(Reason::TlsFailure, detail));
    }
    let port = service.port(wanted.port);
    Ok(Target {
        address: gateway.address,
        transport: Transport::DoubleHbone {
            authority,
            gateway: endpoint::expected(&gateway.workload, gateway.service),
            expected,
            from: client.network.clone(),
        },
        workload: Some(gateway.workload),
        service: Some(service.clone()),
        service_port: Some(wanted.port),
        kind: TargetKind::NetworkGateway,
        app_protocol: port.map_or(AppProtocol::Unknown, |p| p.app_protocol),
        destination: asked_address(client, service, wanted.port),
    })
}

/// The service as an address, as far as the client's network has one for it.
fn asked_address(client: &Client, service: &Service, port: u16) -> SocketAddr {
    let vip = service.vip(&client.network);
    SocketAddr::new(vip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port)
}

/// Whom the gateway may lead to. It chooses by itself, so that is any endpoint on that network, and all
/// that the service vouches for. A workload without an address stands for others; the identity it
/// would have is nobody's.
fn expected(snapshot: &Snapshot, wanted: &Wanted<'_>) -> Vec<SpiffeId> {
    let Some(service) = wanted.answered_by else {
        return wanted.there.identity().into_iter().collect();
    };
    let mut all = service.subject_alt_names.clone();
    let there = |w: &&Arc<Workload>| w.network == wanted.there.network && !w.addresses.is_empty();
    for workload in snapshot.endpoints(&service.name).filter(there) {
        if let Some(identity) = workload.identity()
            && !all.contains(&identity)
        {
            all.push(identity);
        }
    }
    all
}

struct Instance<'a> {
    address: SocketAddr,
    workload: Arc<Workload>,
    service: Option<&'a Arc<Service>>,
}

/// An instance of a gateway; else why there is none.
fn instance<'a>(
    snapshot: &'a Snapshot,
    client: &Client,
    at: &GatewayAddress,
    tried: &[SocketAddr],
    dice: &mut Dice,
) -> Result<Instance<'a>, String> {
    if let Some(service) = service_of(snapshot, client, at) {
        let port = hbone_port(service, at);
        let place = mesh_balance::Client {
            elsewhere: Elsewhere::Direct,
            ..client.place()
        };
        return order(snapshot, service, &port, place, dice)
            .into_iter()
            .find(|choice| !tried.contains(&choice.address))
            .map(|choice| Instance {
                address: choice.address,
                workload: choice.workload,
                service: Some(service),
            })
            .ok_or_else(|| {
                let (name, port) = (&service.name, at.hbone_port);
                format!("its gateway {name} has no usable endpoint for port {port}")
            });
    }
    let address = match &at.destination {
        GatewayDestination::Hostname(name) => {
            return Err(format!("its gateway {name} is unknown"));
        }
        GatewayDestination::Address(address) => address,
    };
    let workload = snapshot
        .workload_at(&address.network, address.address)
        .ok_or_else(|| format!("its gateway {address} is unknown"))?;
    let address = SocketAddr::new(address.address, at.hbone_port);
    if tried.contains(&address) {
        return Err(format!("its gateway {address} was tried"));
    }
    Ok(Instance {
        address,
        workload: workload.clone(),
        service: None,
    })
}

/// Where a network's gateway sends what came to it from another network: to the waypoint of the
/// service asked for, when there is one and the sender has not done its work (`from_waypoint`), else
/// to an endpoint. Bytes go on as they are, to where the target's tunnel would begin: what is in them
/// is for the far end alone.
///
/// # Errors
/// [`Reason::WrongDestination`] when no service is asked for by name, [`Reason::NoEndpoint`] when it has
/// none on the gateway's network that takes tunnels, [`Reason::NoWaypoint`].
pub fn network_gateway(
    snapshot: &Snapshot,
    me: &Client,
    authority: &Authority,
    from_waypoint: bool,
    dice: &mut Dice,
) -> Result<Target, Refusal> {
    let refused = |why: &str| {
        let detail = format!("{authority} {why}");
        Refusal::new(Reason::WrongDestination, detail)
    };
    let Authority::Host { host, port } = authority else {
        return Err(refused("is no service: other networks know no other name"));
    };
    let service = snapshot
        .service_by_hostname(host, &me.namespace)
        .ok_or_else(|| refused("is not known here"))?;
    let ours = |at: &&GatewayAddress| {
        let me = me.workload.as_deref();
        !me.is_some_and(|me| is_waypoint_of(snapshot, me, at))
    };
    let at = if from_waypoint {
        None
    } else {
        of_service(service, dice).filter(ours)
    };
    let target = match at {
        Some(at) => {
            let asked = waypoint::Asked {
                destination: asked_address(me, service, *port),
                authority: authority.to_string(),
                service: Some(service),
                port: *port,
            };
            waypoint::target(snapshot, me, at, asked, dice)?
        }
        None => to_service(snapshot, me, service, *port, dice)?,
    };
    match target.transport {
        Transport::Hbone { .. } => Ok(target),
        Transport::Plain | Transport::DoubleHbone { .. } => {
            let detail = format!("{} behind {authority} takes no tunnel", target.destination);
            Err(Refusal::new(Reason::NoEndpoint, detail))
        }
    }
}

#[cfg(test)]
mod tests;
