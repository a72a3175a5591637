//! Commands: what they send, and when they are refused.

use super::*;
use crate::error::{CommandError, OpenError};
use crate::fields::FieldsError;

fn piece(length: usize) -> Bytes {
    Bytes::from(vec![b'x'; length])
}

#[test]
fn a_stream_ends_well_after_both_ends() {
    let (mut rig, stream) = Rig::tunnel(Settings::default());
    rig.connection.send_data(stream, &mut piece(3)).unwrap();
    rig.connection.end_stream(stream).unwrap();
    let frames = rig.frames();
    assert_eq!(frames.len(), 1);
    assert_eq!(
        (frames[0].flags, frames[0].payload.len()),
        (frame::END_STREAM, 3)
    );
    rig.feed(&data(1, true, b"")).unwrap();
    let expected = [
        Event::Data {
            stream,
            data: Bytes::new(),
            end: true,
        },
        Event::Closed { stream },
    ];
    assert_eq!(rig.take_events(), expected);
    assert_eq!(
        rig.connection.end_stream(stream),
        Err(CommandError::UnknownStream)
    );
}

#[test]
fn an_empty_end_needs_no_window() {
    let (mut rig, stream) = Rig::tunnel(Settings::default());
    let mut long = piece(70_000);
    rig.connection.send_data(stream, &mut long).unwrap();
    rig.frames();
    rig.feed(&window_update(0, 10_000)).unwrap();
    rig.connection.end_stream(stream).unwrap();
    assert_eq!(rig.frames(), []);
    rig.feed(&window_update(1, 70_000 - 65_535)).unwrap();
    let frames = rig.frames();
    assert_eq!((frames.len(), frames[0].flags), (1, frame::END_STREAM));

    let mut rig = Rig::client(Settings::default());
    let stream = rig.connection.open_stream(&fields(CONNECT), false).unwrap();
    rig.feed(&settings(&[(0x4, 0)])).unwrap();
    rig.frames();
    rig.connection.end_stream(stream).unwrap();
    let frames = rig.frames();
    assert_eq!(
        (frames[0].flags, frames[0].payload.len()),
        (frame::END_STREAM, 0)
    );
}

#[test]
fn trailers_follow_the_data() {
    let mut rig = Rig::server(Settings::default());
    rig.feed(&headers(1, true, POST)).unwrap();
    let stream = StreamId::new(1);
    let interim = fields(&[(":status", "103")]);
    rig.connection
        .send_headers(stream, &interim, false)
        .unwrap();
    rig.connection
        .send_headers(stream, &fields(OK), false)
        .unwrap();
    rig.connection.send_data(stream, &mut piece(5)).unwrap();
    let trailers = fields(&[("grpc-status", "0")]);
    rig.connection
        .send_headers(stream, &trailers, true)
        .unwrap();
    let refused = rig.connection.send_data(stream, &mut piece(1));
    assert_eq!(refused, Err(CommandError::WrongPhase));
    let kinds: Vec<_> = rig.frames().iter().map(|f| (f.kind, f.flags)).collect();
    let expected = [
        (FrameKind::Headers, frame::END_HEADERS),
        (FrameKind::Headers, frame::END_HEADERS),
        (FrameKind::Data, 0),
        (FrameKind::Headers, frame::END_HEADERS | frame::END_STREAM),
    ];
    assert_eq!(kinds, expected);
    assert!(rig.events.contains(&Event::Closed { stream }));
}

#[test]
fn streams_take_turns_and_small_messages_share_frames() {
    let mut rig = Rig::client(Settings::default());
    rig.feed(&window_update(0, 1 << 20)).unwrap();
    let connect = fields(CONNECT);
    let bulk = rig.connection.open_stream(&connect, false).unwrap();
    let small = rig.connection.open_stream(&connect, false).unwrap();
    rig.frames();
    rig.connection.send_data(bulk, &mut piece(50_000)).unwrap();
    for _ in 0..100 {
        rig.connection.send_data(small, &mut piece(10)).unwrap();
    }
    let order: Vec<_> = rig
        .frames()
        .iter()
        .map(|f| (f.stream, f.payload.len()))
        .collect();
    assert_eq!(
        order,
        [(1, 16_384), (3, 1000), (1, 16_384), (1, 16_384), (1, 848)]
    );
}

#[test]
fn an_output_is_about_as_long_as_asked_for() {
    let (mut rig, stream) = Rig::tunnel(Settings::default());
    rig.connection
        .send_data(stream, &mut piece(60_000))
        .unwrap();
    rig.connection.ping([1; 8]).unwrap();
    let mut out = Vec::new();
    assert_eq!(rig.connection.transmit(1000, &mut out), 1000);
    assert_eq!(out.len(), 2);
    assert_eq!(out.iter().map(Outgoing::wire_bytes).sum::<usize>(), 1000);
    assert!(rig.connection.wants_transmit());
    let mut total = 1000;
    loop {
        let mut out = Vec::new();
        let written = rig.connection.transmit(0, &mut out);
        assert!(written <= 64);
        if written == 0 {
            break;
        }
        total += written;
    }
    assert!(total > 60_000 && !rig.connection.wants_transmit());
}

#[test]
fn buffers_are_bounded_and_say_when_there_is_room() {
    let mut settings = Settings::default();
    settings.limits.stream_buffer_bytes_max = 1000;
    settings.limits.connection_buffer_bytes_max = 1500;
    let (mut rig, first) = Rig::tunnel(settings);
    let second = rig.connection.open_stream(&fields(CONNECT), false).unwrap();
    let mut long = piece(1200);
    assert_eq!(rig.connection.send_data(first, &mut long), Ok(1000));
    assert_eq!(long.len(), 200);
    assert_eq!(rig.connection.send_data(second, &mut piece(1200)), Ok(500));
    assert_eq!(rig.connection.send_data(second, &mut piece(1)), Ok(0));
    assert_eq!(rig.connection.buffered_bytes(), 1500);
    rig.connection.check().unwrap();
    rig.flush();
    let mut opened = rig.take_events();
    opened.sort_by_key(|event| format!("{event:?}"));
    let expected = [
        Event::WindowOpened { stream: first },
        Event::WindowOpened { stream: second },
    ];
    assert_eq!(opened, expected);
}

#[test]
fn a_stream_that_goes_makes_room_for_others() {
    let mut settings = Settings::default();
    settings.limits.connection_buffer_bytes_max = 1000;
    let (mut rig, first) = Rig::tunnel(settings);
    rig.feed(&super::settings(&[(0x4, 0)])).unwrap();
    let second = rig.connection.open_stream(&fields(CONNECT), false).unwrap();
    rig.flush();
    rig.connection.send_data(first, &mut piece(2000)).unwrap();
    assert_eq!(rig.connection.send_data(second, &mut piece(1)), Ok(0));
    rig.take_events();
    rig.feed(&rst_stream(1, ErrorCode::CANCEL)).unwrap();
    let opened = Event::WindowOpened { stream: second };
    assert!(rig.take_events().contains(&opened));
}

#[test]
fn a_reset_throws_away_what_waits_both_ways() {
    let (mut rig, stream) = Rig::tunnel(small());
    rig.connection.send_data(stream, &mut piece(100)).unwrap();
    let mut input = BytesMut::from(&data(1, true, b"unseen")[..]);
    rig.connection.receive(&mut input).unwrap();
    rig.connection.reset(stream, ErrorCode::CANCEL).unwrap();
    rig.connection.check().unwrap();
    assert_eq!(rig.take_events(), []);
    let frames = rig.frames();
    assert_eq!((frames.len(), frames[0].kind), (1, FrameKind::RstStream));
    assert_eq!(rig.connection.buffered_bytes(), 0);
    assert!(rig.connection.release_window(stream, 1).is_err());
    assert_eq!(
        rig.connection.reset(stream, ErrorCode::CANCEL),
        Err(CommandError::UnknownStream)
    );
}

#[test]
fn what_is_malformed_is_not_sent() {
    let mut rig = Rig::client(Settings::default());
    let malformed = |error| Err(OpenError::Command(CommandError::Malformed(error)));
    let smuggled = [CONNECT, &[("x", "a\r\nb: c")]].concat();
    let open = |rig: &mut Rig, pairs| rig.connection.open_stream(&fields(pairs), false);
    assert_eq!(open(&mut rig, &smuggled), malformed(FieldsError::Value));
    assert_eq!(open(&mut rig, OK), malformed(FieldsError::PseudoSet));
    let socket = [&[(":method", "CONNECT"), (":protocol", "w")], &POST[1..]].concat();
    assert_eq!(open(&mut rig, &socket), malformed(FieldsError::Pseudo));
    rig.feed(&settings(&[(0x8, 1), (0x6, 200)])).unwrap();
    assert!(open(&mut rig, &socket).is_ok());
    let large = "v".repeat(200);
    let large = [CONNECT, &[("x", &large)]].concat();
    let refused = Err(OpenError::Command(CommandError::FieldsTooLarge));
    assert_eq!(open(&mut rig, &large), refused);
    let mut server = Rig::server(Settings::default());
    assert_eq!(open(&mut server, CONNECT), Err(OpenError::Server));
}

#[test]
fn commands_are_held_back_when_the_output_is_full() {
    let mut settings = Settings::default();
    settings.limits.control_bytes_max = 4000;
    settings.limits.initial_streams_max = u32::MAX;
    let mut rig = Rig::client(settings);
    let long = "v".repeat(300);
    let connect = fields(&[CONNECT, &[("traceparent", &long)]].concat());
    let error = (0..100).find_map(|_| rig.connection.open_stream(&connect, false).err());
    assert_eq!(error, Some(OpenError::Command(CommandError::OutputFull)));
    rig.flush();
    rig.connection.open_stream(&connect, false).unwrap();
}

#[test]
fn pings_and_settings_in_flight_are_bounded() {
    let mut rig = Rig::client(Settings::default());
    for n in 0..4 {
        rig.connection.ping([n; 8]).unwrap();
        rig.connection.change_settings(Announce::default()).unwrap();
    }
    assert_eq!(
        rig.connection.ping([9; 8]),
        Err(CommandError::TooManyInFlight)
    );
    let refused = rig.connection.change_settings(Announce::default());
    assert_eq!(refused, Err(CommandError::TooManyInFlight));
    rig.feed(&raw(FrameKind::Ping, frame::ACK, 0, &[2; 8]))
        .unwrap();
    rig.feed(&settings_ack()).unwrap();
    let expected = [Event::PingAcked { opaque: [2; 8] }, Event::SettingsAcked];
    assert_eq!(rig.take_events(), expected);
    assert_eq!(rig.connection.pings_in_flight(), 3);
    assert_eq!(rig.connection.settings_in_flight(), 3);
}

#[test]
fn identifiers_run_out() {
    let mut rig = Rig::client(Settings::default());
    rig.connection.streams.next_local = 0x7fff_ffff;
    assert!(rig.connection.open_stream(&fields(CONNECT), false).is_ok());
    let refused = rig.connection.open_stream(&fields(CONNECT), false);
    assert_eq!(refused, Err(OpenError::Exhausted));
}
