//! Handshakes over real sockets, good and bad.

use super::*;
use crate::testing::{DAY, Leaf, TestCa, id, uri};
use crate::{PrivateKey, provider};
use mesh_model::Reason;
use rcgen::ExtendedKeyUsagePurpose;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, NamedGroup, ServerConfig};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SERVER: &str = "spiffe://cluster.local/ns/demo/sa/server";
const CLIENT: &str = "spiffe://cluster.local/ns/demo/sa/client";

#[expect(clippy::disallowed_methods, reason = "a test's own loopback pair")]
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

fn any_of(identity: &str) -> Expected {
    Expected::AnyOf(vec![id(identity)])
}

/// A client that presents whatever certificate and checks nothing.
fn careless_client(
    identity: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> TlsConnector {
    #[derive(Debug)]
    struct Anyone;
    impl rustls::client::danger::ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            provider::edge()
                .signature_verification_algorithms
                .supported_schemes()
        }
    }
    let builder = ClientConfig::builder_with_provider(provider::edge().clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone));
    let mut config = match identity {
        Some((certificate, key)) => builder
            .with_client_auth_cert(vec![certificate], key)
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

fn any_name() -> ServerName<'static> {
    ServerName::try_from("anyone.example").unwrap()
}

/// What our server says to a client with this certificate.
async fn server_refuses(
    ca: &TestCa,
    identity: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> TlsError {
    let server = ca.workload(SERVER);
    let (down, up) = pair().await;
    let client = async {
        // The refusal comes after the client's own handshake: keep reading until it is there.
        if let Ok(mut stream) = careless_client(identity).connect(any_name(), down).await {
            stream.read_u8().await.unwrap_err();
        }
    };
    let (result, ()) = tokio::join!(accept_mesh(up, &server), client);
    let error = result.map(|(_, peer)| peer).unwrap_err();
    assert_eq!(error.reason(), Reason::TlsFailure);
    error
}

/// A server that presents whatever certificate and asks for none.
fn careless_server(
    (certificate, key): (CertificateDer<'static>, PrivateKeyDer<'static>),
) -> TlsAcceptor {
    let mut config =
        ServerConfig::builder_with_provider(provider::Provider::of_process().rustls.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// What our client says to a server with this certificate.
async fn client_refuses(
    ca: &TestCa,
    identity: (CertificateDer<'static>, PrivateKeyDer<'static>),
) -> TlsError {
    let client = ca.workload(CLIENT);
    let acceptor = careless_server(identity);
    let (down, up) = pair().await;
    let expected = any_of(SERVER);
    let (result, served) =
        tokio::join!(connect_mesh(down, &client, &expected), acceptor.accept(up));
    assert!(served.is_err());
    let error = result.map(|(_, peer)| peer).unwrap_err();
    assert_eq!(error.reason(), Reason::TlsFailure);
    error
}

#[tokio::test]
async fn two_workloads_know_each_other() {
    let ca = TestCa::new("root");
    let (server, client) = (ca.workload(SERVER), ca.workload(CLIENT));
    let (down, up) = pair().await;
    let expected = any_of(SERVER);
    let (accepted, connected) = tokio::join!(
        accept_mesh(up, &server),
        connect_mesh(down, &client, &expected)
    );
    let (mut accepted, peer_of_server) = accepted.unwrap();
    let (mut connected, peer_of_client) = connected.unwrap();
    assert_eq!(peer_of_server.identity, id(CLIENT));
    assert_eq!(peer_of_server.not_after, client.not_after());
    assert_eq!(peer_of_client.identity, id(SERVER));

    connected.write_all(b"hello").await.unwrap();
    connected.shutdown().await.unwrap();
    let mut text = String::new();
    accepted.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");

    let TlsStream::Server(accepted) = accepted else {
        panic!("the accepting side is the server");
    };
    let state = accepted.get_ref().1;
    assert_eq!(state.server_name(), None);
    assert_eq!(
        state.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    let group = state.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
    let suite = state.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, CipherSuite::TLS13_AES_256_GCM_SHA384);
}

impl WorkloadCertificate {
    fn with_state_of<T>(&self, read: impl FnOnce(&ServerConfig) -> T) -> T {
        read(&self.server())
    }
}

#[tokio::test]
async fn configurations_are_built_once() {
    let certificate = TestCa::new("root").workload(CLIENT);
    let first = certificate.client(&any_of(SERVER)).unwrap();
    let again = certificate.client(&any_of(SERVER)).unwrap();
    let other = certificate.client(&Expected::TrustDomain).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert!(!Arc::ptr_eq(&first, &other));
    assert!(Arc::ptr_eq(&certificate.server(), &certificate.server()));
    assert_eq!(certificate.with_state_of(|c| c.send_tls13_tickets), 0);
}

#[tokio::test]
async fn the_first_workload_identity_is_the_peer_and_other_uris_are_skipped() {
    let ca = TestCa::new("root");
    let sans = vec![uri("https://example.org/x"), uri(CLIENT), uri(SERVER)];
    let identity = ca.der(Leaf::of(sans));
    let server = ca.workload(SERVER);
    let (down, up) = pair().await;
    let connector = careless_client(Some(identity));
    let (accepted, connected) = tokio::join!(
        accept_mesh(up, &server),
        connector.connect(any_name(), down)
    );
    assert_eq!(accepted.unwrap().1.identity, id(CLIENT));
    connected.unwrap();
}

#[tokio::test]
async fn a_client_is_who_it_was_let_in_as_and_not_the_first_name_of_a_foreign_domain() {
    let ca = TestCa::new("root");
    let foreign = "spiffe://elsewhere.example/ns/demo/sa/admin";
    let identity = ca.der(Leaf::of(vec![uri(foreign), uri(CLIENT)]));
    let server = ca.workload(SERVER);
    let connector = careless_client(Some(identity));
    let (down, up) = pair().await;
    let (accepted, connected) = tokio::join!(
        accept_mesh(up, &server),
        connector.connect(any_name(), down)
    );
    assert_eq!(accepted.unwrap().1.identity, id(CLIENT));
    connected.unwrap();

    let (down, up) = pair().await;
    let (accepted, connected) = tokio::join!(
        crate::accept_session(up, &server),
        connector.connect(any_name(), down)
    );
    assert_eq!(accepted.unwrap().peer.identity, id(CLIENT));
    connected.unwrap();
}

#[tokio::test]
async fn any_san_of_a_server_may_be_the_one_expected() {
    let ca = TestCa::new("root");
    let client = ca.workload(CLIENT);
    let acceptor = careless_server(ca.der(Leaf::of(vec![uri(CLIENT), uri(SERVER)])));
    let (down, up) = pair().await;
    let expected = any_of(SERVER);
    let (connected, accepted) =
        tokio::join!(connect_mesh(down, &client, &expected), acceptor.accept(up));
    assert_eq!(connected.unwrap().1.identity, id(SERVER));
    accepted.unwrap();
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let error = server_refuses(&TestCa::new("root"), None).await;
    assert!(matches!(error, TlsError::NoPeerCertificate), "{error}");
}

#[tokio::test]
async fn an_expired_client_is_refused_by_name() {
    let ca = TestCa::new("root");
    let mut leaf = Leaf::of(vec![uri(CLIENT)]);
    leaf.from = SystemTime::now() - 2 * DAY;
    leaf.to = SystemTime::now() - DAY;
    let identity = ca.der(leaf);
    let error = server_refuses(&ca, Some(identity)).await;
    assert!(matches!(error, TlsError::Expired { .. }), "{error}");
    assert!(error.to_string().contains(CLIENT), "{error}");
}

#[tokio::test]
async fn a_client_that_is_not_valid_yet_is_refused() {
    let ca = TestCa::new("root");
    let mut leaf = Leaf::of(vec![uri(CLIENT)]);
    leaf.from = SystemTime::now() + DAY / 2;
    let identity = ca.der(leaf);
    let error = server_refuses(&ca, Some(identity)).await;
    assert!(matches!(error, TlsError::NotYetValid { .. }), "{error}");
}

#[tokio::test]
async fn a_client_without_uri_san_is_refused() {
    let ca = TestCa::new("root");
    let identity = ca.der(Leaf::of(vec![crate::testing::dns("a.example")]));
    let error = server_refuses(&ca, Some(identity)).await;
    assert!(matches!(error, TlsError::NoIdentity { .. }), "{error}");
    assert!(error.to_string().contains("a.example"), "{error}");
}

#[tokio::test]
async fn a_client_of_another_trust_domain_is_refused_by_name() {
    let ca = TestCa::new("root");
    let foreign = "spiffe://other.org/ns/demo/sa/client";
    let identity = ca.der(Leaf::of(vec![uri(foreign)]));
    let error = server_refuses(&ca, Some(identity)).await;
    assert!(matches!(error, TlsError::TrustDomain { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(foreign) && text.contains("cluster.local"),
        "{text}"
    );
}

#[tokio::test]
async fn a_client_of_another_root_is_refused_by_name() {
    let identity = TestCa::new("another").der(Leaf::of(vec![uri(CLIENT)]));
    let error = server_refuses(&TestCa::new("root"), Some(identity)).await;
    assert!(matches!(error, TlsError::UnknownRoot { .. }), "{error}");
    assert!(error.to_string().contains(CLIENT), "{error}");
}

#[tokio::test]
async fn a_root_of_the_same_name_with_another_key_is_refused() {
    let identity = TestCa::new("root").der(Leaf::of(vec![uri(CLIENT)]));
    let error = server_refuses(&TestCa::new("root"), Some(identity)).await;
    assert!(matches!(error, TlsError::UnknownRoot { .. }), "{error}");
}

#[tokio::test]
async fn a_certificate_for_servers_only_is_no_client() {
    let ca = TestCa::new("root");
    let mut leaf = Leaf::of(vec![uri(CLIENT)]);
    leaf.usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let identity = ca.der(leaf);
    let error = server_refuses(&ca, Some(identity)).await;
    assert!(matches!(error, TlsError::BadCertificate { .. }), "{error}");
}

#[tokio::test]
async fn a_client_refuses_each_wrong_server() {
    let ca = TestCa::new("root");
    let mut expired = Leaf::of(vec![uri(SERVER)]);
    expired.from = SystemTime::now() - 2 * DAY;
    expired.to = SystemTime::now() - DAY;
    let mut client_only = Leaf::of(vec![uri(SERVER)]);
    client_only.usages = vec![ExtendedKeyUsagePurpose::ClientAuth];

    let error = client_refuses(&ca, ca.der(expired)).await;
    assert!(matches!(error, TlsError::Expired { .. }), "{error}");
    let error = client_refuses(&ca, ca.der(client_only)).await;
    assert!(matches!(error, TlsError::BadCertificate { .. }), "{error}");
    let error = client_refuses(&ca, ca.der(Leaf::of(Vec::new()))).await;
    assert!(matches!(error, TlsError::NoIdentity { .. }), "{error}");
    let stranger = TestCa::new("another").der(Leaf::of(vec![uri(SERVER)]));
    let error = client_refuses(&ca, stranger).await;
    assert!(matches!(error, TlsError::UnknownRoot { .. }), "{error}");
    let error = client_refuses(&ca, ca.der(Leaf::of(vec![uri(CLIENT)]))).await;
    assert!(
        matches!(error, TlsError::IdentityMismatch { .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains(CLIENT) && text.contains(SERVER), "{text}");
}

#[tokio::test]
async fn a_refused_client_learns_of_it_at_its_next_read() {
    let ca = TestCa::new("root");
    let server = ca.workload(SERVER);
    // A client of the same root whose trust domain is not the server's.
    let client = ca.workload("spiffe://other.org/ns/demo/sa/client");
    let (down, up) = pair().await;
    let expected = any_of(SERVER);
    let (accepted, connected) = tokio::join!(
        accept_mesh(up, &server),
        connect_mesh(down, &client, &expected)
    );
    assert!(accepted.is_err());
    let (mut stream, _) = connected.unwrap();
    let error = TlsError::of_io(stream.read_u8().await.unwrap_err());
    assert!(matches!(error, TlsError::Alert(_)), "{error}");
}

#[tokio::test]
async fn old_tls_and_chacha_are_refused() {
    let ca = TestCa::new("root");
    let server = ca.workload(SERVER);
    let identity = ca.der(Leaf::of(vec![uri(CLIENT)]));
    let chacha = rustls::crypto::CryptoProvider {
        cipher_suites: vec![
            rustls::crypto::aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..rustls::crypto::aws_lc_rs::default_provider()
    };
    let cases = [
        (provider::edge().clone(), &rustls::version::TLS12),
        (Arc::new(chacha), &rustls::version::TLS13),
    ];
    for (provider, version) in cases {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(identity.0.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        let (down, up) = pair().await;
        let connector = TlsConnector::from(Arc::new(config));
        let (accepted, connected) = tokio::join!(
            accept_mesh(up, &server),
            connector.connect(any_name(), down)
        );
        let error = accepted.map(|(_, peer)| peer).unwrap_err();
        assert!(matches!(error, TlsError::Handshake(_)), "{error}");
        assert!(connected.is_err());
    }
}

#[tokio::test]
async fn garbage_and_truncated_bytes_are_refused() {
    let ca = TestCa::new("root");
    let server = ca.workload(SERVER);
    // Not TLS at all, a record that lies about its length, half a record, nothing.
    let inputs: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        &[22, 3, 1, 0xff, 0xff, 1, 2, 3],
        &[22, 3, 1, 0, 200, 1, 0],
        b"",
    ];
    for bytes in inputs {
        let (mut down, up) = pair().await;
        let client = async {
            down.write_all(bytes).await.unwrap();
            down.shutdown().await.unwrap();
            let mut answer = Vec::new();
            // A reset is as good an end as a FIN here.
            drop(down.read_to_end(&mut answer).await);
        };
        let (result, ()) = tokio::join!(
            async { accept_mesh(up, &server).await.map(|(_, peer)| peer) },
            client
        );
        let error = result.unwrap_err();
        assert!(
            matches!(error, TlsError::Handshake(_) | TlsError::Closed),
            "{bytes:?}: {error}"
        );
        assert_eq!(error.reason(), Reason::TlsFailure);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up() {
    let server = TestCa::new("root").workload(SERVER);
    let (_down, up) = tokio::io::duplex(64);
    let error = accept_mesh(up, &server).await.map(|(_, peer)| peer);
    assert!(matches!(error, Err(TlsError::Timeout)));
}

#[tokio::test]
async fn self_signed_workloads_of_one_process_trust_each_other() {
    let server = WorkloadCertificate::self_signed(&id(SERVER)).unwrap();
    let client = WorkloadCertificate::self_signed(&id(CLIENT)).unwrap();
    let (down, up) = pair().await;
    let (accepted, connected) = tokio::join!(
        accept_mesh(up, &server),
        connect_mesh(down, &client, &Expected::TrustDomain)
    );
    assert_eq!(accepted.unwrap().1.identity, id(CLIENT));
    assert_eq!(connected.unwrap().1.identity, id(SERVER));
}

#[test]
fn an_answer_of_the_authority_is_checked() {
    let ca = TestCa::new("root");
    let other = TestCa::new("other");
    let (leaf, pair) = ca.sign(Leaf::of(vec![uri(CLIENT)]));
    let (double, _) = ca.sign(Leaf::of(vec![uri(CLIENT), uri(SERVER)]));
    let (_, wrong_key) = ca.sign(Leaf::of(vec![uri(CLIENT)]));
    let root = &ca.pem;
    let take = |key: &rcgen::KeyPair, chain: &[String]| {
        WorkloadCertificate::from_chain(&id(CLIENT), PrivateKey::of(key), chain)
    };
    assert!(take(&pair, &[leaf.pem(), root.clone()]).is_ok());
    // Both roots of a rotation in one text, as interop/ca.md orders them.
    let bundle = format!("{}{}", other.pem, root);
    assert!(take(&pair, &[leaf.pem(), bundle]).is_ok());

    let error = take(&pair, &[leaf.pem()]).unwrap_err();
    assert!(error.to_string().contains("no root"), "{error}");
    let error = take(&pair, &[]).unwrap_err();
    assert!(error.to_string().contains("no root"), "{error}");
    let error = take(&pair, &[leaf.pem(), other.pem]).unwrap_err();
    assert!(error.to_string().contains("does not hold"), "{error}");
    let error = take(&wrong_key, &[leaf.pem(), root.clone()]).unwrap_err();
    assert!(matches!(error, TlsError::Key(_)), "{error}");
    let error = take(&pair, &[double.pem(), root.clone()]).unwrap_err();
    assert!(
        matches!(error, TlsError::IssuedForAnother { .. }),
        "{error}"
    );
    let requested = id(SERVER);
    let error = WorkloadCertificate::from_chain(
        &requested,
        PrivateKey::of(&pair),
        &[leaf.pem(), root.clone()],
    )
    .unwrap_err();
    let text = error.to_string();
    assert!(text.contains(CLIENT) && text.contains(SERVER), "{text}");
    assert_eq!(error.reason(), Reason::NoIdentity);
}

#[test]
fn a_certificate_is_renewed_half_way() {
    let certificate = TestCa::new("root").workload(CLIENT);
    let validity = certificate
        .not_after()
        .duration_since(certificate.not_before())
        .unwrap();
    assert_eq!(
        certificate.renew_at(),
        certificate.not_before() + validity / 2
    );
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(0u8.., 0..400)) {
        drop(san::Facts::read(&bytes));
        drop(crate::pem::certificates(&String::from_utf8_lossy(&bytes)));
    }
}
