//! Each way in which a peer can end the connection, or one stream.

use super::*;
use crate::fields::FieldsError;
use crate::hpack::HpackError;

/// Feeds a script in one piece and byte by byte; the result and the GOAWAY must be as said.
fn ends(rig: impl Fn() -> Rig, script: &[Vec<u8>], code: ErrorCode, violation: Violation) {
    let whole: Vec<u8> = script.concat();
    for chunk in [whole.len(), 1, 7] {
        let mut rig = rig();
        let mut result = Ok(());
        for piece in whole.chunks(chunk) {
            result = result.and_then(|()| rig.feed(piece));
        }
        let error = result.expect_err(&format!("{violation} was not found, chunks of {chunk}"));
        assert_eq!((error.code, error.violation), (code, violation));
        let goaway = rig.frames().pop().unwrap();
        assert_eq!(goaway.kind, FrameKind::GoAway);
        assert_eq!(&goaway.payload[4..8], &code.0.to_be_bytes());
        assert!(rig.connection.is_finished());
        assert_eq!(rig.feed(b"more"), Err(error));
    }
}

fn server() -> Rig {
    Rig::server(small())
}

/// A server with a request on stream 1 that has not ended.
fn serving() -> Rig {
    let mut rig = server();
    rig.feed(&headers(1, false, CONNECT)).unwrap();
    rig
}

fn tunnel() -> Rig {
    Rig::tunnel(small()).0
}

const PROTOCOL: ErrorCode = ErrorCode::PROTOCOL_ERROR;
const SIZE: ErrorCode = ErrorCode::FRAME_SIZE_ERROR;
const FLOW: ErrorCode = ErrorCode::FLOW_CONTROL_ERROR;
const CLOSED: ErrorCode = ErrorCode::STREAM_CLOSED;

#[test]
fn the_start() {
    let fresh = || Rig::fresh(Connection::server(Settings::default()));
    ends(
        fresh,
        &[b"GET / HTTP/1.1\r\n".to_vec()],
        PROTOCOL,
        Violation::Preface,
    );
    let ping = raw(FrameKind::Ping, 0, 0, &[0; 8]);
    let preface = PREFACE.to_vec();
    ends(
        fresh,
        &[preface.clone(), ping.clone()],
        PROTOCOL,
        Violation::FirstFrame,
    );
    ends(
        fresh,
        &[preface, settings_ack()],
        PROTOCOL,
        Violation::FirstFrame,
    );
    let client = || Rig::fresh(Connection::client(Settings::default()));
    ends(client, &[ping], PROTOCOL, Violation::FirstFrame);
}

#[test]
fn frames_of_a_wrong_size() {
    let long = raw(FrameKind::Data, 0, 1, &[0; 16_385]);
    ends(
        serving,
        &[long],
        SIZE,
        Violation::FrameTooLarge(FrameKind::Data),
    );
    for (kind, flags, stream, length) in [
        (FrameKind::Priority, 0, 1, 4),
        (FrameKind::RstStream, 0, 1, 3),
        (FrameKind::RstStream, 0, 1, 5),
        (FrameKind::Settings, 0, 0, 5),
        (FrameKind::Settings, frame::ACK, 0, 6),
        (FrameKind::Ping, 0, 0, 7),
        (FrameKind::Ping, 0, 0, 9),
        (FrameKind::GoAway, 0, 0, 7),
        (FrameKind::WindowUpdate, 0, 1, 3),
        (FrameKind::WindowUpdate, 0, 0, 5),
    ] {
        let script = [raw(kind, flags, stream, &vec![0; length])];
        ends(serving, &script, SIZE, Violation::FrameLength(kind));
    }
    let flags = frame::END_HEADERS | frame::PRIORITY;
    let script = [raw(FrameKind::Headers, flags, 3, &[0; 4])];
    ends(
        serving,
        &script,
        SIZE,
        Violation::FrameLength(FrameKind::Headers),
    );
}

#[test]
fn frames_on_a_wrong_stream() {
    for (kind, stream, length) in [
        (FrameKind::Data, 0, 1),
        (FrameKind::Headers, 0, 1),
        (FrameKind::Priority, 0, 5),
        (FrameKind::RstStream, 0, 4),
        (FrameKind::PushPromise, 0, 4),
        (FrameKind::Settings, 1, 6),
        (FrameKind::Ping, 1, 8),
        (FrameKind::GoAway, 1, 8),
    ] {
        let script = [raw(kind, 0, stream, &vec![0; length])];
        ends(serving, &script, PROTOCOL, Violation::FrameStream(kind));
    }
}

#[test]
fn frames_on_idle_streams() {
    let idle = Violation::IdleStream;
    ends(
        serving,
        &[data(3, false, b"x")],
        PROTOCOL,
        idle(FrameKind::Data),
    );
    let rst = [rst_stream(3, ErrorCode::CANCEL)];
    ends(serving, &rst, PROTOCOL, idle(FrameKind::RstStream));
    ends(
        serving,
        &[window_update(3, 1)],
        PROTOCOL,
        idle(FrameKind::WindowUpdate),
    );
    ends(
        serving,
        &[window_update(2, 1)],
        PROTOCOL,
        idle(FrameKind::WindowUpdate),
    );
    ends(
        tunnel,
        &[headers(3, false, OK)],
        PROTOCOL,
        idle(FrameKind::Headers),
    );
    ends(
        tunnel,
        &[headers(2, false, OK)],
        PROTOCOL,
        Violation::StreamParity,
    );
    ends(
        serving,
        &[headers(2, false, POST)],
        PROTOCOL,
        Violation::StreamParity,
    );
    ends(
        serving,
        &[data(2, false, b"x")],
        PROTOCOL,
        idle(FrameKind::Data),
    );
}

#[test]
fn push_is_refused_by_both() {
    let push = raw(
        FrameKind::PushPromise,
        frame::END_HEADERS,
        1,
        &[0, 0, 0, 2, 0x82],
    );
    ends(
        tunnel,
        std::slice::from_ref(&push),
        PROTOCOL,
        Violation::PushPromise,
    );
    ends(serving, &[push], PROTOCOL, Violation::PushPromise);
}

#[test]
fn padding_that_is_too_long() {
    let padded = |payload: &[u8]| [raw(FrameKind::Data, frame::PADDED, 1, payload)];
    ends(serving, &padded(&[]), PROTOCOL, Violation::Padding);
    ends(serving, &padded(&[1]), PROTOCOL, Violation::Padding);
    ends(
        serving,
        &padded(&[4, 0, 0, 0]),
        PROTOCOL,
        Violation::Padding,
    );
    let flags = frame::PADDED | frame::END_HEADERS;
    for payload in [&[][..], &[1], &[3, 0, 0]] {
        let script = [raw(FrameKind::Headers, flags, 3, payload)];
        ends(serving, &script, PROTOCOL, Violation::Padding);
    }
}

#[test]
fn header_blocks_that_are_interrupted() {
    let begun = raw(FrameKind::Headers, 0, 3, &block(POST));
    let interrupted = Violation::HeaderBlockInterrupted;
    for between in [
        raw(FrameKind::Ping, 0, 0, &[0; 8]),
        raw(FrameKind::Unknown(77), 0, 0, &[]),
        headers(5, true, POST),
        raw(FrameKind::Continuation, frame::END_HEADERS, 5, &[]),
    ] {
        ends(server, &[begun.clone(), between], PROTOCOL, interrupted);
    }
    let stray = raw(FrameKind::Continuation, frame::END_HEADERS, 1, &[]);
    ends(
        serving,
        &[stray],
        PROTOCOL,
        Violation::ContinuationUnexpected,
    );
}

#[test]
fn compression_that_is_broken() {
    let broken = |payload: &[u8]| [raw(FrameKind::Headers, frame::END_HEADERS, 3, payload)];
    let code = ErrorCode::COMPRESSION_ERROR;
    ends(
        serving,
        &broken(&[0xbe]),
        code,
        Violation::Hpack(HpackError::Index),
    );
    ends(
        serving,
        &broken(&[0x40]),
        code,
        Violation::Hpack(HpackError::Truncated),
    );
}

#[test]
fn a_compression_table_that_was_not_lowered() {
    let lowered = || {
        let mut rig = server();
        let mut announce = small().announce;
        announce.header_table_bytes = 0;
        rig.connection.change_settings(announce).unwrap();
        rig.feed(&settings_ack()).unwrap();
        rig
    };
    let code = ErrorCode::COMPRESSION_ERROR;
    let script = [headers(1, true, POST)];
    ends(
        lowered,
        &script,
        code,
        Violation::Hpack(HpackError::TableSize),
    );
    let confirmed = [&[0x20][..], &block(POST)].concat();
    let mut rig = lowered();
    rig.feed(&raw(FrameKind::Headers, frame::END_HEADERS, 1, &confirmed))
        .unwrap();
}

#[test]
fn settings_out_of_range() {
    for (entry, code) in [
        ((0x2, 2), PROTOCOL),
        ((0x4, 1 << 31), FLOW),
        ((0x5, 16_383), PROTOCOL),
        ((0x5, 1 << 24), PROTOCOL),
        ((0x8, 2), PROTOCOL),
    ] {
        ends(
            server,
            &[settings(&[entry])],
            code,
            Violation::Setting(entry.0),
        );
    }
    ends(
        tunnel,
        &[settings(&[(0x2, 1)])],
        PROTOCOL,
        Violation::Setting(0x2),
    );
    ends(server, &[settings_ack()], PROTOCOL, Violation::SettingsAck);
}

#[test]
fn windows_that_overflow_or_are_exceeded() {
    ends(
        server,
        &[window_update(0, 0)],
        PROTOCOL,
        Violation::WindowIncrement,
    );
    ends(
        server,
        &[window_update(0, 0x7fff_ffff)],
        FLOW,
        Violation::WindowOverflow,
    );
    let script = [
        window_update(1, 0x7fff_ffff - 65_535),
        settings(&[(0x4, 65_536)]),
    ];
    ends(serving, &script, FLOW, Violation::WindowOverflow);
    let narrow = || {
        let settings = Settings {
            connection_window_bytes: 0,
            ..Settings::default()
        };
        let mut rig = Rig::server(settings);
        rig.feed(&headers(1, false, CONNECT)).unwrap();
        rig.feed(&data(1, false, &[0; 16_384]).repeat(3)).unwrap();
        rig.feed(&data(1, false, &[0; 16_383])).unwrap();
        rig
    };
    ends(
        narrow,
        &[data(1, false, b"x")],
        FLOW,
        Violation::WindowExceeded,
    );
}

#[test]
fn goaway_that_raises_the_last_stream() {
    let goaway = |last: u8| raw(FrameKind::GoAway, 0, 0, &[0, 0, 0, last, 0, 0, 0, 0]);
    ends(
        tunnel,
        &[goaway(3), goaway(5)],
        PROTOCOL,
        Violation::GoAwayRaised,
    );
}

#[test]
fn headers_on_a_stream_that_ended_well() {
    let ended = || {
        let mut rig = serving();
        let stream = StreamId::new(1);
        rig.connection
            .send_headers(stream, &fields(OK), true)
            .unwrap();
        rig.feed(&data(1, true, b"")).unwrap();
        rig.flush();
        assert!(rig.events.contains(&Event::Closed { stream }));
        rig
    };
    let violation = Violation::StreamEnded(FrameKind::Headers);
    ends(ended, &[headers(1, true, POST)], CLOSED, violation);
}

/// Feeds a script, after which exactly one stream has ended with this error and the others go on.
fn ends_stream(mut rig: Rig, script: &[Vec<u8>], stream: u32, code: ErrorCode, what: Violation) {
    rig.take_events();
    rig.frames();
    rig.feed(&script.concat()).unwrap();
    let events = rig.take_events();
    let resets = |e: &&Event| matches!(e, Event::Reset { .. });
    let resets: Vec<_> = events.iter().filter(resets).collect();
    assert_eq!(resets, [&violation(stream, code, what)]);
    let sent = rig.of_kind(FrameKind::RstStream);
    assert_eq!((sent.len(), sent[0].stream), (1, stream));
    assert_eq!(sent[0].payload, code.0.to_be_bytes());
    assert_eq!(rig.connection.open_streams(), 0);
    assert_eq!(rig.connection.error(), None);
}

#[test]
fn errors_of_one_stream() {
    let ended = || {
        let mut rig = server();
        rig.feed(&headers(1, true, POST)).unwrap();
        rig
    };
    let script = [data(1, false, b"x")];
    ends_stream(
        ended(),
        &script,
        1,
        CLOSED,
        Violation::StreamEnded(FrameKind::Data),
    );
    let script = [headers(1, true, &[])];
    ends_stream(
        ended(),
        &script,
        1,
        CLOSED,
        Violation::StreamEnded(FrameKind::Headers),
    );
    let script = [data(1, false, &[0; 60]), data(1, false, &[0; 41])];
    ends_stream(serving(), &script, 1, FLOW, Violation::WindowExceeded);
    ends_stream(
        serving(),
        &[window_update(1, 0)],
        1,
        PROTOCOL,
        Violation::WindowIncrement,
    );
    let script = [window_update(1, 0x7fff_ffff)];
    ends_stream(serving(), &script, 1, FLOW, Violation::WindowOverflow);
    let script = [headers(1, false, &[("a", "b")])];
    ends_stream(serving(), &script, 1, PROTOCOL, Violation::TrailersNotLast);
    let malformed = Violation::Fields(FieldsError::Pseudo);
    ends_stream(serving(), &[headers(1, true, OK)], 1, PROTOCOL, malformed);
    let mut client = Rig::client(small());
    client
        .connection
        .open_stream(&fields(CONNECT), false)
        .unwrap();
    ends_stream(
        client,
        &[data(1, false, b"x")],
        1,
        PROTOCOL,
        Violation::DataBeforeHeaders,
    );
}

#[test]
fn a_malformed_request_never_becomes_a_stream() {
    let mut rig = server();
    let get = &[(":method", "GET"), (":scheme", "http")];
    rig.feed(&headers(1, true, get)).unwrap();
    let length = [POST, &[("content-length", "3")]].concat();
    rig.feed(&headers(3, true, &length)).unwrap();
    let socket = [CONNECT, POST, &[(":protocol", "websocket")]].concat();
    rig.feed(&headers(5, true, &socket[..2])).unwrap();
    assert_eq!(rig.take_events().len(), 1); // that of stream 5 alone, a plain CONNECT
    let sent = rig.of_kind(FrameKind::RstStream);
    assert_eq!(sent.iter().map(|f| f.stream).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn the_body_is_as_long_as_it_was_said() {
    let with_length = || {
        let mut rig = server();
        let length = [POST, &[("content-length", "5")]].concat();
        rig.feed(&headers(1, false, &length)).unwrap();
        rig
    };
    let wrong = Violation::ContentLength;
    ends_stream(
        with_length(),
        &[data(1, false, b"123456")],
        1,
        PROTOCOL,
        wrong,
    );
    ends_stream(with_length(), &[data(1, true, b"1234")], 1, PROTOCOL, wrong);
    let trailers = headers(1, true, &[("a", "b")]);
    ends_stream(
        with_length(),
        &[data(1, false, b"1234"), trailers],
        1,
        PROTOCOL,
        wrong,
    );
    let mut rig = with_length();
    rig.feed(&[data(1, false, b"123"), data(1, true, b"45")].concat())
        .unwrap();
    assert!(
        rig.take_events()
            .iter()
            .all(|e| !matches!(e, Event::Reset { .. }))
    );
}
