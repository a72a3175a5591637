//! Sessions over real sockets, and the one record each leaves.

use super::*;
use http::HeaderMap;
use mesh_hbone::{
    ConnectRequest, Dial, Incoming, KeepAlive, Pool, PoolSettings, ServerSettings, TunnelKey,
    revive, serve_session,
};
use mesh_model::SpiffeId;
use mesh_net::{ConnectOptions, ListenOptions, accept, connect, listen};
use mesh_runtime::Scope;
use mesh_telemetry::{ConnectionFacts, Direction, Metrics, Reporter};
use mesh_tls::{Expected, WorkloadCertificate};
use std::cell::Cell;
use std::sync::Arc;
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

/// Bytes each way of a session that is stopped again and again.
const BODY: u32 = 20_000_001;
/// Bytes between two stops.
const STRIDE: u64 = 250_000;

fn body(of: usize) -> Vec<u8> {
    (0..BODY).map(|i| i.to_le_bytes()[of] ^ 0x55).collect()
}

/// Says `say` and ends, and gives what it heard until the other's end.
async fn talk(mut tcp: TcpStream, say: Vec<u8>) -> Vec<u8> {
    let (mut read, mut write) = tcp.split();
    let mut heard = Vec::new();
    let saying = async {
        write.write_all(&say).await.unwrap();
        write.shutdown().await.unwrap();
    };
    tokio::join!(saying, async {
        read.read_to_end(&mut heard).await.unwrap();
    });
    heard
}

/// Runs a session that is stopped every [`STRIDE`] bytes, handed to `apart` and gone on with.
async fn in_pieces<D, U>(
    mut session: Session<D, U>,
    mut apart: impl AsyncFnMut(Session<D, U>) -> Session<D, U>,
) -> Reason
where
    D: AsyncRead + AsyncWrite + Unpin + 'static,
    U: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let drain = Drain::new();
    loop {
        let counts = session.record.counters();
        let goal = counts.sent() + counts.received() + STRIDE;
        let far_enough = async {
            while counts.sent() + counts.received() < goal {
                tokio::task::yield_now().await;
            }
        };
        match session.run_until(pending(), &drain, far_enough).await {
            SessionEnd::Ended(reason) => return reason,
            SessionEnd::Stopped(stopped) => session = apart(*stopped).await,
        }
    }
}

#[tokio::test]
async fn a_stopped_session_goes_on_with_nothing_lost_and_has_one_record() {
    let ((client, down), (up, server)) = (pair().await, pair().await);
    let metrics = Metrics::new("test");
    let tap = metrics.tap_records(4);
    let (mut stops, mut held) = (0, 0);
    let session = Session::new(down, up, record(&metrics));
    let running = in_pieces(session, async |stopped| {
        stops += 1;
        held += stopped.unsent.forth.len() + stopped.unsent.back.len();
        stopped
    });
    let (reason, at_client, at_server) =
        tokio::join!(running, talk(client, body(0)), talk(server, body(1)));
    assert_eq!(reason, Reason::Ok);
    assert!(at_client == body(1) && at_server == body(0));
    assert!(stops > 3, "{stops} stops, {held} bytes held");
    let line = serde_json::to_string(&tap.next(WAIT).unwrap()).unwrap();
    let all = BODY.to_string();
    assert_eq!(line.matches(&all).count(), 2, "{line}");
    assert!(tap.next(std::time::Duration::ZERO).is_none());
}

#[tokio::test]
async fn what_one_side_has_not_taken_is_there_when_a_session_is_stopped() {
    let (near, down) = tokio::io::duplex(64 * 1024);
    let (up, far) = tokio::io::duplex(1000);
    let (mut near, mut far) = (near, far);
    let metrics = Metrics::new("test");
    near.write_all(&body(0)[..5000]).await.unwrap();
    let drain = Drain::new();
    let session = Session::new(down, up, record(&metrics));
    let stopped = session.run_until(pending(), &drain, std::future::ready(()));
    let SessionEnd::Stopped(stopped) = stopped.await else {
        panic!("it has not ended");
    };
    assert_eq!(stopped.unsent.forth, body(0)[1000..5000]);
    assert_eq!(stopped.record.counters().received(), 1000);
    drop(near);
    let mut arrived = Vec::new();
    let rest = stopped.run_until(pending(), &drain, pending());
    let reading = async {
        far.read_to_end(&mut arrived).await.unwrap();
        drop(far);
    };
    let (end, ()) = tokio::join!(rest, reading);
    assert!(matches!(end, SessionEnd::Ended(Reason::Ok)));
    assert!(arrived == body(0)[..5000]);
}

#[tokio::test]
async fn a_session_in_a_tunnel_moves_with_it() {
    tokio::task::LocalSet::new().run_until(moved()).await;
}

/// The far proxy: TLS, one stream, to its application.
fn far_proxy(scope: &Scope, app: TcpStream) -> std::net::SocketAddr {
    let listener = listen(&ListenOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let address = listener.local_addr().unwrap();
    let (tasks, app) = (scope.clone(), Cell::new(Some(app)));
    scope.spawn_local("far proxy", async move {
        let (tcp, _) = accept(&listener).await.unwrap();
        let session = mesh_tls::accept_session(tcp, &certificate()).await.unwrap();
        let (settings, drain) = (ServerSettings::default(), Drain::new());
        let handler = |incoming: Incoming| {
            let app = app.take().unwrap();
            async move {
                let stream = incoming.accept(&HeaderMap::new()).unwrap();
                let record = record(&Metrics::new("far"));
                run_session(stream, app, record, pending(), &Drain::new()).await;
            }
        };
        let served = serve_session(session, &settings, &drain, &tasks, pending(), handler);
        served.await.ok();
    });
    address
}

/// Self-signed: those of one process trust each other.
fn certificate() -> Arc<WorkloadCertificate> {
    Arc::new(WorkloadCertificate::self_signed(&identity()).unwrap())
}

fn identity() -> SpiffeId {
    "spiffe://cluster.local/ns/a/sa/b".parse().unwrap()
}

async fn moved() {
    let scope = Scope::new();
    let ((client, down), (app, server)) = (pair().await, pair().await);
    let key = TunnelKey {
        source: identity(),
        expected: Expected::AnyOf(vec![identity()]),
        address: far_proxy(&scope, app),
        source_ip: None,
    };
    let dial = Dial::once(ConnectOptions::default(), certificate());
    let request = ConnectRequest {
        authority: "10.0.0.1:80".into(),
        headers: HeaderMap::new(),
    };
    let pool = Pool::new(PoolSettings::default(), &scope);
    let up = pool.open(&key, dial, request).await.unwrap();
    let metrics = Metrics::new("test");
    let mut moves = 0;
    let session = Session::new(down, up, record(&metrics));
    let running = in_pieces(session, async |stopped| {
        moves += 1;
        elsewhere(&scope, stopped).await
    });
    let (reason, at_client, at_server) =
        tokio::join!(running, talk(client, body(0)), talk(server, body(1)));
    assert_eq!(reason, Reason::Ok);
    assert!(at_client == body(1) && at_server == body(0));
    assert!(moves > 3, "{moves} moves");
    scope.cancel();
}

/// As another process would take the session up: the sockets as they are, all else as text.
async fn elsewhere(
    scope: &Scope,
    stopped: Session<TcpStream, HboneStream>,
) -> Session<TcpStream, HboneStream> {
    let Session {
        down,
        up,
        unsent,
        record,
    } = stopped;
    assert_eq!(unsent, Unsent::default(), "the tunnel holds it");
    let number = up.number();
    let frozen = up.tunnel().freeze().await.unwrap();
    drop(up);
    let io = *frozen.io.downcast::<TcpStream>().unwrap();
    let state = serde_json::to_string(&frozen.state).unwrap();
    let state = serde_json::from_str(&state).unwrap();
    let revived = revive(io, state, KeepAlive::default()).unwrap();
    let (streams, task) = revived.into_parts();
    scope.spawn_local("revived tunnel", async move {
        task.await.ok();
    });
    let same = streams.into_iter().find(|(of, _)| *of == number);
    let up = same.unwrap().1;
    Session {
        down,
        up,
        unsent,
        record,
    }
}
