//! Noise: whatever bytes come, nothing panics, and what is kept stays within its bounds.

use super::*;
use proptest::prelude::*;

/// Frames that are nearly right, which go deeper than bytes that are not frames at all.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let stream = prop_oneof![4 => 0_u32..8, 1 => any::<u32>()];
    let payload = prop::collection::vec(any::<u8>(), 0..40);
    let loose = (0_u8..12, any::<u8>(), stream, payload).prop_map(|(kind, flags, id, payload)| {
        let mut bytes = raw(FrameKind::Unknown(kind), flags, id, &payload);
        bytes[5] = id.to_be_bytes()[0];
        bytes
    });
    let number = prop_oneof![Just(0), Just(1), 0..100_000_u32, any::<u32>()];
    let id = || (0_u32..4).prop_map(|n| 2 * n + 1);
    prop_oneof![
        4 => loose,
        2 => (id(), any::<bool>()).prop_map(|(id, end)| headers(id, end, CONNECT)),
        1 => (id(), any::<bool>()).prop_map(|(id, end)| headers(id, end, OK)),
        2 => (id(), any::<bool>(), 0..300_usize).prop_map(|(id, end, n)| data(id, end, &vec![0; n])),
        1 => (id(), number.clone()).prop_map(|(id, n)| window_update(id, n)),
        1 => id().prop_map(|id| rst_stream(id, ErrorCode::CANCEL)),
        1 => (1_u16..9, number).prop_map(|entry| settings(&[entry])),
        1 => Just(settings_ack()),
        1 => Just(raw(FrameKind::Ping, 0, 0, &[0; 8])),
    ]
}

#[derive(Debug, Clone)]
enum Act {
    Bytes(Vec<u8>),
    Send(u32, usize),
    End(u32),
    Answer(u32),
    Reset(u32),
    Transmit(usize),
    Poll(usize),
}

fn any_act() -> impl Strategy<Value = Act> {
    let id = || (0_u32..4).prop_map(|n| 2 * n + 1);
    prop_oneof![
        8 => any_frame().prop_map(Act::Bytes),
        1 => prop::collection::vec(any::<u8>(), 0..30).prop_map(Act::Bytes),
        1 => (id(), 0..9000_usize).prop_map(|(id, n)| Act::Send(id, n)),
        1 => id().prop_map(Act::End),
        1 => id().prop_map(Act::Answer),
        1 => id().prop_map(Act::Reset),
        1 => (0..5000_usize).prop_map(Act::Transmit),
        2 => (0..10_usize).prop_map(Act::Poll),
    ]
}

fn tight() -> Settings {
    let mut settings = small();
    settings.announce.streams_max = 3;
    settings.limits.events_max = 16;
    settings.limits.control_bytes_max = 1024;
    settings.limits.stream_buffer_bytes_max = 4096;
    settings.limits.connection_buffer_bytes_max = 6000;
    settings
}

fn act(connection: &mut Connection, act: Act, input: &mut BytesMut) {
    let id = StreamId::new;
    match act {
        Act::Bytes(bytes) => input.extend_from_slice(&bytes),
        Act::Send(stream, n) => drop(connection.send_data(id(stream), &mut vec![1; n].into())),
        Act::End(stream) => drop(connection.end_stream(id(stream))),
        Act::Answer(stream) => drop(connection.send_headers(id(stream), &fields(OK), false)),
        Act::Reset(stream) => drop(connection.reset(id(stream), ErrorCode::CANCEL)),
        Act::Transmit(max) => {
            connection.transmit(max, &mut Vec::new());
        }
        Act::Poll(events) => {
            for _ in 0..events {
                let event = connection.poll_event();
                if let Some(Event::Data { stream, data, .. }) = event {
                    connection.release_window(stream, data.len()).unwrap();
                }
            }
        }
    }
}

fn survives(mut connection: Connection, acts: Vec<Act>) {
    let mut input = BytesMut::new();
    for next in acts {
        act(&mut connection, next, &mut input);
        let failed = connection.receive(&mut input).is_err();
        connection.check().unwrap();
        assert_eq!(failed, connection.error().is_some());
        assert!(
            connection.events.len() <= 16 + 40,
            "{}",
            connection.events.len()
        );
        assert!(connection.outbox.control.len() <= 1024 + 16_384);
        assert!(connection.streams.table.len() <= 3 + 2);
        assert!(connection.buffered_bytes() <= 6000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_server_survives_anything(acts in prop::collection::vec(any_act(), 1..80)) {
        let mut connection = Connection::server(tight());
        connection.receive(&mut PREFACE[..].into()).unwrap();
        connection.receive(&mut settings(&[])[..].into()).unwrap();
        survives(connection, acts);
    }

    #[test]
    fn a_client_survives_anything(acts in prop::collection::vec(any_act(), 1..80)) {
        let mut connection = Connection::client(tight());
        connection.receive(&mut settings(&[])[..].into()).unwrap();
        for _ in 0..2 {
            connection.open_stream(&fields(CONNECT), false).unwrap();
        }
        survives(connection, acts);
    }

    #[test]
    fn bytes_that_are_no_frames_end_or_are_waited_for(
        bytes in prop::collection::vec(any::<u8>(), 0..2000), cut in 1_usize..100
    ) {
        for mut rig in [Rig::server(tight()), Rig::client(tight())] {
            for piece in bytes.chunks(cut) {
                if rig.feed(piece).is_err() {
                    break;
                }
                rig.flush();
            }
        }
    }
}
