//! Waypoints: finding the one in front of a destination, and what one of them serves.

use crate::across::{self, Wanted};
use crate::endpoint::expected;
use crate::{Authority, Client, Refusal, Target, TargetKind, Transport};
use mesh_balance::Choice;
use mesh_model::{
    AppProtocol, Dice, GatewayAddress, GatewayDestination, Reason, Service, ServicePort, Snapshot,
    Workload,
};
use std::net::SocketAddr;
use std::sync::Arc;

/// What a CONNECT to a waypoint asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaypointTarget {
    /// A port of a service: plan each request with [`crate::http`], or [`crate::to_service`].
    Service {
        /// The service.
        service: Arc<Service>,
        /// The port asked for.
        port: u16,
    },
    /// A workload by its own address: [`crate::to_workload`].
    Workload {
        /// The workload.
        workload: Arc<Workload>,
        /// The address asked for.
        address: SocketAddr,
    },
}

/// What the waypoint `me` serves under an authority: only services and workloads bound to it
/// (interop/waypoint.md section 3).
///
/// # Errors
/// [`Reason::WrongDestination`] when nothing of that name is bound to `me`.
pub fn waypoint(
    snapshot: &Snapshot,
    me: &Workload,
    authority: &Authority,
) -> Result<WaypointTarget, Refusal> {
    let bound = |at: &GatewayAddress| is_waypoint_of(snapshot, me, at);
    let service = match authority {
        Authority::Host { host, .. } => snapshot.service_by_hostname(host, &me.namespace),
        Authority::Address(address) => {
            let ip = address.ip().to_canonical();
            match snapshot.workload_at(&me.network, ip) {
                // As in `outbound`: the workload's waypoint decides where both are known.
                Some(workload) if workload.waypoint.as_ref().is_some_and(bound) => {
                    return Ok(WaypointTarget::Workload {
                        workload: workload.clone(),
                        address: SocketAddr::new(ip, address.port()),
                    });
                }
                _ => snapshot.service_at(&me.network, ip, &me.namespace),
            }
        }
    };
    match service {
        Some(service) if waypoints(service).any(bound) => Ok(WaypointTarget::Service {
            service: service.clone(),
            port: authority.port(),
        }),
        _ => Err(Refusal::new(
            Reason::WrongDestination,
            format!("{authority} is not bound to waypoint {}", me.object_name()),
        )),
    }
}

/// Whether `me` is an instance of the waypoint at an address.
pub fn is_waypoint_of(snapshot: &Snapshot, me: &Workload, at: &GatewayAddress) -> bool {
    match &at.destination {
        GatewayDestination::Hostname(name) => me.services.contains_key(name),
        GatewayDestination::Address(at) => {
            let mine = || me.network == at.network && me.addresses.contains(&at.address);
            snapshot
                .service_at(&at.network, at.address, &me.namespace)
                .is_some_and(|service| me.services.contains_key(&service.name))
                || mine()
        }
    }
}

/// Every waypoint a service names.
pub(crate) fn waypoints(service: &Service) -> impl Iterator<Item = &GatewayAddress> {
    let weighted = service.weighted_waypoints.iter().map(|w| &w.destination);
    service.waypoint.iter().chain(weighted)
}

/// The waypoint that takes a connection to a service: by weight where weights are given.
pub(crate) fn of_service<'a>(service: &'a Service, dice: &mut Dice) -> Option<&'a GatewayAddress> {
    let weights = service.weighted_waypoints.iter();
    let mut left = dice.below(weights.clone().map(|w| u64::from(w.weight)).sum());
    weights
        .filter(|w| w.weight > 0)
        .find(|w| {
            let weight = u64::from(w.weight);
            let hit = left < weight;
            left = left.saturating_sub(weight);
            hit
        })
        .map(|w| &w.destination)
        .or(service.waypoint.as_ref())
}

/// What is asked of a waypoint.
pub(crate) struct Asked<'a> {
    /// The address asked for.
    pub(crate) destination: SocketAddr,
    /// How the CONNECT names it.
    pub(crate) authority: String,
    /// The service it is, if one.
    pub(crate) service: Option<&'a Arc<Service>>,
    /// The port asked for.
    pub(crate) port: u16,
}

/// The instance of a waypoint that takes a connection. There is no way past a waypoint that cannot be
/// reached: its policies would be passed by as well.
pub(crate) fn target(
    snapshot: &Snapshot,
    client: &Client,
    at: &GatewayAddress,
    asked: Asked<'_>,
    dice: &mut Dice,
) -> Result<Target, Refusal> {
    let no_waypoint =
        |why: String| Refusal::new(Reason::NoWaypoint, format!("{}: {why}", asked.authority));
    let (choice, service) = instance(snapshot, client, at, dice).map_err(no_waypoint)?;
    if choice.workload.network != client.network {
        let network = &choice.workload.network;
        let by_address = || {
            let why = "only what is addressed to a service is carried there";
            no_waypoint(format!("its waypoint is on network {network}, and {why}"))
        };
        let wanted = Wanted {
            service: asked.service.ok_or_else(by_address)?,
            port: asked.port,
            there: &choice.workload,
            answered_by: service,
        };
        return across::target(snapshot, client, &wanted, &[], dice);
    }
    let port = asked.service.and_then(|s| s.port(asked.port));
    Ok(Target {
        address: choice.address,
        transport: Transport::Hbone {
            authority: asked.authority,
            expected: expected(&choice.workload, service),
        },
        workload: Some(choice.workload),
        service: asked.service.cloned(),
        service_port: asked.service.map(|_| asked.port),
        kind: TargetKind::Waypoint,
        app_protocol: port.map_or(AppProtocol::Unknown, |p| p.app_protocol),
        destination: asked.destination,
    })
}

/// Another instance of the waypoint of a target that failed, not one of those tried.
pub(crate) fn another(
    snapshot: &Snapshot,
    client: &Client,
    failed: &Target,
    tried: &[SocketAddr],
    dice: &mut Dice,
) -> Option<Target> {
    let me = failed.workload.as_deref()?;
    let bound = |at: &&GatewayAddress| is_waypoint_of(snapshot, me, at);
    let at = match &failed.service {
        Some(service) => waypoints(service).find(bound),
        None => {
            let asked = snapshot.workload_at(&client.network, failed.destination.ip());
            asked.and_then(|w| w.waypoint.as_ref()).filter(bound)
        }
    }?;
    let service = service_of(snapshot, client, at)?;
    let port = hbone_port(service, at);
    let choice = mesh_balance::order(snapshot, service, &port, client.place(), dice)
        .into_iter()
        .find(|choice| {
            choice.workload.network == client.network && !tried.contains(&choice.address)
        })?;
    let Transport::Hbone { authority, .. } = &failed.transport else {
        return None;
    };
    Some(Target {
        address: choice.address,
        transport: Transport::Hbone {
            authority: authority.clone(),
            expected: expected(&choice.workload, Some(service)),
        },
        workload: Some(choice.workload),
        ..failed.clone()
    })
}

/// An instance of a waypoint, and the waypoint's Service when it has one; else why there is none.
fn instance<'a>(
    snapshot: &'a Snapshot,
    client: &Client,
    at: &GatewayAddress,
    dice: &mut Dice,
) -> Result<(Choice, Option<&'a Arc<Service>>), String> {
    if let Some(service) = service_of(snapshot, client, at) {
        let port = hbone_port(service, at);
        return mesh_balance::choose(snapshot, service, &port, client.place(), dice)
            .map(|choice| (choice, Some(service)))
            .ok_or_else(|| {
                let (name, port) = (&service.name, at.hbone_port);
                format!("its waypoint {name} has no usable endpoint for port {port}")
            });
    }
    let address = match &at.destination {
        GatewayDestination::Hostname(name) => {
            return Err(format!("its waypoint {name} is unknown"));
        }
        GatewayDestination::Address(address) => address,
    };
    snapshot
        .workload_at(&address.network, address.address)
        .filter(|w| w.network == client.network || client.across_networks)
        .map(|w| {
            let choice = Choice {
                workload: w.clone(),
                address: SocketAddr::new(address.address, at.hbone_port),
            };
            (choice, None)
        })
        .ok_or_else(|| format!("its waypoint {address} is unknown"))
}

pub(crate) fn service_of<'a>(
    snapshot: &'a Snapshot,
    client: &Client,
    at: &GatewayAddress,
) -> Option<&'a Arc<Service>> {
    match &at.destination {
        GatewayDestination::Hostname(name) => snapshot.service(name),
        GatewayDestination::Address(at) => {
            snapshot.service_at(&at.network, at.address, &client.namespace)
        }
    }
}

/// The HBONE port as the waypoint's Service maps it. Where the Service does not, only an endpoint with
/// an application tunnel may be used, and target port 0 says so.
pub(crate) fn hbone_port(service: &Service, at: &GatewayAddress) -> ServicePort {
    service.port(at.hbone_port).copied().unwrap_or(ServicePort {
        service_port: at.hbone_port,
        target_port: 0,
        app_protocol: AppProtocol::Unknown,
    })
}

#[cfg(test)]
mod tests;
