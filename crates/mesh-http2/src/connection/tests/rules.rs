//! What RFC 9113 says of a well-behaved peer, and of one that is a little late.

use super::*;
use crate::error::{CommandError, OpenError};

fn first() -> StreamId {
    StreamId::new(1)
}

#[test]
fn a_client_begins_with_preface_settings_and_window() {
    let mut rig = Rig::fresh(Connection::client(Settings::default()));
    rig.flush();
    assert_eq!(rig.sent.split_to(24).as_ref(), PREFACE);
    let frames = rig.frames();
    assert_eq!(frames[0].kind, FrameKind::Settings);
    assert!(
        frames[0].payload.chunks(6).any(|e| e == [0, 2, 0, 0, 0, 0]),
        "push is off"
    );
    assert_eq!(frames[1].payload, (1024 * 1024_u32 - 65_535).to_be_bytes());
}

#[test]
fn settings_and_pings_are_answered_at_once() {
    let mut rig = Rig::server(Settings::default());
    rig.feed(&settings(&[(0x3, 7), (0xfeed, 1)])).unwrap();
    rig.feed(&raw(FrameKind::Ping, 0, 0, b"12345678")).unwrap();
    let frames = rig.frames();
    assert_eq!(
        (frames[0].kind, frames[0].flags),
        (FrameKind::Settings, frame::ACK)
    );
    assert_eq!(
        (frames[1].kind, frames[1].flags),
        (FrameKind::Ping, frame::ACK)
    );
    assert_eq!(frames[1].payload, b"12345678");
    assert_eq!(rig.connection.peer_settings().streams_max, Some(7));
}

#[test]
fn priority_unknown_frames_and_padding_change_nothing() {
    let mut rig = Rig::server(small());
    let mut padded = vec![3, 0, 0, 0, 0, 200]; // pad length, dependency, weight
    padded.extend(block(CONNECT));
    padded.extend([0; 3]);
    let flags = frame::PADDED | frame::PRIORITY | frame::END_HEADERS;
    rig.feed(&raw(FrameKind::Priority, 0, 9, &[0; 5])).unwrap();
    rig.feed(&raw(FrameKind::Headers, flags, 1, &padded))
        .unwrap();
    rig.feed(&raw(FrameKind::Unknown(0x42), 0xff, 1, &[0; 300]))
        .unwrap();
    rig.feed(&raw(FrameKind::Data, frame::PADDED, 1, b"\x04abc...."))
        .unwrap();
    let expected = [
        Event::Headers {
            stream: first(),
            fields: rig_fields(CONNECT),
            end: false,
        },
        Event::Data {
            stream: first(),
            data: Bytes::from_static(b"abc"),
            end: false,
        },
    ];
    assert_eq!(rig.take_events(), expected);
}

/// As `headers` of the scripts sends them.
fn rig_fields(pairs: &[(&str, &str)]) -> Vec<Field> {
    let mut fields = fields(pairs);
    fields.iter_mut().for_each(|field| field.sensitive = true);
    fields
}

#[test]
fn a_header_block_may_come_in_pieces() {
    let mut rig = Rig::server(small());
    let block = block(CONNECT);
    let mut script = raw(FrameKind::Headers, frame::END_STREAM, 1, &block[..1]);
    script.extend(raw(FrameKind::Continuation, 0, 1, &block[1..4]));
    script.extend(raw(
        FrameKind::Continuation,
        frame::END_HEADERS,
        1,
        &block[4..],
    ));
    rig.feed(&script).unwrap();
    let events = rig.take_events();
    assert!(matches!(&events[..], [Event::Headers { end: true, .. }]));
}

#[test]
fn credit_comes_back_by_halves_and_padding_by_itself() {
    let mut rig = Rig::server(small());
    rig.feed(&headers(1, false, CONNECT)).unwrap();
    rig.feed(&data(1, false, &[0; 60])).unwrap();
    rig.frames();
    rig.connection.release_window(first(), 49).unwrap();
    assert_eq!(rig.frames(), []);
    rig.connection.release_window(first(), 1).unwrap();
    let frames = rig.frames();
    assert_eq!(
        (frames[0].stream, &frames[0].payload[..]),
        (1, &50_u32.to_be_bytes()[..])
    );
    let mut payload = vec![60];
    payload.extend([0; 61]);
    rig.feed(&raw(FrameKind::Data, frame::PADDED, 1, &payload))
        .unwrap();
    assert_eq!(
        rig.of_kind(FrameKind::WindowUpdate)[0].payload,
        61_u32.to_be_bytes()
    );
    assert_eq!(
        rig.connection.release_window(first(), 12),
        Err(CommandError::ReleasedTooMuch)
    );
}

#[test]
fn data_of_streams_that_are_gone_is_still_counted() {
    let mut rig = Rig::server(small());
    rig.feed(&headers(1, false, CONNECT)).unwrap();
    rig.feed(&data(1, false, &[0; 30])).unwrap();
    rig.feed(&rst_stream(1, ErrorCode::CANCEL)).unwrap();
    assert_eq!(rig.connection.open_streams(), 0);
    rig.connection.release_window(first(), 20).unwrap();
    rig.connection.release_window(first(), 10).unwrap();
    assert!(rig.connection.release_window(first(), 1).is_err());
    rig.connection.check().unwrap();
}

#[test]
fn late_frames_of_a_stream_that_we_reset_are_ignored() {
    let mut rig = Rig::server(small());
    rig.feed(&headers(1, false, CONNECT)).unwrap();
    rig.connection.reset(first(), ErrorCode::CANCEL).unwrap();
    rig.take_events();
    rig.frames();
    rig.feed(&data(1, false, b"late")).unwrap();
    rig.feed(&window_update(1, 5)).unwrap();
    rig.feed(&headers(1, true, &[("a", "b")])).unwrap();
    rig.feed(&rst_stream(1, ErrorCode::CANCEL)).unwrap();
    assert_eq!(rig.take_events(), []);
    assert_eq!(rig.frames(), []);
    rig.connection.check().unwrap();
}

#[test]
fn data_after_the_peers_own_reset_is_answered() {
    let mut rig = Rig::server(small());
    rig.feed(&headers(1, false, CONNECT)).unwrap();
    rig.feed(&rst_stream(1, ErrorCode::CANCEL)).unwrap();
    rig.feed(&data(1, false, b"late")).unwrap();
    let sent = rig.of_kind(FrameKind::RstStream);
    assert_eq!(sent[0].payload, ErrorCode::STREAM_CLOSED.0.to_be_bytes());
    // Identifiers that were passed over are closed too.
    rig.feed(&headers(7, false, CONNECT)).unwrap();
    rig.feed(&data(5, false, b"x")).unwrap();
    assert_eq!(rig.of_kind(FrameKind::RstStream)[0].stream, 5);
}

#[test]
fn a_stream_that_is_reset_in_the_middle_of_a_frame_loses_no_credit() {
    let frame = raw(
        FrameKind::Data,
        frame::PADDED,
        1,
        &[&[9][..], &[0; 50]].concat(),
    );
    for cut in 9..frame.len() {
        let mut rig = Rig::server(small());
        rig.feed(&headers(1, false, CONNECT)).unwrap();
        rig.feed(&frame[..cut]).unwrap();
        rig.connection.reset(first(), ErrorCode::CANCEL).unwrap();
        rig.connection.check().unwrap();
        rig.feed(&frame[cut..]).unwrap();
        rig.feed(&raw(FrameKind::Ping, 0, 0, &[0; 8])).unwrap();
        assert_eq!(rig.of_kind(FrameKind::Ping).len(), 1);
    }
}

#[test]
fn streams_over_our_limit_are_refused_and_do_not_exist() {
    let mut settings = small();
    settings.announce.streams_max = 1;
    let mut rig = Rig::server(settings);
    rig.feed(&headers(1, true, POST)).unwrap();
    rig.feed(&headers(3, false, POST)).unwrap();
    rig.feed(&data(3, true, b"late")).unwrap();
    assert_eq!(rig.take_events().len(), 1);
    let sent = rig.of_kind(FrameKind::RstStream);
    assert_eq!((sent.len(), sent[0].stream), (1, 3));
    assert_eq!(sent[0].payload, ErrorCode::REFUSED_STREAM.0.to_be_bytes());
    rig.connection
        .send_headers(first(), &fields(OK), true)
        .unwrap();
    rig.feed(&headers(5, true, POST)).unwrap();
    assert_eq!(rig.connection.open_streams(), 1);
}

#[test]
fn the_peers_stream_limit_holds_us_back_and_lets_go() {
    let mut rig = Rig::client(Settings::default());
    rig.feed(&settings(&[(0x3, 1)])).unwrap();
    let connect = fields(CONNECT);
    rig.connection.open_stream(&connect, false).unwrap();
    assert_eq!(
        rig.connection.open_stream(&connect, false),
        Err(OpenError::StreamLimit)
    );
    rig.take_events();
    rig.feed(&rst_stream(1, ErrorCode::REFUSED_STREAM)).unwrap();
    let events = rig.take_events();
    assert!(events.contains(&Event::StreamsAvailable));
    let retry = |e: &Event| matches!(e, Event::Reset { cause, .. } if cause.retry_is_safe());
    assert!(events.iter().any(retry));
    rig.connection.open_stream(&connect, false).unwrap();
}

#[test]
fn our_goaway_excludes_later_streams() {
    let mut rig = Rig::server(small());
    rig.feed(&headers(1, false, CONNECT)).unwrap();
    rig.connection.goaway_graceful().unwrap();
    rig.feed(&headers(3, true, POST)).unwrap();
    rig.connection
        .goaway_final(ErrorCode::NO_ERROR, b"bye")
        .unwrap();
    let sent = rig.of_kind(FrameKind::GoAway);
    assert_eq!(&sent[0].payload[..4], &0x7fff_ffff_u32.to_be_bytes());
    assert_eq!(&sent[1].payload[..4], &3_u32.to_be_bytes());
    assert_eq!(&sent[1].payload[8..], b"bye");
    rig.take_events();
    // Such a stream's frames are all ignored, and its header block keeps the tables in step.
    rig.feed(&headers(5, false, POST)).unwrap();
    rig.feed(&data(5, false, b"x")).unwrap();
    rig.feed(&rst_stream(7, ErrorCode::CANCEL)).unwrap();
    rig.feed(&window_update(9, 1)).unwrap();
    assert_eq!(rig.take_events(), []);
    assert_eq!(rig.frames(), []);
    assert!(!rig.connection.is_finished());
    for stream in [1, 3] {
        rig.connection
            .reset(StreamId::new(stream), ErrorCode::CANCEL)
            .unwrap();
    }
    rig.flush();
    assert!(rig.connection.is_finished());
}

#[test]
fn after_a_graceful_goaway_a_late_stream_is_still_taken() {
    let mut rig = Rig::server(small());
    rig.connection.goaway_graceful().unwrap();
    rig.flush();
    assert!(!rig.connection.is_finished());
    rig.feed(&headers(1, true, POST)).unwrap();
    rig.connection
        .send_headers(first(), &fields(OK), true)
        .unwrap();
    rig.connection
        .goaway_final(ErrorCode::NO_ERROR, b"")
        .unwrap();
    rig.flush();
    assert!(rig.connection.is_finished());
    // An error later does not raise what was said to be the last.
    rig.feed(&headers(3, true, POST)).unwrap();
    rig.frames();
    rig.feed(&window_update(0, 0)).unwrap_err();
    assert_eq!(
        &rig.of_kind(FrameKind::GoAway)[0].payload[..4],
        &1_u32.to_be_bytes()
    );
}

#[test]
fn the_peers_goaway_gives_unprocessed_streams_back() {
    let mut rig = Rig::client(Settings::default());
    let connect = fields(CONNECT);
    for _ in 0..3 {
        rig.connection.open_stream(&connect, false).unwrap();
    }
    rig.feed(&raw(
        FrameKind::GoAway,
        0,
        0,
        &[0, 0, 0, 3, 0, 0, 0, 0, b'!'],
    ))
    .unwrap();
    let expected = [
        Event::GoAway {
            last: StreamId::new(3),
            code: ErrorCode::NO_ERROR,
            debug: Bytes::from_static(b"!"),
        },
        Event::Reset {
            stream: StreamId::new(5),
            cause: ResetCause::GoAway,
        },
    ];
    assert_eq!(rig.take_events(), expected);
    assert_eq!(
        rig.connection.open_stream(&connect, false),
        Err(OpenError::GoingAway)
    );
    assert_eq!(rig.connection.open_streams(), 2);
}

#[test]
fn a_lowered_window_goes_negative_and_recovers() {
    let (mut rig, stream) = Rig::tunnel(Settings::default());
    let mut payload = Bytes::from(vec![7; 50_000]);
    rig.connection.send_data(stream, &mut payload).unwrap();
    let sent = |rig: &mut Rig| {
        let frames = rig.of_kind(FrameKind::Data);
        frames.iter().map(|f| f.payload.len()).sum::<usize>()
    };
    assert_eq!(sent(&mut rig), 50_000);
    // 65,535 - 50,000 were left; with an initial window of 10,000 it is -40,000.
    rig.feed(&settings(&[(0x4, 10_000)])).unwrap();
    let mut payload = Bytes::from(vec![7; 1000]);
    rig.connection.send_data(stream, &mut payload).unwrap();
    assert_eq!(sent(&mut rig), 0);
    rig.feed(&window_update(1, 40_000)).unwrap();
    assert_eq!(sent(&mut rig), 0);
    rig.feed(&window_update(1, 300)).unwrap();
    assert_eq!(sent(&mut rig), 300);
    rig.feed(&settings(&[(0x4, 11_000)])).unwrap();
    assert_eq!(sent(&mut rig), 700);
}

#[test]
fn our_own_lowered_window_is_in_force_once_acknowledged() {
    let mut rig = Rig::server(small());
    rig.feed(&headers(1, false, CONNECT)).unwrap();
    rig.feed(&data(1, false, &[0; 50])).unwrap();
    let mut announce = small().announce;
    announce.stream_window_bytes = 20;
    rig.connection.change_settings(announce).unwrap();
    rig.feed(&data(1, false, &[0; 50])).unwrap();
    rig.feed(&settings_ack()).unwrap();
    assert!(rig.events.contains(&Event::SettingsAcked));
    rig.frames();
    // The window is -80: credit that is given back brings it to 20.
    rig.connection.release_window(first(), 100).unwrap();
    assert_eq!(rig.frames()[0].payload, 100_u32.to_be_bytes());
    rig.feed(&data(1, false, &[0; 20])).unwrap();
    rig.events.clear();
    rig.feed(&data(1, false, &[0; 1])).unwrap();
    let exceeded = violation(1, ErrorCode::FLOW_CONTROL_ERROR, Violation::WindowExceeded);
    assert_eq!(rig.take_events(), [exceeded]);
}

#[test]
fn credit_that_waited_is_due_when_the_window_is_lowered() {
    let mut rig = Rig::server(small());
    rig.feed(&headers(1, false, CONNECT)).unwrap();
    rig.feed(&data(1, false, &[0; 49])).unwrap();
    rig.connection.release_window(first(), 49).unwrap();
    let mut announce = small().announce;
    announce.stream_window_bytes = 40;
    rig.connection.change_settings(announce).unwrap();
    assert_eq!(rig.of_kind(FrameKind::WindowUpdate), []);
    // 51 were available, now -9: without this credit the peer could never send again.
    rig.feed(&settings_ack()).unwrap();
    assert_eq!(
        rig.of_kind(FrameKind::WindowUpdate)[0].payload,
        49_u32.to_be_bytes()
    );
}

#[test]
fn no_credit_is_given_to_a_side_that_has_ended() {
    let mut rig = Rig::server(small());
    rig.feed(&headers(1, false, CONNECT)).unwrap();
    rig.feed(&data(1, true, &[0; 90])).unwrap();
    rig.connection.release_window(first(), 90).unwrap();
    assert_eq!(rig.of_kind(FrameKind::WindowUpdate), []);
}
