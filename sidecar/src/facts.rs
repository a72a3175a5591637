//! What a connection's record says: the parties and the service.

pub(crate) use mesh_proxy::facts::{inbound, outbound, peer, service_asked};

use mesh_plan::Target;
use mesh_telemetry::{ConnectionFacts, Direction, Party, Reporter, Security, Transport};
use std::net::SocketAddr;

/// A connection through a waypoint.
pub(crate) fn waypoint(peer: SocketAddr) -> ConnectionFacts {
    let mut facts = ConnectionFacts::new(Reporter::Waypoint, Direction::Outbound);
    facts.source.address = Some(peer);
    facts
}

/// A connection through the gateway of a network: what is in it is not ours to see.
pub(crate) fn network_gateway(peer: SocketAddr) -> ConnectionFacts {
    let mut facts = ConnectionFacts::new(Reporter::Source, Direction::Outbound);
    facts.source.address = Some(peer);
    facts.transport = Transport::DoubleHbone;
    facts
}

/// Where a connection goes that we make.
pub(crate) fn set_target(facts: &mut ConnectionFacts, target: &Target) {
    facts.destination = Party {
        workload: target.workload.clone(),
        identity: None,
        address: Some(target.address),
    };
    if let Some(authority) = target.transport.authority() {
        facts.destination.identity = target.transport.proven().cloned();
        facts.hbone_address = Some(authority.to_owned());
        facts.security = Security::MutualTls;
    }
    facts.service = target.service.clone();
}
