//! Sessions over real sockets, and the one record each leaves.

use super::*;
use mesh_net::{ConnectOptions, ListenOptions, accept, connect, listen};
use mesh_telemetry::{ConnectionFacts, Direction, Metrics, Reporter};
use std::future::pending;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a record may take to show.
const WAIT: std::time::Duration = std::time::Duration::from_secs(5);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = listen(&ListenOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let to = listener.local_addr().unwrap();
    let client = connect(to, &ConnectOptions::default()).await.unwrap();
    let (server, _) = accept(&listener).await.unwrap();
    (client, server)
}

fn record(metrics: &Metrics) -> ConnectionRecord {
    metrics.connection(ConnectionFacts::new(Reporter::Source, Direction::Outbound))
}

#[tokio::test]
async fn bytes_are_counted_while_the_session_lives_and_the_end_is_ok() {
    let ((mut client, down), (up, mut server)) = (pair().await, pair().await);
    let metrics = Metrics::new("test");
    let drain = Drain::new();
    let talking = async {
        client.write_all(b"hello").await.unwrap();
        let mut five = [0; 5];
        server.read_exact(&mut five).await.unwrap();
        server.write_all(b"hi").await.unwrap();
        let mut two = [0; 2];
        client.read_exact(&mut two).await.unwrap();
        let open = metrics.open_connections();
        assert_eq!((open[0].bytes_received, open[0].bytes_sent), (5, 2));
        client.shutdown().await.unwrap();
        server.read_to_end(&mut Vec::new()).await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut two).await.unwrap(), 0);
    };
    let session = run_session(down, up, record(&metrics), pending(), &drain);
    let (reason, ()) = tokio::join!(session, talking);
    assert_eq!(reason, Reason::Ok);
    assert!(metrics.open_connections().is_empty());
}

#[tokio::test]
async fn a_cut_closes_both_ends_with_its_reason() {
    let ((mut client, down), (up, mut server)) = (pair().await, pair().await);
    let metrics = Metrics::new("test");
    let tap = metrics.tap_records(4);
    let cut = std::future::ready(Reason::PolicyRevoked);
    let reason = run_session(down, up, record(&metrics), cut, &Drain::new()).await;
    assert_eq!(reason, Reason::PolicyRevoked);
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
    let line = serde_json::to_string(&tap.next(WAIT).unwrap()).unwrap();
    assert!(line.contains("policy_revoked"), "{line}");
    assert!(tap.next(std::time::Duration::ZERO).is_none());
}

#[tokio::test]
async fn a_drain_lets_the_session_run_until_it_is_forced() {
    let ((mut client, down), (up, mut server)) = (pair().await, pair().await);
    let metrics = Metrics::new("test");
    let drain = Drain::new();
    drain.start();
    let talking = async {
        client.write_all(b"x").await.unwrap();
        server.read_exact(&mut [0; 1]).await.unwrap();
        drain.force();
    };
    let session = run_session(down, up, record(&metrics), pending(), &drain);
    let (reason, ()) = tokio::join!(session, talking);
    assert_eq!(reason, Reason::Drained);
}

#[tokio::test]
async fn the_side_that_reset_is_the_reason() {
    let ((client, down), (up, server)) = (pair().await, pair().await);
    let metrics = Metrics::new("test");
    // Unread bytes make the close a reset.
    let up_peer = server;
    let drain = Drain::new();
    let session = run_session(down, up, record(&metrics), pending(), &drain);
    let talking = async {
        let mut client = client;
        client.write_all(b"never read").await.unwrap();
        up_peer.peek(&mut [0; 1]).await.unwrap();
        drop(up_peer);
        client
    };
    let (reason, _client) = tokio::join!(session, talking);
    assert_eq!(reason, Reason::UpstreamReset);
}
