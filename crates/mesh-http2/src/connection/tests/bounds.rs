//! Each named limit, reached by a script.

use super::*;

/// Repeats a script until the connection ends, and says after how many times.
fn flood(rig: &mut Rig, script: impl Fn(u32) -> Vec<u8>, limit: Limit) -> u32 {
    for times in 0..100_000 {
        if let Err(error) = rig.feed(&script(times)) {
            assert_eq!(error.code, ErrorCode::ENHANCE_YOUR_CALM);
            assert_eq!(error.violation, Violation::Limit(limit));
            return times;
        }
        rig.flush();
        rig.sent.clear();
        rig.events.clear();
    }
    panic!("{limit} was never reached");
}

fn server() -> Rig {
    Rig::server(Settings::default())
}

fn serving() -> Rig {
    let mut rig = server();
    rig.feed(&headers(1, false, CONNECT)).unwrap();
    rig
}

#[test]
fn rapid_reset() {
    let reset = |n| {
        let stream = 2 * n + 1;
        [
            headers(stream, true, POST),
            rst_stream(stream, ErrorCode::CANCEL),
        ]
        .concat()
    };
    assert_eq!(flood(&mut server(), reset, Limit::Resets), 200);
    // Streams of our own refusal, and those of the peer's fault, cost the same.
    let mut settings = Settings::default();
    settings.announce.streams_max = 0;
    let refused = |n| headers(2 * n + 1, true, POST);
    assert_eq!(
        flood(&mut Rig::server(settings), refused, Limit::Resets),
        200
    );
    let malformed = |n| headers(2 * n + 1, true, OK);
    assert_eq!(flood(&mut server(), malformed, Limit::Resets), 200);
}

#[test]
fn budgets_are_earned_back_by_work_and_by_the_owner() {
    let mut rig = server();
    for n in 0..1000 {
        let (good, bad) = (4 * n + 1, 4 * n + 3);
        rig.feed(&headers(good, true, POST)).unwrap();
        rig.connection
            .send_headers(StreamId::new(good), &fields(OK), true)
            .unwrap();
        rig.feed(&headers(bad, true, POST)).unwrap();
        rig.feed(&rst_stream(bad, ErrorCode::CANCEL)).unwrap();
        rig.flush();
    }
    let ping = raw(FrameKind::Ping, 0, 0, &[0; 8]);
    for _ in 0..1000 {
        rig.feed(&ping).unwrap();
        rig.flush();
        rig.connection.refill();
    }
}

#[test]
fn floods_of_small_frames() {
    let ping = |_| raw(FrameKind::Ping, 0, 0, &[0; 8]);
    assert_eq!(flood(&mut server(), ping, Limit::Pings), 100);
    let pong = |_| raw(FrameKind::Ping, frame::ACK, 0, &[0; 8]);
    assert_eq!(flood(&mut server(), pong, Limit::Pings), 100);
    flood(&mut server(), |_| settings(&[]), Limit::Settings);
    let goaway = |_| raw(FrameKind::GoAway, 0, 0, &[0; 8]);
    flood(&mut server(), goaway, Limit::Settings);
    let empty = |_| data(1, false, b"");
    assert_eq!(flood(&mut serving(), empty, Limit::EmptyFrames), 100);
    let padding = |_| raw(FrameKind::Data, frame::PADDED, 1, &[3, 0, 0, 0]);
    assert_eq!(flood(&mut serving(), padding, Limit::EmptyFrames), 100);
    let priority = |_| raw(FrameKind::Priority, 0, 1, &[0; 5]);
    assert_eq!(flood(&mut server(), priority, Limit::IgnoredFrames), 1000);
    let unknown = |_| raw(FrameKind::Unknown(99), 0, 0, b"x");
    assert_eq!(flood(&mut server(), unknown, Limit::IgnoredFrames), 1000);
    let update = |_| window_update(1, 1);
    assert_eq!(flood(&mut serving(), update, Limit::WindowUpdates), 10_000);
}

#[test]
fn interim_responses_are_bounded() {
    let mut rig = Rig::client(Settings::default());
    rig.connection.open_stream(&fields(POST), true).unwrap();
    let interim = |_| headers(1, false, &[(":status", "103")]);
    assert_eq!(flood(&mut rig, interim, Limit::IgnoredFrames), 1000);
}

#[test]
fn late_frames_are_bounded() {
    let mut rig = serving();
    rig.connection
        .reset(StreamId::new(1), ErrorCode::CANCEL)
        .unwrap();
    flood(&mut rig, |_| data(1, false, b"late"), Limit::IgnoredFrames);
    let mut rig = serving();
    rig.feed(&rst_stream(1, ErrorCode::CANCEL)).unwrap();
    // Answered once, ignored from then on.
    flood(&mut rig, |_| data(1, false, b"late"), Limit::IgnoredFrames);
}

#[test]
fn header_blocks_are_bounded() {
    let begun = raw(FrameKind::Headers, 0, 1, &[]);
    let mut rig = server();
    rig.feed(&begun).unwrap();
    let full = |_| raw(FrameKind::Continuation, 0, 1, &[0x82; 16_384]);
    assert_eq!(flood(&mut rig, full, Limit::HeaderBlockBytes), 4);
    let mut rig = server();
    rig.feed(&begun).unwrap();
    let thin = |_| raw(FrameKind::Continuation, 0, 1, &[0x82]);
    assert_eq!(flood(&mut rig, thin, Limit::ContinuationFrames), 32);
    let mut settings = Settings::default();
    settings.limits.continuation_frames_max = u32::MAX;
    let mut rig = Rig::server(settings);
    rig.feed(&begun).unwrap();
    let empty = |_| raw(FrameKind::Continuation, 0, 1, &[]);
    assert_eq!(flood(&mut rig, empty, Limit::EmptyFrames), 100);
}

#[test]
fn a_header_frame_that_is_too_long_is_refused_by_its_header() {
    let mut settings = Settings::default();
    settings.announce.frame_bytes_max = 1 << 20;
    let mut rig = Rig::server(settings);
    let long = raw(FrameKind::Headers, frame::END_HEADERS, 1, &[0x82; 70_000]);
    let error = rig.feed(&long[..9]).unwrap_err();
    assert_eq!(error, Limit::HeaderBlockBytes.reached());
}

#[test]
fn header_bombs_are_bounded() {
    // 1,500 bytes in the table, then named again and again with one byte each.
    let mut bomb = block(POST);
    let value = "v".repeat(1500);
    let mut out = BytesMut::new();
    Encoder::default().encode(&fields(&[("a", &value)]), &mut out);
    bomb.extend_from_slice(&out);
    let listed = |times| {
        let mut block = bomb.clone();
        block.extend(vec![0xbe; times]);
        raw(
            FrameKind::Headers,
            frame::END_HEADERS | frame::END_STREAM,
            1,
            &block,
        )
    };
    let mut rig = server();
    rig.feed(&listed(100)).unwrap();
    assert_eq!(rig.take_events(), []);
    let refused = rig.of_kind(FrameKind::RstStream);
    assert_eq!(
        refused[0].payload,
        ErrorCode::ENHANCE_YOUR_CALM.0.to_be_bytes()
    );
    let error = server().feed(&listed(1000)).unwrap_err();
    assert_eq!(error, Limit::HeaderBombBytes.reached());
}

#[test]
fn settings_frames_and_goaway_debug_are_bounded() {
    let many: Vec<(u16, u32)> = (0..65).map(|n| (0xff00 + n, 0)).collect();
    assert_eq!(
        server().feed(&settings(&many)),
        Err(Limit::SettingsEntries.reached())
    );
    let mut rig = server();
    let long = raw(FrameKind::GoAway, 0, 0, &[0; 10_000]);
    rig.feed(&[long, raw(FrameKind::Ping, 0, 0, &[0; 8])].concat())
        .unwrap();
    let events = rig.take_events();
    assert!(matches!(&events[..], [Event::GoAway { debug, .. }] if debug.len() == 256));
    assert_eq!(rig.of_kind(FrameKind::Ping).len(), 1);
}

#[test]
fn a_peer_that_does_not_read_its_answers_is_ended() {
    let mut settings = Settings::default();
    settings.limits.pings_max = u32::MAX;
    settings.limits.control_bytes_max = 1000;
    let mut rig = Rig::server(settings);
    let ping = raw(FrameKind::Ping, 0, 0, &[0; 8]);
    let error = (0..1000).find_map(|_| rig.feed(&ping).err());
    assert_eq!(error, Some(Limit::ControlBytes.reached()));
}

#[test]
fn events_that_nobody_takes_stop_the_reading() {
    let mut settings = Settings::default();
    settings.limits.events_max = 3;
    let mut rig = Rig::server(settings);
    rig.feed(&headers(1, false, CONNECT)).unwrap();
    let mut input = BytesMut::from(&data(1, false, b"x").repeat(10)[..]);
    rig.connection.receive(&mut input).unwrap();
    assert_eq!(input.len(), 70);
    rig.connection.receive(&mut input).unwrap();
    assert_eq!(input.len(), 70);
    rig.drain();
    rig.connection.receive(&mut input).unwrap();
    assert_eq!(input.len(), 40);
}

#[test]
fn ended_streams_are_remembered_up_to_a_bound() {
    let mut rig = server();
    for n in 0..2000 {
        rig.feed(&headers(2 * n + 1, true, POST)).unwrap();
        rig.connection
            .send_headers(StreamId::new(2 * n + 1), &fields(OK), true)
            .unwrap();
        rig.flush();
    }
    let written = serde_json::to_string(&rig.connection.snapshot()).unwrap();
    assert!(written.len() < 16_000, "{}", written.len());
}

/// What an idle connection and an idle stream cost, besides the compression tables.
#[test]
fn idle_state_is_small() {
    let (mut rig, _) = Rig::tunnel(Settings::default());
    rig.feed(&data(1, false, b"x").repeat(2000)).unwrap();
    assert!(rig.connection.events.capacity() <= IDLE_EVENTS);
    let (connection, stream) = (size_of::<Connection>(), size_of::<crate::stream::Stream>());
    assert!(
        connection <= 1200 && stream <= 320,
        "{connection} and {stream} bytes"
    );
}
