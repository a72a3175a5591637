//! Where a connection to a workload ends, tunnelled or not: the decision of the proxy in front of a workload.

use crate::{Authority, Refusal, is_waypoint_of, waypoint};
use mesh_model::{
    AppProtocol, GatewayAddress, PORT_HBONE, PORT_INBOUND_PLAINTEXT, PORT_OUTBOUND, Reason,
    ServicePort, Snapshot, Workload,
};
use std::net::{IpAddr, SocketAddr};

/// The application's address for a CONNECT that reached `local` at `local_ip` (interop/hbone.md,
/// authority-IP rule). The address is always `local_ip`; only the port comes from the authority.
///
/// # Errors
/// [`Reason::WrongDestination`] when the authority names something else than this workload;
/// [`Reason::ConnectFailed`] for the proxy's own ports; [`Reason::NoEndpoint`] when a host name or
/// its port is not known.
pub fn inbound(
    snapshot: &Snapshot,
    local: &Workload,
    local_ip: IpAddr,
    authority: &Authority,
) -> Result<SocketAddr, Refusal> {
    let local_ip = local_ip.to_canonical();
    let port = match authority {
        Authority::Address(address) => {
            if !names_us(snapshot, local, local_ip, address.ip().to_canonical()) {
                return Err(elsewhere(local, authority));
            }
            address.port()
        }
        Authority::Host { host, port } => port_of_host(snapshot, local, host, *port)?,
    };
    // A CONNECT to a port of the proxy itself would go round in circles.
    if own_port(port) {
        let detail = format!("port {port} belongs to the proxy");
        return Err(Refusal::new(Reason::ConnectFailed, detail));
    }
    Ok(SocketAddr::new(local_ip, port))
}

/// The application's address for a connection that came to `destination` without a tunnel.
///
/// Redirection takes whatever reaches the pod's interface, so a neighbour on the wire that frames
/// a packet for another host to this pod would be relayed there with the pod's address. Only the
/// workload's own addresses are taken, and those that `on_interface` finds in its network namespace:
/// a pod may have more than the control plane knows of. Loopback is never one of them, for nothing
/// from outside may reach what listens there.
///
/// # Errors
/// [`Reason::WrongDestination`] for any other address, and for the proxy's own ports: what was not
/// captured has the listener itself as its destination and would go round in circles.
pub fn plaintext(
    local: &Workload,
    destination: SocketAddr,
    on_interface: impl FnOnce(IpAddr) -> bool,
) -> Result<SocketAddr, Refusal> {
    let ip = destination.ip().to_canonical();
    let refused =
        |why: &str| Refusal::new(Reason::WrongDestination, format!("{destination} {why}"));
    if own_port(destination.port()) {
        return Err(refused("is a port of this proxy itself"));
    }
    if !local.addresses.contains(&ip) && (ip.is_loopback() || !on_interface(ip)) {
        let why = format!("is no address of {}", local.object_name());
        return Err(refused(&why));
    }
    Ok(SocketAddr::new(ip, destination.port()))
}

fn own_port(port: u16) -> bool {
    [PORT_OUTBOUND, PORT_INBOUND_PLAINTEXT, PORT_HBONE].contains(&port)
}

/// What a port of the workload's application speaks, as a service it stands behind declares it; of
/// several declarations the first by service name.
pub fn inbound_protocol(snapshot: &Snapshot, local: &Workload, port: u16) -> AppProtocol {
    let declared = local.services.iter().flat_map(|(name, own)| {
        let own = own.iter().filter(|p| p.target_port == port).copied();
        let service = snapshot.service(name);
        let of_service = service.into_iter().flat_map(move |service| {
            let here =
                move |p: &&ServicePort| mesh_balance::target_port(local, service, p) == Some(port);
            service.ports.iter().filter(here).copied()
        });
        own.chain(of_service)
    });
    declared
        .map(|p| p.app_protocol)
        .find(|protocol| *protocol != AppProtocol::Unknown)
        .unwrap_or_default()
}

/// Whether an address may be asked for here: it is the one connected to, or `local` is the waypoint of
/// what is at it, or `local` takes connections for others by an application tunnel.
fn names_us(snapshot: &Snapshot, local: &Workload, local_ip: IpAddr, asked: IpAddr) -> bool {
    let bound = |at: &GatewayAddress| is_waypoint_of(snapshot, local, at);
    let workload = || snapshot.workload_at(&local.network, asked);
    let service = || snapshot.service_at(&local.network, asked, &local.namespace);
    asked == local_ip
        || local.application_tunnel.is_some()
        || workload().is_some_and(|w| w.waypoint.as_ref().is_some_and(bound))
        || service().is_some_and(|s| waypoint::waypoints(s).any(bound))
}

/// Service port, then the endpoint's own map, then the service's target port.
fn port_of_host(
    snapshot: &Snapshot,
    local: &Workload,
    host: &str,
    port: u16,
) -> Result<u16, Refusal> {
    let unknown = |detail| Refusal::new(Reason::NoEndpoint, detail);
    let service = snapshot
        .service_by_hostname(host, &local.namespace)
        .ok_or_else(|| unknown(format!("no service is called {host}")))?;
    if !local.services.contains_key(&service.name) && local.application_tunnel.is_none() {
        let asked = Authority::Host {
            host: host.to_owned(),
            port,
        };
        return Err(elsewhere(local, &asked));
    }
    service
        .port(port)
        .and_then(|p| mesh_balance::target_port(local, service, p))
        .ok_or_else(|| unknown(format!("{host} has no port {port} here")))
}

fn elsewhere(local: &Workload, authority: &Authority) -> Refusal {
    let detail = format!("{authority} is not {}", local.object_name());
    Refusal::new(Reason::WrongDestination, detail)
}

#[cfg(test)]
mod tests;
