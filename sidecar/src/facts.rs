//! What a connection's record says: the parties and the service.

use mesh_model::{Service, Snapshot, SpiffeId, Workload};
use mesh_plan::{Target, Transport};
use mesh_telemetry::{ConnectionFacts, Direction, Party, Reporter, Security};
use std::net::SocketAddr;
use std::sync::Arc;

/// A connection of the local application.
pub(crate) fn outbound(client: SocketAddr) -> ConnectionFacts {
    let mut facts = ConnectionFacts::new(Reporter::Source, Direction::Outbound);
    facts.source.address = Some(client);
    facts
}

/// A connection to the local application.
pub(crate) fn inbound(peer: SocketAddr) -> ConnectionFacts {
    let mut facts = ConnectionFacts::new(Reporter::Destination, Direction::Inbound);
    facts.source.address = Some(peer);
    facts
}

/// A connection through a waypoint.
pub(crate) fn waypoint(peer: SocketAddr) -> ConnectionFacts {
    let mut facts = ConnectionFacts::new(Reporter::Waypoint, Direction::Outbound);
    facts.source.address = Some(peer);
    facts
}

/// Where a connection goes that we make.
pub(crate) fn set_target(facts: &mut ConnectionFacts, target: &Target) {
    facts.destination = Party {
        workload: target.workload.clone(),
        identity: None,
        address: Some(target.address),
    };
    if let Transport::Hbone {
        authority,
        expected,
    } = &target.transport
    {
        facts.destination.identity = expected.first().cloned();
        facts.hbone_address = Some(authority.clone());
        facts.security = Security::MutualTls;
    }
    facts.service = target.service.clone();
}

/// Who connected to us. The identity is what TLS proved; the workload is looked up by address, for
/// telemetry only.
pub(crate) fn peer(
    snapshot: &Snapshot,
    network: &str,
    address: SocketAddr,
    identity: Option<&SpiffeId>,
) -> Party {
    Party {
        workload: snapshot.workload_at(network, address.ip()).cloned(),
        identity: identity.cloned(),
        address: Some(address),
    }
}

/// The service an inbound connection was for: the one the client names, if the workload is behind
/// it, else the first with the target port (interop/telemetry.md section 2).
pub(crate) fn service_asked(
    snapshot: &Snapshot,
    local: &Workload,
    host: Option<&str>,
    target_port: u16,
) -> Option<Arc<Service>> {
    let named = local
        .services
        .keys()
        .find(|name| host.is_some_and(|host| *name.hostname == *host));
    let by_port = || {
        let of_port = |(_, ports): &(_, &Vec<mesh_model::ServicePort>)| {
            ports.iter().any(|p| p.target_port == target_port)
        };
        local.services.iter().find(of_port).map(|(name, _)| name)
    };
    snapshot.service(named.or_else(by_port)?).cloned()
}
