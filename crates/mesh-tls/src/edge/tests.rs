//! Certificates by SNI, over real sockets.

use super::*;
use crate::testing::{Leaf, TestCa, dns};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, NamedGroup, RootCertStore};
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use tokio_rustls::TlsConnector;

fn pem(ca: &TestCa, name: &str) -> TlsCertificatePem {
    let (certificate, pair) = ca.sign(Leaf::of(vec![dns(name)]));
    TlsCertificatePem {
        chain_pem: certificate.pem().into(),
        key_pem: pair.serialize_pem().into(),
    }
}

fn client(ca: &TestCa, alpn: &[&[u8]], tls12: bool) -> ClientConfig {
    client_of(provider::edge().clone(), ca, alpn, tls12)
}

fn client_of(
    provider: Arc<CryptoProvider>,
    ca: &TestCa,
    alpn: &[&[u8]],
    tls12: bool,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let root = rustls_pki_types::CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap();
    roots.add(root).unwrap();
    let versions: &[_] = if tls12 {
        &[&rustls::version::TLS12]
    } else {
        &[&rustls::version::TLS13]
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config
}

async fn ask(
    edge: &EdgeTls,
    config: ClientConfig,
    name: &str,
) -> Result<EdgeInfo, (TlsError, bool)> {
    let (down, up) = tokio::io::duplex(16 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let (accepted, connected) = tokio::join!(edge.accept(up), connector.connect(name, down));
    match accepted {
        Ok((_, info)) => {
            connected.expect("the client takes the certificate of the name it asked for");
            Ok(info)
        }
        Err(e) => Err((e, connected.is_err())),
    }
}

fn host(text: &str) -> Option<Host> {
    Some(text.parse().unwrap())
}

#[tokio::test]
async fn the_certificate_is_chosen_by_name() {
    let ca = TestCa::new("root");
    let edge = EdgeTls::new(vec![
        (host("*.example.com"), pem(&ca, "*.example.com")),
        (host("a.example.com"), pem(&ca, "a.example.com")),
        (host("*.b.example.com"), pem(&ca, "*.b.example.com")),
        (host("second.test"), pem(&ca, "first.test")),
        (host("second.test"), pem(&ca, "second.test")),
    ])
    .unwrap();
    for name in [
        "a.example.com",
        "z.example.com",
        "x.b.example.com",
        "second.test",
    ] {
        let info = ask(&edge, client(&ca, &[b"h2", b"http/1.1"], false), name).await;
        let expected = EdgeInfo {
            server_name: Some(name.into()),
            http2: true,
            key_exchange: "X25519MLKEM768",
        };
        assert_eq!(info.unwrap(), expected);
    }
    let info = ask(&edge, client(&ca, &[b"http/1.1"], true), "A.Example.com").await;
    assert_eq!(info.unwrap().server_name.as_deref(), Some("a.example.com"));
    let info = ask(&edge, client(&ca, &[], true), "a.example.com").await;
    assert!(!info.unwrap().http2);
}

#[tokio::test]
async fn a_name_that_nobody_serves_fails() {
    let ca = TestCa::new("root");
    let edge = EdgeTls::new(vec![(host("a.test"), pem(&ca, "a.test"))]).unwrap();
    let refused = ask(&edge, client(&ca, &[], false), "b.test").await;
    assert!(matches!(refused, Err((TlsError::Handshake(_), true))));
    let mut without_sni = client(&ca, &[], false);
    without_sni.enable_sni = false;
    let refused = ask(&edge, without_sni, "a.test").await;
    assert!(matches!(refused, Err((TlsError::Handshake(_), true))));
}

#[tokio::test]
async fn a_certificate_for_every_host_serves_clients_without_sni() {
    let ca = TestCa::new("root");
    let edge = EdgeTls::new(vec![(None, pem(&ca, "a.test"))]).unwrap();
    let mut without_sni = client(&ca, &[], false);
    without_sni.enable_sni = false;
    let info = ask(&edge, without_sni, "a.test").await.unwrap();
    assert_eq!(info.server_name, None);
}

#[test]
fn a_bad_certificate_is_named() {
    let ca = TestCa::new("root");
    let mut mixed = pem(&ca, "a.test");
    mixed.key_pem = pem(&ca, "b.test").key_pem;
    let error = EdgeTls::new(vec![(host("a.test"), mixed)]).unwrap_err();
    assert!(error.to_string().contains("a.test"), "{error}");
    let empty = TlsCertificatePem {
        chain_pem: "".into(),
        key_pem: "".into(),
    };
    let error = EdgeTls::new(vec![(host("a.test"), empty)]).unwrap_err();
    assert!(error.to_string().contains("a.test"), "{error}");
}

#[tokio::test]
async fn a_serving_certificate_is_replaced_in_place() {
    let ca = TestCa::new("root");
    let tls = crate::ServingTls::new().unwrap();
    let (_, up) = tokio::io::duplex(1024);
    let error = tls.accept(up).await.map(drop).unwrap_err();
    assert!(matches!(error, TlsError::NoServingCertificate));
    for name in ["first.test", "second.test"] {
        let certificate = crate::ServingCertificate::from_pem(&pem(&ca, name)).unwrap();
        assert_eq!(certificate.names(), [name]);
        tls.set(&certificate);
        let (down, up) = tokio::io::duplex(16 * 1024);
        let connector = TlsConnector::from(Arc::new(client(&ca, &[b"h2"], false)));
        let server_name = ServerName::try_from(name).unwrap();
        let (accepted, connected) =
            tokio::join!(tls.accept(up), connector.connect(server_name, down));
        accepted.unwrap();
        connected.unwrap();
    }
}

/// A client from before post-quantum key exchange.
fn classical(ca: &TestCa, tls12: bool) -> ClientConfig {
    let mut provider = aws_lc_rs::default_provider();
    let new = NamedGroup::X25519MLKEM768;
    provider.kx_groups.retain(|group| group.name() != new);
    client_of(Arc::new(provider), ca, &[b"h2"], tls12)
}

#[tokio::test]
async fn old_clients_are_served_unless_the_edge_takes_the_post_quantum_exchange_alone() {
    let ca = TestCa::new("root");
    let certificates = || vec![(host("a.test"), pem(&ca, "a.test"))];
    let open = EdgeTls::new(certificates()).unwrap();
    let only = KeyExchange::PostQuantumOnly;
    let strict = EdgeTls::with_key_exchange(certificates(), only).unwrap();
    for edge in [&open, &strict] {
        let agreed = ask(edge, client(&ca, &[b"h2"], false), "a.test").await;
        assert_eq!(agreed.unwrap().key_exchange, "X25519MLKEM768");
    }
    for tls12 in [false, true] {
        let agreed = ask(&open, classical(&ca, tls12), "a.test").await.unwrap();
        assert_eq!(agreed.key_exchange, "x25519");
        let refused = ask(&strict, classical(&ca, tls12), "a.test").await;
        assert!(refused.is_err_and(|(_, client_knows)| client_knows));
    }
}

#[tokio::test]
async fn our_own_servers_can_take_the_post_quantum_exchange_alone() {
    let ca = TestCa::new("root");
    let serving = crate::ServingCertificate::from_pem(&pem(&ca, "ca.test")).unwrap();
    let ask = async |tls: &crate::ServingTls, config| {
        let (down, up) = tokio::io::duplex(16 * 1024);
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("ca.test").unwrap();
        let (accepted, _) = tokio::join!(tls.accept(up), connector.connect(name, down));
        accepted.map(|stream| key_exchange_name(stream.get_ref().1))
    };
    let only = KeyExchange::PostQuantumOnly;
    let strict = crate::ServingTls::with_key_exchange(only).unwrap();
    let open = crate::ServingTls::new().unwrap();
    for tls in [&open, &strict] {
        tls.set(&serving);
        let agreed = ask(tls, client(&ca, &[b"h2"], false)).await;
        assert_eq!(agreed.unwrap(), "X25519MLKEM768");
    }
    let agreed = ask(&open, classical(&ca, false)).await;
    assert_eq!(agreed.unwrap(), "x25519");
    let refused = ask(&strict, classical(&ca, false)).await.unwrap_err();
    assert!(matches!(refused, TlsError::NoKeyExchange), "{refused}");
}
