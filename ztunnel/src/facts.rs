//! What a connection's record says: the parties, the service, and the headers that tell the peer.

pub(crate) use mesh_proxy::facts::{outbound, peer, service_asked};

use http::HeaderMap;
use mesh_hbone::{Baggage, Forwarded};
use mesh_model::{Dice, Service, Workload};
use mesh_plan::{Target, Transport};
use mesh_telemetry::{ConnectionFacts, ConnectionRecord, Party, Security, Transport as Carried};
use std::net::SocketAddr;
use std::sync::Arc;

/// A connection that came to us for the local workload.
pub(crate) fn inbound(peer: SocketAddr, at: Option<SocketAddr>) -> ConnectionFacts {
    let mut facts = mesh_proxy::facts::inbound(peer);
    facts.destination.address = at;
    facts
}

/// Tells the record where an outbound connection goes. Over plaintext our identity is told to nobody,
/// so it is not the connection's; whom it reaches is known all the same.
pub(crate) fn set_target(record: &mut ConnectionRecord, target: &Target) {
    let mut source = record.facts().source.clone();
    let mut destination = Party {
        workload: target.workload.clone(),
        identity: target.workload.as_ref().and_then(|w| w.identity()),
        address: Some(target.address),
    };
    if let Transport::Hbone { authority, .. } = &target.transport {
        source.identity = source.workload.as_ref().and_then(|w| w.identity());
        destination.identity = target.transport.proven().cloned();
        record.set_hbone_address(authority.clone());
        record.set_security(Security::MutualTls);
        record.set_transport(Carried::Hbone);
    } else {
        source.identity = None;
        record.set_security(Security::Unknown);
        record.set_transport(Carried::Tcp);
    }
    record.set_source(source);
    record.set_destination(destination);
    record.set_service(target.service.clone());
}

/// A peer whose address is not known, as the baggage of its CONNECT describes it: a gateway of another
/// network tells for whom it speaks (interop/telemetry.md section 2). For telemetry only.
pub(crate) fn told(mut peer: Party, baggage: Option<&Baggage>) -> Party {
    if let (None, Some(baggage)) = (&peer.workload, baggage)
        && !baggage.namespace.is_empty()
    {
        let name = &baggage.workload_name;
        let mut workload = Workload::new("", &baggage.namespace, name);
        workload.workload_name = name.as_str().into();
        workload.canonical_name = baggage.service_name.as_str().into();
        workload.canonical_revision = baggage.service_version.as_str().into();
        workload.cluster = baggage.cluster.as_str().into();
        workload.locality.region = baggage.region.as_str().into();
        workload.locality.zone = baggage.zone.as_str().into();
        peer.workload = Some(Arc::new(workload));
    }
    peer
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baggage_fills_in_a_peer_that_is_not_known_and_no_other() {
        let baggage = Baggage {
            cluster: "west".into(),
            namespace: "demo".into(),
            workload_name: "shop".into(),
            service_name: "shop-app".into(),
            ..Baggage::default()
        };
        let peer = told(Party::default(), Some(&baggage)).workload.unwrap();
        assert_eq!((&*peer.namespace, &*peer.workload_name), ("demo", "shop"));
        assert_eq!(
            (&*peer.canonical_name, &*peer.cluster),
            ("shop-app", "west")
        );
        let known = Party {
            workload: Some(Arc::new(Workload::new("u", "other", "w"))),
            ..Party::default()
        };
        let peer = told(known, Some(&baggage)).workload.unwrap();
        assert_eq!(&*peer.namespace, "other");
        assert!(told(Party::default(), None).workload.is_none());
    }
}
