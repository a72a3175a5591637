//! What a channel offers under `COMPLIANCE_POLICY=pqc`. A program of its own: the setting is the
//! process's.

use mesh_grpc::{ChannelSettings, TextSource};
use mesh_net::ListenOptions;
use mesh_testkit::{Leaf, TestCa};
use mesh_tls::{KeyExchange, ServingCertificate, ServingTls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The extension `supported_groups` with `X25519MLKEM768` alone (RFC 8446 section 4.2.7).
const ONLY_POST_QUANTUM: [u8; 8] = [0, 10, 0, 4, 0, 2, 0x11, 0xec];

#[tokio::test]
async fn a_channel_offers_the_post_quantum_exchange_alone_and_a_server_agrees_on_it() {
    mesh_tls::install_provider_with(KeyExchange::PostQuantumOnly);
    let ca = TestCa::new();
    let tls = ServingTls::with_key_exchange(KeyExchange::PostQuantumOnly).unwrap();
    let certificate = ca.issue(Leaf::new().dns("control.test"));
    tls.set(&ServingCertificate::from_pem(&certificate).unwrap());

    let listener = mesh_net::listen(&ListenOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let settings = ChannelSettings {
        address: format!("https://{}", listener.local_addr().unwrap()),
        root: Some(TextSource::Literal(ca.root_pem().into())),
        server_name: Some("control.test".into()),
        token: None,
        metadata: Vec::new(),
        mark: None,
    };
    let serving = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        // The ClientHello in one record, looked at and passed on.
        let mut hello = vec![0; 5];
        tcp.read_exact(&mut hello).await.unwrap();
        let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
        hello.resize(5 + length, 0);
        tcp.read_exact(&mut hello[5..]).await.unwrap();
        let mut windows = hello.windows(ONLY_POST_QUANTUM.len());
        assert!(windows.any(|window| window == ONLY_POST_QUANTUM));
        let (mut near, far) = tokio::io::duplex(1 << 16);
        near.write_all(&hello).await.unwrap();
        let passing = tokio::io::copy_bidirectional(&mut near, &mut tcp);
        tokio::select! {
            accepted = tls.accept(far) => accepted.unwrap(),
            passed = passing => panic!("{passed:?}"),
        };
    };
    // The server ends with the handshake, whatever becomes of the channel then.
    let (channel, ()) = tokio::join!(settings.connect(), serving);
    drop(channel);
}
