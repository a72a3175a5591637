//! The engine as a server, `h2` as its client.

use super::engine::{Echo, Engine};
use super::{narrow, text};
use bytes::{Bytes, BytesMut};
use h2::client::{Connection as H2Connection, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request};
use mesh_http2::{Connection, ErrorCode, Event, ResetCause, Settings};
use tokio::io::DuplexStream;
use tokio::task::JoinSet;

type H2 = (SendRequest<Bytes>, H2Connection<DuplexStream, Bytes>);

/// A client with small windows, and the engine that serves it.
async fn pair(settings: Settings) -> (H2, Engine) {
    let (ours, theirs) = tokio::io::duplex(4096);
    let engine = Engine::new(Connection::server(settings), ours);
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(2500)
        .initial_connection_window_size(70_000);
    let client = builder.handshake::<_, Bytes>(theirs).await.unwrap();
    (client, engine)
}

fn connect(n: usize) -> Request<()> {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("10.0.0.1:{n}"));
    request
        .header("baggage", "k8s.cluster.name=one")
        .body(())
        .unwrap()
}

/// Sends a text and takes the echo.
async fn exchange(mut client: SendRequest<Bytes>, n: usize, length: usize) {
    let (response, body) = client.send_request(connect(n), false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let (sent, got) = tokio::join!(send(body, text(n, length)), receive(response.into_body()));
    sent.unwrap();
    assert!(got.unwrap() == text(n, length), "stream {n}");
}

async fn send(mut body: SendStream<Bytes>, mut rest: Bytes) -> Result<(), h2::Error> {
    while !rest.is_empty() {
        body.reserve_capacity(rest.len());
        let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
        let room = room.transpose()?.unwrap_or(0);
        body.send_data(rest.split_to(room.min(rest.len())), false)?;
    }
    body.send_data(Bytes::new(), true)
}

async fn receive(mut body: RecvStream) -> Result<BytesMut, h2::Error> {
    let mut got = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        got.extend_from_slice(&data);
    }
    Ok(got)
}

/// Serves until the client is done.
async fn serve(mut engine: Engine) -> Echo {
    let mut echo = Echo::default();
    while let Some(events) = engine.turn().await {
        echo.take(&mut engine.connection, events);
    }
    echo
}

#[tokio::test]
async fn two_hundred_streams_at_once() {
    let ((client, connection), engine) = pair(narrow()).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { connection.await.unwrap() });
    let served = async move { serve(engine).await };
    let clients = async move {
        let mut exchanges = JoinSet::new();
        let client = client.ready().await.unwrap();
        for n in 0..200 {
            exchanges.spawn(exchange(client.clone(), n, 5000 + n));
        }
        drop(client);
        while let Some(done) = exchanges.join_next().await {
            done.unwrap();
        }
    };
    let (echo, ()) = tokio::join!(served, clients);
    assert_eq!(
        echo.ends
            .iter()
            .filter(|e| matches!(e, Event::Closed { .. }))
            .count(),
        200
    );
    assert_eq!(echo.requests.len(), 200);
    for fields in echo.requests {
        assert!(
            fields
                .iter()
                .any(|f| f.name == "baggage" && f.value == "k8s.cluster.name=one")
        );
    }
}

#[tokio::test]
async fn megabytes_through_small_windows() {
    let ((client, connection), engine) = pair(narrow()).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { connection.await.unwrap() });
    let client = client.ready().await.unwrap();
    tokio::join!(serve(engine), exchange(client, 1, 3 << 20));
}

#[tokio::test]
async fn a_long_header_block_is_continued() {
    let mut settings = narrow();
    settings.announce.header_list_bytes_max = 100_000;
    let ((client, connection), engine) = pair(settings).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { connection.await.unwrap() });
    let mut client = client.ready().await.unwrap();
    let long = "~".repeat(40_000);
    let mut request = connect(1);
    request
        .headers_mut()
        .insert("x-long", long.parse().unwrap());
    let asking = async move {
        let (response, mut body) = client.send_request(request, false).unwrap();
        body.send_data(Bytes::new(), true).unwrap();
        drop(client);
        receive(response.await.unwrap().into_body()).await.unwrap();
    };
    let (echo, ()) = tokio::join!(serve(engine), asking);
    let field = echo.requests[0].iter().find(|f| f.name == "x-long");
    assert_eq!(field.unwrap().value, long);
}

#[tokio::test]
async fn resets_both_ways() {
    let ((client, connection), mut engine) = pair(narrow()).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { connection.await.unwrap() });
    let mut client = client.ready().await.unwrap();
    let theirs = async move {
        let (response, mut body) = client.send_request(connect(1), false).unwrap();
        let response = response.await.unwrap();
        body.send_reset(Reason::CANCEL);
        drop(response);
        let (response, body) = client.send_request(connect(2), false).unwrap();
        let response = response.await.unwrap();
        let error = receive(response.into_body()).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::CONNECT_ERROR));
        drop(body);
    };
    let ours = async move {
        let mut echo = Echo::default();
        while let Some(events) = engine.turn().await {
            let opened = events.iter().find_map(|e| match e {
                Event::Headers { stream, .. } => Some(*stream),
                _ => None,
            });
            echo.take(&mut engine.connection, events);
            if let Some(stream) = opened
                && echo.requests.len() == 2
            {
                engine
                    .connection
                    .reset(stream, ErrorCode::CONNECT_ERROR)
                    .unwrap();
            }
        }
        echo
    };
    let (echo, ()) = tokio::join!(ours, theirs);
    let cause = ResetCause::Peer(ErrorCode::CANCEL);
    assert!(matches!(&echo.ends[0], Event::Reset { cause: got, .. } if *got == cause));
}

#[tokio::test]
async fn goaway_lets_the_open_stream_end_and_takes_no_other() {
    let ((client, connection), mut engine) = pair(narrow()).await;
    let mut client = client.ready().await.unwrap();
    let (response, mut body) = client.send_request(connect(1), false).unwrap();
    let theirs = async move {
        let mut response = response.await.unwrap().into_body();
        // The connection says that it goes away before the body ends.
        while client.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(client.send_request(connect(2), false).is_err());
        body.send_data(Bytes::from_static(b"last words"), true)
            .unwrap();
        let got = response.data().await.unwrap().unwrap();
        assert_eq!(got, "last words");
        assert!(response.data().await.is_none());
    };
    let ours = async move {
        let mut echo = Echo::default();
        while echo.requests.is_empty() {
            let events = engine.turn().await.unwrap();
            echo.take(&mut engine.connection, events);
        }
        engine.connection.goaway_graceful().unwrap();
        engine
            .connection
            .goaway_final(ErrorCode::NO_ERROR, b"")
            .unwrap();
        while engine.connection.open_streams() > 0 {
            let events = engine.turn().await.unwrap();
            echo.take(&mut engine.connection, events);
        }
        engine.finish().await;
    };
    let (ended, (), ()) = tokio::join!(connection, ours, theirs);
    ended.unwrap();
}

#[tokio::test]
async fn pings_are_answered() {
    let ((client, mut connection), engine) = pair(narrow()).await;
    let mut pings = connection.ping_pong().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { connection.await.unwrap() });
    let asking = async move {
        for _ in 0..3 {
            pings.ping(h2::Ping::opaque()).await.unwrap();
        }
        drop(client);
    };
    tokio::join!(serve(engine), asking);
}
