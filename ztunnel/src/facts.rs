//! What a connection's record says: the parties, the service, and the headers that tell the peer.

use http::HeaderMap;
use mesh_hbone::{Baggage, Forwarded};
use mesh_model::{Dice, Service, Snapshot, SpiffeId, Workload};
use mesh_plan::{Target, Transport};
use mesh_telemetry::{ConnectionFacts, ConnectionRecord, Direction, Party, Reporter, Security};
use std::net::SocketAddr;
use std::sync::Arc;

/// A connection that came to us from the local workload.
pub(crate) fn outbound(client: SocketAddr) -> ConnectionFacts {
    let mut facts = ConnectionFacts::new(Reporter::Source, Direction::Outbound);
    facts.source.address = Some(client);
    facts
}

/// A connection that came to us for the local workload.
pub(crate) fn inbound(peer: SocketAddr, at: Option<SocketAddr>) -> ConnectionFacts {
    let mut facts = ConnectionFacts::new(Reporter::Destination, Direction::Inbound);
    facts.source.address = Some(peer);
    facts.destination.address = at;
    facts
}

/// Tells the record where an outbound connection goes.
pub(crate) fn set_target(record: &mut ConnectionRecord, target: &Target) {
    let mut destination = Party {
        workload: target.workload.clone(),
        identity: None,
        address: Some(target.address),
    };
    if let Transport::Hbone {
        authority,
        expected,
    } = &target.transport
    {
        destination.identity = expected.first().cloned();
        record.set_hbone_address(authority.clone());
        record.set_security(Security::MutualTls);
    }
    record.set_destination(destination);
    record.set_service(target.service.clone());
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

/// The headers of a CONNECT we send (interop/hbone.md, "CONNECT request").
pub(crate) fn request_headers(
    local: &Workload,
    client: SocketAddr,
    service: Option<&Service>,
    dice: &mut Dice,
) -> HeaderMap {
    let forwarded = Forwarded {
        client: Some(client),
        host: service.map(|s| s.name.hostname.to_string()),
    };
    let values = [
        ("baggage", Baggage::of(local).to_value()),
        ("forwarded", forwarded.to_value()),
        ("traceparent", mesh_hbone::new_traceparent(dice)),
    ];
    let mut headers = HeaderMap::with_capacity(values.len());
    for (name, value) in values {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    headers
}

/// The headers of the 200 we answer.
pub(crate) fn response_headers(local: &Workload) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(value) = Baggage::of(local).to_value() {
        headers.insert("baggage", value);
    }
    headers
}
