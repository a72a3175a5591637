//! The engine as a client, `h2` as its server.

use super::engine::{Engine, Uploads};
use super::{connect_fields, narrow, text};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Method, Request, Response};
use mesh_http2::{Connection, ErrorCode, Event, Field, ResetCause, Settings};
use tokio::io::DuplexStream;
use tokio::task::JoinSet;

/// Echoes one stream; says how it ended.
async fn echo(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    assert_eq!(request.method(), Method::CONNECT);
    let mut reply = respond.send_response(Response::new(()), false)?;
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        let mut data = data?;
        body.flow_control().release_capacity(data.len())?;
        while !data.is_empty() {
            reply.reserve_capacity(data.len());
            let room = std::future::poll_fn(|cx| reply.poll_capacity(cx)).await;
            let room = room.transpose()?.unwrap_or(0);
            reply.send_data(data.split_to(room.min(data.len())), false)?;
        }
    }
    reply.send_data(Bytes::new(), true)
}

/// What the server does besides echoing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whim {
    None,
    /// Goes away after the first stream.
    GoAway,
    /// Resets every stream at once.
    Reset,
}

/// Serves until the client is gone; the ends of all streams, and the authorities in order.
async fn serve(io: DuplexStream, whim: Whim) -> (Vec<Result<(), h2::Error>>, Vec<String>) {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(2000)
        .initial_connection_window_size(70_000)
        .max_concurrent_streams(200)
        .max_header_list_size(100_000);
    let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
    let (mut streams, mut authorities) = (JoinSet::new(), Vec::new());
    while let Some(request) = connection.accept().await {
        let Ok((request, mut respond)) = request else {
            break;
        };
        authorities.push(request.uri().to_string());
        if whim == Whim::Reset {
            respond.send_reset(Reason::REFUSED_STREAM);
            continue;
        }
        streams.spawn(echo(request, respond));
        if whim == Whim::GoAway {
            connection.graceful_shutdown();
        }
    }
    (streams.join_all().await, authorities)
}

fn pair(settings: Settings, whim: Whim) -> (Engine, impl Future<Output = Served>) {
    let (ours, theirs) = tokio::io::duplex(4096);
    (
        Engine::new(Connection::client(settings), ours),
        serve(theirs, whim),
    )
}

type Served = (Vec<Result<(), h2::Error>>, Vec<String>);

/// Turns until the server's SETTINGS, with its limit of streams, are there.
async fn settled(engine: &mut Engine) {
    while engine.connection.peer_settings().streams_max.is_none() {
        engine.turn().await.unwrap();
    }
}

#[tokio::test]
async fn two_hundred_streams_at_once() {
    let (mut engine, server) = pair(narrow(), Whim::None);
    let ours = async move {
        settled(&mut engine).await;
        let mut uploads = Uploads::default();
        let mut streams = Vec::new();
        for n in 0..200 {
            let mut fields = connect_fields(&format!("10.0.0.1:{n}"));
            fields.push(Field::from_static("baggage", "k8s.cluster.name=one"));
            let text = text(n, 5000 + n);
            streams.push(uploads.open(&mut engine.connection, &fields, text));
        }
        let one_more = engine.connection.open_stream(&connect_fields("a:1"), false);
        assert!(one_more.is_err());
        while uploads.closed < 200 {
            let events = engine.turn().await.unwrap();
            uploads.take(&mut engine.connection, &events);
        }
        for (n, stream) in streams.iter().enumerate() {
            assert!(uploads.got[stream] == text(n, 5000 + n), "stream {n}");
        }
    };
    let ((ends, mut authorities), ()) = tokio::join!(server, ours);
    assert!(ends.len() == 200 && ends.iter().all(Result::is_ok));
    authorities.sort();
    authorities.dedup();
    assert_eq!(authorities.len(), 200);
}

#[tokio::test]
async fn megabytes_through_small_windows() {
    let (mut engine, server) = pair(narrow(), Whim::None);
    let ours = async move {
        let mut uploads = Uploads::default();
        let all = text(1, 3 << 20);
        let fields = connect_fields("10.0.0.1:1");
        let stream = uploads.open(&mut engine.connection, &fields, all.clone());
        while uploads.closed < 1 {
            let events = engine.turn().await.unwrap();
            uploads.take(&mut engine.connection, &events);
        }
        assert!(uploads.got[&stream] == all);
    };
    tokio::join!(server, ours);
}

#[tokio::test]
async fn windows_that_change_while_data_flows() {
    let (mut engine, server) = pair(narrow(), Whim::None);
    let ours = async move {
        let mut uploads = Uploads::default();
        let all = text(1, 1 << 20);
        let fields = connect_fields("10.0.0.1:1");
        let stream = uploads.open(&mut engine.connection, &fields, all.clone());
        let mut announce = narrow().announce;
        for turn in 0_u32.. {
            if uploads.closed > 0 {
                break;
            }
            if turn % 20 == 0 {
                announce.stream_window_bytes = [1, 60_000, 700, 20_000][turn as usize / 20 % 4];
                announce.header_table_bytes = [0, 4096, 200][turn as usize / 20 % 3];
                // Refused while four are unanswered; the next one comes soon.
                let _refused = engine.connection.change_settings(announce);
            }
            let events = engine.turn().await.unwrap();
            uploads.take(&mut engine.connection, &events);
        }
        assert!(uploads.got[&stream] == all);
    };
    tokio::join!(server, ours);
}

#[tokio::test]
async fn a_long_header_block_is_continued() {
    let (mut engine, server) = pair(narrow(), Whim::None);
    let ours = async move {
        settled(&mut engine).await;
        let mut uploads = Uploads::default();
        let mut fields = connect_fields("10.0.0.1:1");
        fields.push(Field::new("x-long", "~".repeat(40_000)));
        uploads.open(&mut engine.connection, &fields, Bytes::new());
        while uploads.closed < 1 {
            let events = engine.turn().await.unwrap();
            uploads.take(&mut engine.connection, &events);
        }
    };
    let ((ends, _), ()) = tokio::join!(server, ours);
    assert!(ends.len() == 1 && ends[0].is_ok());
}

#[tokio::test]
async fn resets_both_ways() {
    let (mut engine, server) = pair(narrow(), Whim::None);
    let ours = async move {
        let fields = connect_fields("10.0.0.1:1");
        let stream = engine.connection.open_stream(&fields, false).unwrap();
        let answered = |e: &Event| matches!(e, Event::Headers { .. });
        while !engine.turn().await.unwrap().iter().any(answered) {}
        engine.connection.reset(stream, ErrorCode::CANCEL).unwrap();
        engine
            .connection
            .goaway_final(ErrorCode::NO_ERROR, b"")
            .unwrap();
        engine.finish().await;
    };
    let ((ends, _), ()) = tokio::join!(server, ours);
    assert_eq!(ends[0].as_ref().unwrap_err().reason(), Some(Reason::CANCEL));

    let (mut engine, server) = pair(narrow(), Whim::Reset);
    let ours = async move {
        let fields = connect_fields("10.0.0.1:1");
        let stream = engine.connection.open_stream(&fields, false).unwrap();
        let cause = ResetCause::Peer(ErrorCode::REFUSED_STREAM);
        assert!(cause.retry_is_safe());
        while !engine
            .turn()
            .await
            .unwrap()
            .contains(&Event::Reset { stream, cause })
        {}
    };
    tokio::join!(server, ours);
}

#[tokio::test]
async fn goaway_lets_the_open_stream_end_and_opens_no_other() {
    let (mut engine, server) = pair(narrow(), Whim::GoAway);
    let ours = async move {
        let mut uploads = Uploads::default();
        let fields = connect_fields("10.0.0.1:1");
        let all = text(1, 100_000);
        let stream = uploads.open(&mut engine.connection, &fields, all.clone());
        let mut goaways = 0;
        while uploads.closed < 1 {
            let events = engine.turn().await.unwrap();
            goaways += events
                .iter()
                .filter(|e| matches!(e, Event::GoAway { .. }))
                .count();
            uploads.take(&mut engine.connection, &events);
        }
        assert!(uploads.got[&stream] == all);
        assert!(goaways > 0 && engine.connection.is_going_away());
        assert!(engine.connection.open_stream(&fields, false).is_err());
        engine.finish().await;
    };
    let ((ends, _), ()) = tokio::join!(server, ours);
    assert!(ends[0].is_ok());
}

#[tokio::test]
async fn pings_are_answered() {
    let (mut engine, server) = pair(narrow(), Whim::None);
    let ours = async move {
        engine.connection.ping(*b"are you?").unwrap();
        let opaque = *b"are you?";
        while !engine
            .turn()
            .await
            .unwrap()
            .contains(&Event::PingAcked { opaque })
        {}
    };
    tokio::join!(server, ours);
}
