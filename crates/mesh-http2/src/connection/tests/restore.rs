//! The state written down and taken up, in the middle of everything.

use super::*;
use crate::error::RestoreError;
use proptest::prelude::*;
use serde_json::Value;

fn rewritten(connection: &Connection) -> Connection {
    let written = serde_json::to_string(&connection.snapshot()).unwrap();
    let restored = Connection::restore(serde_json::from_str(&written).unwrap()).unwrap();
    assert!(restored == *connection);
    restored
}

/// Both engines are given up after every exchange, each cut at another byte.
#[test]
fn a_transfer_survives_that_both_sides_move_again_and_again() {
    let mut settings = small();
    settings.announce.stream_window_bytes = 5000;
    settings.limits.stream_buffer_bytes_max = 4000;
    let (mut client, mut server) = (
        Connection::client(settings.clone()),
        Connection::server(settings),
    );
    let stream = client.open_stream(&fields(CONNECT), false).unwrap();
    let text: Bytes = (0..60_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut rest, mut got, mut echoed) = (text.clone(), BytesMut::new(), BytesMut::new());
    let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
    let (mut sent_back, mut answered) = (0, false);
    for round in 0.. {
        assert!(
            round < 5000,
            "stuck after {} and {} bytes",
            got.len(),
            echoed.len()
        );
        if echoed.len() == text.len() {
            break;
        }
        client.send_data(stream, &mut rest).unwrap();
        transmit(&mut client, &mut to_server, 700 + round % 13);
        client = rewritten(&client);
        let now = to_server.len().min(500 + round % 7 * 100);
        server.receive(&mut to_server.split_to(now)).unwrap();
        server = rewritten(&server);
        while let Some(event) = server.poll_event() {
            if let Event::Data { stream, data, .. } = event {
                server.release_window(stream, data.len()).unwrap();
                got.extend_from_slice(&data);
            }
        }
        if !answered && server.open_streams() == 1 {
            server.send_headers(stream, &fields(OK), false).unwrap();
            answered = true;
        }
        if answered {
            let mut back = text.slice(sent_back..got.len());
            sent_back += server.send_data(stream, &mut back).unwrap();
        }
        transmit(&mut server, &mut to_client, 900 + round % 11);
        server = rewritten(&server);
        let now = to_client.len().min(300 + round % 5 * 200);
        client.receive(&mut to_client.split_to(now)).unwrap();
        client = rewritten(&client);
        while let Some(event) = client.poll_event() {
            if let Event::Data { stream, data, .. } = event {
                client.release_window(stream, data.len()).unwrap();
                echoed.extend_from_slice(&data);
            }
        }
    }
    assert!(got == text && echoed == text);
}

fn transmit(connection: &mut Connection, wire: &mut BytesMut, max: usize) {
    let mut out = Vec::new();
    connection.transmit(max, &mut out);
    out.iter().for_each(|part| part.write_to(wire));
}

fn busy() -> Value {
    let (mut rig, stream) = Rig::tunnel(Settings::default());
    rig.connection
        .send_data(stream, &mut vec![0; 100_000].into())
        .unwrap();
    rig.feed(&data(1, false, b"unreleased")).unwrap();
    rig.flush();
    serde_json::to_value(rig.connection.snapshot()).unwrap()
}

#[test]
fn another_version_is_refused() {
    let mut written = busy();
    written["version"] = 99.into();
    let result = Connection::restore(serde_json::from_value(written).unwrap());
    let refused = RestoreError::Version {
        found: 99,
        expected: 1,
    };
    assert_eq!(result.err(), Some(refused));
}

#[test]
fn a_state_that_contradicts_itself_is_refused() {
    let alter = |path: &str, value: Value| {
        let mut written = busy();
        let place = written.pointer_mut(&format!("/connection{path}"));
        *place.unwrap_or_else(|| panic!("no {path}")) = value;
        Connection::restore(serde_json::from_value(written).unwrap()).err()
    };
    let stream = "/streams/table/1";
    for (path, value, part) in [
        ("/orphaned".into(), 1.into(), "windows"),
        ("/role".into(), "Server".into(), "streams"),
        ("/local/acked/frame_bytes_max".into(), 1.into(), "settings"),
        ("/receive_window/available".into(), 5.into(), "windows"),
        (
            format!("{stream}/receive_window/target"),
            i64::MAX.into(),
            "windows",
        ),
        (
            format!("{stream}/send_window/available"),
            i64::MAX.into(),
            "windows",
        ),
        (format!("{stream}/outbound/bytes"), 1.into(), "buffers"),
        ("/outbox/buffered".into(), 0.into(), "buffers"),
        (format!("{stream}/scheduled"), true.into(), "scheduler"),
        ("/outbox/ready".into(), vec![3].into(), "scheduler"),
        ("/streams/local".into(), 2.into(), "streams"),
        ("/streams/next_local".into(), 1.into(), "streams"),
        ("/peer/frame_bytes_max".into(), 1.into(), "peer's settings"),
        ("/encoder/table/bytes".into(), 1.into(), "compression table"),
    ] {
        assert_eq!(
            alter(&path, value),
            Some(RestoreError::Inconsistent(part)),
            "{path}"
        );
    }
}

/// Every number of a written state, as a path to it.
fn numbers(value: &Value, path: &str, out: &mut Vec<String>) {
    match value {
        Value::Number(_) => out.push(path.to_owned()),
        Value::Object(members) => {
            let members = members.iter();
            members.for_each(|(name, value)| numbers(value, &format!("{path}/{name}"), out));
        }
        // Of long buffers, the first bytes will do.
        Value::Array(items) => {
            let items = items.iter().take(12).enumerate();
            items.for_each(|(place, value)| numbers(value, &format!("{path}/{place}"), out));
        }
        _ => {}
    }
}

/// A state in the middle of a frame, with something everywhere.
fn halfway(cut: usize) -> Value {
    let (mut rig, stream) = Rig::tunnel(Settings::default());
    rig.connection
        .send_data(stream, &mut vec![0; 3000].into())
        .unwrap();
    rig.connection.ping([1; 8]).unwrap();
    rig.connection.change_settings(small().announce).unwrap();
    let padded = raw(
        FrameKind::Data,
        frame::PADDED,
        1,
        &[&[9][..], &[0; 50]].concat(),
    );
    let mut input = BytesMut::from(&[data(1, false, b"unseen"), padded].concat()[..][..cut]);
    rig.connection.receive(&mut input).unwrap();
    serde_json::to_value(rig.connection.snapshot()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn an_altered_state_is_refused_or_harmless(
        which in any::<prop::sample::Index>(),
        cut in 10_usize..75,
        number in prop_oneof![Just(0), Just(1), any::<u8>().prop_map(u64::from), any::<u64>(),
            Just(u64::from(u32::MAX)), Just(u64::MAX), Just(i64::MAX as u64)],
    ) {
        let mut written = halfway(cut);
        let mut paths = Vec::new();
        numbers(&written, "", &mut paths);
        *written.pointer_mut(&paths[which.index(paths.len())]).unwrap() = number.into();
        let Ok(snapshot) = serde_json::from_value(written) else {
            return Ok(());
        };
        let Ok(mut connection) = Connection::restore(snapshot) else {
            return Ok(());
        };
        let rest = [&[0; 60][..], &data(1, true, b"end"), &window_update(0, 100), &settings_ack()];
        let mut input = BytesMut::from(&rest.concat()[..]);
        for _ in 0..20 {
            let failed = connection.receive(&mut input).is_err();
            connection.transmit(1000, &mut Vec::new());
            while let Some(event) = connection.poll_event() {
                if let Event::Data { stream, data, .. } = event {
                    let _refused = connection.release_window(stream, data.len());
                }
            }
            let _refused = connection.open_stream(&fields(CONNECT), true);
            if failed {
                break;
            }
        }
    }
}
