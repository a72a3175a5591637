//! Sessions with rustls, as tokio-rustls drives it, at the other end.

use super::*;
use crate::testing::{TestCa, id};
use crate::{MeshStream, accept_mesh, connect_mesh};
use rustls::CommonState;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

const SERVER: &str = "spiffe://cluster.local/ns/demo/sa/server";
const CLIENT: &str = "spiffe://cluster.local/ns/demo/sa/client";
/// Small, so that writes are cut.
const PIPE: usize = 3000;

type Ours = Session<DuplexStream>;
type Theirs = MeshStream<DuplexStream>;

impl Ours {
    async fn send(&mut self, data: &[u8]) {
        let mut out = BytesMut::new();
        self.records.seal(&[data], &mut out).unwrap();
        self.stream.write_all(&out).await.unwrap();
    }

    /// Reads until that much data is there, or the end.
    async fn receive(&mut self, length: usize) -> Result<BytesMut, TlsError> {
        let mut plain = BytesMut::new();
        loop {
            let opened = self.records.open(&mut self.early, &mut plain)?;
            if opened.closed || plain.len() >= length {
                return Ok(plain);
            }
            if self.stream.read_buf(&mut self.early).await.unwrap() == 0 {
                return Err(TlsError::Closed);
            }
        }
    }
}

async fn our_server(ca: &TestCa) -> (Ours, Theirs) {
    let (server, client) = (ca.workload(SERVER), ca.workload(CLIENT));
    let (down, up) = duplex(PIPE);
    let expected = Expected::AnyOf(vec![id(SERVER)]);
    let (ours, theirs) = tokio::join!(
        accept_session(up, &server),
        connect_mesh(down, &client, &expected)
    );
    let ours = ours.unwrap();
    assert_eq!(ours.peer.identity, id(CLIENT));
    assert_eq!(ours.peer.key_exchange, "X25519MLKEM768");
    assert_eq!(ours.peer.cipher_suite, "TLS_AES_256_GCM_SHA384");
    (ours, theirs.unwrap().0)
}

async fn our_client(ca: &TestCa) -> (Ours, Theirs) {
    let (server, client) = (ca.workload(SERVER), ca.workload(CLIENT));
    let (down, up) = duplex(PIPE);
    let (ours, theirs) = tokio::join!(
        connect_session(down, &client, &Expected::TrustDomain),
        accept_mesh(up, &server)
    );
    let ours = ours.unwrap();
    assert_eq!(ours.peer.identity, id(SERVER));
    assert_eq!(ours.peer.not_after, server.not_after());
    (ours, theirs.unwrap().0)
}

fn state(stream: &mut Theirs) -> &mut CommonState {
    match stream {
        MeshStream::Client(stream) => stream.get_mut().1,
        MeshStream::Server(stream) => stream.get_mut().1,
    }
}

fn refresh(stream: &mut Theirs) {
    match stream {
        MeshStream::Client(stream) => stream.get_mut().1.refresh_traffic_keys().unwrap(),
        MeshStream::Server(stream) => stream.get_mut().1.refresh_traffic_keys().unwrap(),
    }
}

/// Data both ways at once, the peer's keys and ours changing on the way, and our end replaced by its
/// successor; then the end, both ways.
async fn exchange(mut ours: Ours, mut theirs: Theirs) {
    let data = pattern(200_000);
    ours.records.rekey_after = 4;
    for round in 0..6 {
        let ((), ()) = tokio::join!(ours.send(&data), async {
            let mut got = vec![0; data.len()];
            theirs.read_exact(&mut got).await.unwrap();
            assert!(got == data);
        });
        refresh(&mut theirs);
        let (got, ()) = tokio::join!(ours.receive(data.len()), async {
            theirs.write_all(&data).await.unwrap();
            theirs.flush().await.unwrap();
        });
        assert!(got.unwrap() == data);
        assert!(ours.records.owes_update(), "rustls asks for an answer");
        if round % 2 == 0 {
            ours.records = moved(ours.records);
        }
    }
    theirs.shutdown().await.unwrap();
    assert_eq!(ours.receive(1).await.unwrap().len(), 0);
    let mut out = BytesMut::new();
    ours.records.close_notify(&mut out).unwrap();
    ours.stream.write_all(&out).await.unwrap();
    assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(state(&mut theirs).peer_certificates().is_some());
}

#[tokio::test]
async fn our_server_and_a_rustls_client() {
    let (ours, theirs) = our_server(&TestCa::new("root")).await;
    exchange(ours, theirs).await;
}

#[tokio::test]
async fn our_client_and_a_rustls_server() {
    let (ours, theirs) = our_client(&TestCa::new("root")).await;
    exchange(ours, theirs).await;
}

#[tokio::test]
async fn a_connection_moves_to_a_new_owner_in_the_middle_of_a_record() {
    let (mut ours, mut theirs) = our_server(&TestCa::new("root")).await;
    let data = pattern(100_000);
    let (first, _) = tokio::join!(ours.receive(1), theirs.write_all(&data[..PIPE - 500]));
    let mut got = first.unwrap();
    let writing = async {
        theirs.write_all(&data[PIPE - 500..]).await.unwrap();
        theirs.flush().await.unwrap();
    };
    let reading = async {
        let mut moves = 0;
        while got.len() < data.len() {
            // Part of a record waits in `early`, which goes to the successor too.
            moves += usize::from(!ours.early.is_empty());
            ours.records = moved(ours.records);
            got.unsplit(ours.receive(1).await.unwrap());
            if got.len() < data.len() {
                ours.stream.read_buf(&mut ours.early).await.unwrap();
            }
        }
        moves
    };
    let ((), moves) = tokio::join!(writing, reading);
    assert!(moves > 0 && got == data);
}

#[tokio::test]
async fn two_sessions_speak_and_data_right_behind_the_handshake_is_not_lost() {
    let ca = TestCa::new("root");
    let (server, client) = (ca.workload(SERVER), ca.workload(CLIENT));
    let (down, up) = duplex(1 << 20);
    let (server, _client) = tokio::join!(accept_session(up, &server), async {
        let mut ours = connect_session(down, &client, &Expected::TrustDomain)
            .await
            .unwrap();
        ours.send(b"at once").await;
        ours
    });
    let mut server = server.unwrap();
    assert_eq!(server.receive(7).await.unwrap()[..], *b"at once");
}

#[tokio::test]
async fn a_refused_client_is_told_by_an_alert() {
    let ca = TestCa::new("root");
    let server = ca.workload(SERVER);
    let client = ca.workload("spiffe://other.org/ns/demo/sa/client");
    let (down, up) = duplex(1 << 20);
    let expected = Expected::AnyOf(vec![id(SERVER)]);
    let (accepted, connected) = tokio::join!(
        accept_session(up, &server),
        connect_session(down, &client, &expected)
    );
    let error = accepted.unwrap_err();
    assert!(matches!(error, TlsError::TrustDomain { .. }), "{error}");
    let error = connected.unwrap().receive(1).await.unwrap_err();
    assert!(matches!(error, TlsError::Alert(_)), "{error}");

    let (down, up) = duplex(1 << 20);
    let client = ca.workload(CLIENT);
    let nobody = Expected::AnyOf(Vec::new());
    let (accepted, connected) = tokio::join!(
        accept_session(up, &server),
        connect_session(down, &client, &nobody)
    );
    let error = connected.unwrap_err();
    assert!(
        matches!(error, TlsError::IdentityMismatch { .. }),
        "{error}"
    );
    let error = accepted.unwrap_err();
    assert!(matches!(error, TlsError::Alert(_)), "{error}");
}

#[tokio::test]
async fn garbage_in_place_of_a_handshake_is_refused() {
    let server = TestCa::new("root").workload(SERVER);
    let inputs: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        &[22, 3, 1, 0xff, 0xff, 1, 2, 3],
        &[22, 3, 1, 0, 200, 1, 0],
        b"",
    ];
    for bytes in inputs {
        let (mut down, up) = duplex(1 << 16);
        down.write_all(bytes).await.unwrap();
        down.shutdown().await.unwrap();
        let error = accept_session(up, &server).await.unwrap_err();
        assert!(
            matches!(error, TlsError::Handshake(_) | TlsError::Closed),
            "{bytes:?}: {error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up() {
    let server = TestCa::new("root").workload(SERVER);
    let (_down, up) = duplex(64);
    let error = accept_session(up, &server).await.unwrap_err();
    assert!(matches!(error, TlsError::Timeout));
}

#[tokio::test]
async fn a_handshake_that_comes_in_small_pieces_is_put_together() {
    let ca = TestCa::new("root");
    let (server, client) = (ca.workload(SERVER), ca.workload(CLIENT));
    let (down, up) = duplex(40);
    let (accepted, connected) = tokio::join!(
        accept_session(up, &server),
        connect_session(down, &client, &Expected::TrustDomain)
    );
    accepted.unwrap();
    connected.unwrap();
}
