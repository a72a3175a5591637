//! What a connection's record says: the parties, the service, and the headers that tell the peer.

pub(crate) use mesh_proxy::facts::{outbound, peer, service_asked};

use http::HeaderMap;
use mesh_hbone::{Baggage, Forwarded};
use mesh_l4::Crossed;
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
    let carried = match &target.transport {
        Transport::Plain => Carried::Tcp,
        Transport::Hbone { .. } => Carried::Hbone,
        Transport::DoubleHbone { .. } => Carried::DoubleHbone,
    };
    record.set_transport(carried);
    if let Some(authority) = target.transport.authority() {
        source.identity = source.workload.as_ref().and_then(|w| w.identity());
        destination.identity = target.transport.proven().cloned();
        record.set_hbone_address(authority.to_owned());
        record.set_security(Security::MutualTls);
    } else {
        source.identity = None;
        record.set_security(Security::Unknown);
    }
    record.set_source(source);
    record.set_destination(destination);
    record.set_service(target.service.clone());
}

/// Tells the record who was found behind the gateway of another network. Its address is the gateway's:
/// no other is known here.
pub(crate) fn set_crossed(record: &mut ConnectionRecord, crossed: &Crossed, network: &str) {
    let gateway = record.facts().destination.address;
    let baggage = crossed.answer.get("baggage").map(Baggage::parse);
    let nobody = Party {
        workload: None,
        identity: Some(crossed.peer.clone()),
        address: gateway,
    };
    record.set_destination(told(nobody, baggage.as_ref(), Some(network)));
}

/// A peer as the baggage of its CONNECT describes it, where that is all there is: its address is not
/// known, or it is a client of another `network` and the address is a gateway's, which tells for whom
/// it speaks (interop/telemetry.md section 2). For telemetry only.
pub(crate) fn told(mut peer: Party, baggage: Option<&Baggage>, network: Option<&str>) -> Party {
    if (peer.workload.is_none() || network.is_some())
        && let Some(baggage) = baggage
        && !baggage.namespace.is_empty()
    {
        let name = &baggage.workload_name;
        let mut workload = Workload::new("", &baggage.namespace, name);
        if let Some(network) = network {
            workload.network = network.into();
        }
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
        ("baggage", Baggage::value_of(local)),
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
    if let Some(value) = Baggage::value_of(local) {
        headers.insert("baggage", value);
    }
    headers
}

/// The network of a client that came through a gateway from another one than ours, as the gateway tells
/// it (interop/hbone.md, "CONNECT request").
pub(crate) fn other_network(headers: &HeaderMap, network: &str) -> Option<String> {
    let theirs = headers.get("x-forwarded-network")?.to_str().ok()?;
    let other = !theirs.is_empty() && !theirs.eq_ignore_ascii_case(network);
    other.then(|| theirs.to_owned())
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
        let peer = told(Party::default(), Some(&baggage), None)
            .workload
            .unwrap();
        assert_eq!((&*peer.namespace, &*peer.workload_name), ("demo", "shop"));
        assert_eq!(
            (&*peer.canonical_name, &*peer.cluster),
            ("shop-app", "west")
        );
        let known = Party {
            workload: Some(Arc::new(Workload::new("u", "other", "w"))),
            ..Party::default()
        };
        let peer = told(known, Some(&baggage), None).workload.unwrap();
        assert_eq!(&*peer.namespace, "other");
        assert!(told(Party::default(), None, None).workload.is_none());
    }

    #[test]
    fn a_client_of_another_network_is_who_it_says() {
        let headers = |network: &'static str| {
            let header = (
                "x-forwarded-network".parse().unwrap(),
                network.parse().unwrap(),
            );
            HeaderMap::from_iter([header])
        };
        let network = other_network(&headers("west"), "east").unwrap();
        let value = "k8s.namespace.name=far,k8s.deployment.name=shop,service.name=web";
        let baggage = Baggage::parse(&value.parse().unwrap());
        let gateway = Party {
            workload: Some(Arc::new(Workload::new("u", "istio-system", "gateway"))),
            ..Party::default()
        };
        let peer = told(gateway.clone(), Some(&baggage), Some(&network));
        let client = peer.workload.unwrap();
        let names = (
            &*client.namespace,
            &*client.workload_name,
            &*client.canonical_name,
        );
        assert_eq!(names, ("far", "shop", "web"));
        assert_eq!(&*client.network, "west");
        let silent = told(gateway, None, Some(&network)).workload.unwrap();
        assert_eq!(&*silent.namespace, "istio-system");
        assert!(other_network(&headers("EAST"), "east").is_none());
        assert!(other_network(&headers(""), "east").is_none());
        assert!(other_network(&HeaderMap::new(), "east").is_none());
    }
}
