//! What is given, what is assumed, and which mistakes are named.

use super::*;
use std::time::Duration;

fn flags(arguments: &[&str]) -> Flags {
    Flags::try_parse_from([&["ingress-gateway"], arguments].concat()).unwrap()
}

#[test]
fn the_gateway_names_what_is_not_given() {
    let settings = flags(&["--gateway", "shop/front", "--connections-max", "10"])
        .check()
        .unwrap();
    let edge = &settings.edge;
    assert_eq!(
        edge.identity.to_string(),
        "spiffe://cluster.local/ns/shop/sa/front"
    );
    assert_eq!((&*edge.pod_name, edge.mark), ("front", None));
    assert!(edge.worker_connections_max * settings.process.workers >= 10);
    assert_eq!(settings.process.drain_deadline, Duration::from_secs(5));
    let Source::Xds { channel, node, .. } = settings.source else {
        panic!("no control plane");
    };
    assert_eq!(
        node.id(),
        "gateway~127.0.0.1~front.shop~shop.svc.cluster.local"
    );
    assert_eq!(channel.mark, None);
}

#[test]
fn what_is_given_wins() {
    let settings = flags(&[
        "--gateway=shop/front",
        "--pod-namespace=edge",
        "--service-account=door",
        "--packet-mark=1337",
        "--xds-address=control:15012",
        "--termination-grace-s=30",
        "--ztunnel-worker-threads=3",
        "--fake-ca=true",
    ])
    .check()
    .unwrap();
    assert_eq!(settings.edge.identity.namespace(), "edge");
    assert_eq!(settings.edge.identity.service_account(), "door");
    assert_eq!(settings.process.drain_deadline, Duration::from_secs(25));
    assert_eq!(settings.process.workers, 3);
    assert!(matches!(
        settings.certificates,
        CertificateSource::SelfSigned
    ));
    let Source::Xds { channel, .. } = settings.source else {
        panic!("no control plane");
    };
    assert_eq!(channel.address, "https://control:15012");
    assert_eq!(channel.mark, Some(1337));
}

#[test]
fn every_mistake_is_named() {
    let error = flags(&["--gateway=front", "--log-format=xml"])
        .check()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("GATEWAY") && error.contains("LOG_FORMAT"),
        "{error}"
    );
    let error = flags(&["--gateway=a/b", "--trust-domain=a b"])
        .check()
        .unwrap_err()
        .to_string();
    assert!(error.contains("trust domain"), "{error}");
}
