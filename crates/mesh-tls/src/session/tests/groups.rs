//! Which key exchange is agreed on, by default and where only the post-quantum one is allowed.

use super::*;
use crate::testing::{TestCa, pair_of};
use crate::{AeadChoice, Cryptography, KeyExchange, TlsPolicy};
use mesh_model::Reason;
use rustls::NamedGroup;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

const SERVER: &str = "spiffe://cluster.local/ns/demo/sa/server";
const CLIENT: &str = "spiffe://cluster.local/ns/demo/sa/client";

fn only_post_quantum() -> TlsPolicy {
    TlsPolicy::default().with_cryptography(Cryptography {
        key_exchange: KeyExchange::PostQuantumOnly,
        ..Cryptography::default()
    })
}

/// A peer from before post-quantum key exchange.
fn classical() -> TlsPolicy {
    let defaults = aws_lc_rs::default_provider();
    let x25519 = |group: &&dyn rustls::crypto::SupportedKxGroup| group.name() == NamedGroup::X25519;
    TlsPolicy::default().with_provider(CryptoProvider {
        kx_groups: defaults.kx_groups.iter().copied().filter(x25519).collect(),
        ..defaults
    })
}

#[tokio::test]
async fn the_post_quantum_exchange_is_first_and_a_classical_peer_is_served_by_default() {
    let ca = TestCa::new("root");
    let default = TlsPolicy::default();
    for (server, client, group) in [
        (&default, &default, "X25519MLKEM768"),
        (&default, &classical(), "x25519"),
        (&classical(), &default, "x25519"),
        (&only_post_quantum(), &default, "X25519MLKEM768"),
        (&default, &only_post_quantum(), "X25519MLKEM768"),
        (&only_post_quantum(), &only_post_quantum(), "X25519MLKEM768"),
    ] {
        let server = ca.workload_with(SERVER, server);
        let client = ca.workload_with(CLIENT, client);
        let (accepted, connected) = pair_of(&server, &client).await;
        assert_eq!(accepted.unwrap().key_exchange, group);
        assert_eq!(connected.unwrap().key_exchange, group);
    }
}

#[tokio::test]
async fn a_classical_peer_is_refused_where_only_the_post_quantum_exchange_is_allowed() {
    let ca = TestCa::new("root");
    let (strict, classical) = (
        ca.workload_with(SERVER, &only_post_quantum()),
        ca.workload_with(CLIENT, &classical()),
    );
    let (accepted, connected) = pair_of(&strict, &classical).await;
    let error = accepted.unwrap_err();
    assert!(matches!(error, TlsError::NoKeyExchange), "{error}");
    assert!(error.to_string().contains("COMPLIANCE_POLICY=pqc"));
    assert_eq!(error.reason(), Reason::TlsFailure);
    assert!(matches!(connected.unwrap_err(), TlsError::Alert(_)));

    // The other way round the server says that it has nothing in common, and we are told by alert.
    let (accepted, connected) = pair_of(&classical, &strict).await;
    assert!(matches!(accepted.unwrap_err(), TlsError::NoKeyExchange));
    assert!(matches!(connected.unwrap_err(), TlsError::Alert(_)));
}

#[tokio::test]
async fn each_library_seals_what_the_other_opens() {
    let ca = TestCa::new("root");
    let of = |library| {
        TlsPolicy::default().with_cryptography(Cryptography {
            aead: AeadChoice::Fixed(library),
            ..Cryptography::default()
        })
    };
    let (ring, aws_lc) = (of(AeadLibrary::Ring), of(AeadLibrary::AwsLc));
    for (server, client) in [(&ring, &aws_lc), (&aws_lc, &ring)] {
        let server = ca.workload_with(SERVER, server);
        let client = ca.workload_with(CLIENT, client);
        let (accepted, connected) = pair_of(&server, &client).await;
        accepted.unwrap();
        connected.unwrap();
    }
}
