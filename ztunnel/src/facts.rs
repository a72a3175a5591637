//! What a connection's record says: the parties, the service, and the headers that tell the peer.

pub(crate) use mesh_proxy::facts::{outbound, peer, service_asked};

use http::HeaderMap;
use mesh_hbone::{Baggage, Forwarded};
use mesh_model::{Dice, Service, Workload};
use mesh_plan::{Target, Transport};
use mesh_telemetry::{ConnectionFacts, ConnectionRecord, Party, Security};
use std::net::SocketAddr;

/// A connection that came to us for the local workload.
pub(crate) fn inbound(peer: SocketAddr, at: Option<SocketAddr>) -> ConnectionFacts {
    let mut facts = mesh_proxy::facts::inbound(peer);
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
    if let Transport::Hbone { authority, .. } = &target.transport {
        destination.identity = target.transport.proven().cloned();
        record.set_hbone_address(authority.clone());
        record.set_security(Security::MutualTls);
    }
    record.set_destination(destination);
    record.set_service(target.service.clone());
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
