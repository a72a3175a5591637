//! The state written down and taken up, in the middle of everything.

use super::*;
use crate::error::RestoreError;
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
