//! What the record of a connection says, as far as every proxy says it: who, and for which service.

use mesh_model::{Service, ServicePort, Snapshot, SpiffeId, Workload};
use mesh_telemetry::{ConnectionFacts, Direction, Party, Reporter};
use std::net::SocketAddr;
use std::sync::Arc;

/// A connection of the local application, from `client`.
pub fn outbound(client: SocketAddr) -> ConnectionFacts {
    let mut facts = ConnectionFacts::new(Reporter::Source, Direction::Outbound);
    facts.source.address = Some(client);
    facts
}

/// A connection to the local application, from `peer`.
pub fn inbound(peer: SocketAddr) -> ConnectionFacts {
    let mut facts = ConnectionFacts::new(Reporter::Destination, Direction::Inbound);
    facts.source.address = Some(peer);
    facts
}

/// Who connected to us. The identity is what TLS proved; the workload is looked up by address, for
/// telemetry only.
pub fn peer(
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
pub fn service_asked(
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
        let of_port = |(_, ports): &(_, &Vec<ServicePort>)| {
            ports.iter().any(|p| p.target_port == target_port)
        };
        local.services.iter().find(of_port).map(|(name, _)| name)
    };
    snapshot.service(named.or_else(by_port)?).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::{AppProtocol, Resource, ServiceName, SnapshotBuilder};

    const POD: &str = "10.0.0.1:4000";

    /// A pod behind two services, and a snapshot that also knows a third.
    fn mesh() -> (Arc<Workload>, Arc<Snapshot>) {
        let mut builder = SnapshotBuilder::new();
        let mut pod = Workload::new("pod", "demo", "web");
        pod.addresses = vec![POD.parse::<SocketAddr>().unwrap().ip()];
        for (name, target_port) in [("a.demo", 8080), ("b.demo", 9090), ("other.demo", 8080)] {
            let name = ServiceName::new("demo", name);
            let port = ServicePort {
                service_port: 80,
                target_port,
                app_protocol: AppProtocol::default(),
            };
            if &*name.hostname != "other.demo" {
                pod.services.insert(name.clone(), vec![port]);
            }
            let service = Service::new(name, "s");
            builder.upsert(Resource::Service(Arc::new(service)));
        }
        let pod = Arc::new(pod);
        builder.upsert(Resource::Workload(pod.clone()));
        (pod, builder.snapshot())
    }

    #[test]
    fn a_service_is_believed_only_of_those_the_workload_is_behind() {
        let (pod, snapshot) = mesh();
        let asked = |host, port| {
            let service = service_asked(&snapshot, &pod, host, port);
            service.map(|s| s.name.hostname.to_string())
        };
        assert_eq!(asked(Some("b.demo"), 8080).as_deref(), Some("b.demo"));
        assert_eq!(asked(Some("other.demo"), 8080).as_deref(), Some("a.demo"));
        assert_eq!(asked(None, 9090).as_deref(), Some("b.demo"));
        assert_eq!(asked(None, 1), None);
    }

    #[test]
    fn a_peer_is_its_proven_identity_and_the_workload_of_its_address() {
        let (pod, snapshot) = mesh();
        let identity = SpiffeId::new("cluster.local", "demo", "x").unwrap();
        let known = peer(&snapshot, "", POD.parse().unwrap(), Some(&identity));
        assert_eq!(known.workload, Some(pod));
        assert_eq!(known.identity, Some(identity));
        let stranger = peer(&snapshot, "", "10.0.0.9:1".parse().unwrap(), None);
        assert!(stranger.workload.is_none() && stranger.identity.is_none());
    }
}
