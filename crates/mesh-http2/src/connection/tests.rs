//! The engine against frame scripts, against itself, and against noise.

mod bounds;
mod commands;
mod errors;
mod noise;
mod restore;
mod rules;
mod sim;

use super::*;
use crate::frame::{FrameHeader, FrameKind, HEADER_BYTES};
use crate::hpack::Field;
use bytes::{Buf, Bytes, BytesMut};

/// One frame of the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    kind: FrameKind,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// A frame as bytes, whatever it is.
fn raw(kind: FrameKind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        length: payload.len(),
        kind,
        flags,
        stream: StreamId::new(stream),
    };
    [&header.encode()[..], payload].concat()
}

fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let entry = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let payload: Vec<u8> = entries.iter().flat_map(entry).collect();
    raw(FrameKind::Settings, 0, 0, &payload)
}

fn settings_ack() -> Vec<u8> {
    raw(FrameKind::Settings, frame::ACK, 0, &[])
}

fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    raw(FrameKind::WindowUpdate, 0, stream, &increment.to_be_bytes())
}

fn rst_stream(stream: u32, code: ErrorCode) -> Vec<u8> {
    raw(FrameKind::RstStream, 0, stream, &code.0.to_be_bytes())
}

fn data(stream: u32, end: bool, payload: &[u8]) -> Vec<u8> {
    raw(FrameKind::Data, u8::from(end), stream, payload)
}

/// HEADERS with an encoder of its own: no state between calls.
fn headers(stream: u32, end: bool, fields: &[(&str, &str)]) -> Vec<u8> {
    raw(
        FrameKind::Headers,
        frame::END_HEADERS | u8::from(end),
        stream,
        &block(fields),
    )
}

/// Literals without indexing.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for (name, value) in fields {
        let field = Field::sensitive(name.as_bytes().to_vec(), value.as_bytes().to_vec());
        Encoder::default().encode(&[field], &mut out);
    }
    out.to_vec()
}

const CONNECT: &[(&str, &str)] = &[(":method", "CONNECT"), (":authority", "10.0.0.1:80")];
const POST: &[(&str, &str)] = &[(":method", "POST"), (":scheme", "http"), (":path", "/")];
const OK: &[(&str, &str)] = &[(":status", "200")];

fn fields(pairs: &[(&str, &str)]) -> Vec<Field> {
    let field = |(n, v): &(&str, &str)| Field::new(n.as_bytes().to_vec(), v.as_bytes().to_vec());
    pairs.iter().map(field).collect()
}

/// A connection under test, with all that came out of it.
struct Rig {
    connection: Connection,
    events: Vec<Event>,
    sent: BytesMut,
}

impl Rig {
    /// A server that has had the preface and SETTINGS.
    fn server(settings_of_server: Settings) -> Self {
        let mut rig = Self::fresh(Connection::server(settings_of_server));
        rig.feed(PREFACE).unwrap();
        rig.start();
        rig
    }

    /// A client that has had SETTINGS.
    fn client(settings_of_client: Settings) -> Self {
        let mut rig = Self::fresh(Connection::client(settings_of_client));
        rig.start();
        rig
    }

    fn fresh(connection: Connection) -> Self {
        Self {
            connection,
            events: Vec::new(),
            sent: BytesMut::new(),
        }
    }

    fn start(&mut self) {
        self.feed(&settings(&[])).unwrap();
        self.feed(&settings_ack()).unwrap();
        self.flush();
        self.sent.clear();
        self.events.clear();
    }

    /// A client with one CONNECT stream.
    fn tunnel(settings_of_client: Settings) -> (Self, StreamId) {
        let mut rig = Self::client(settings_of_client);
        let stream = rig.connection.open_stream(&fields(CONNECT), false).unwrap();
        rig.feed(&headers(1, false, OK)).unwrap();
        rig.flush();
        rig.sent.clear();
        rig.events.clear();
        (rig, stream)
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        let mut input = BytesMut::from(bytes);
        let mut result = Ok(());
        while !input.is_empty() && result.is_ok() {
            result = self.connection.receive(&mut input);
            self.drain();
        }
        self.connection.check().unwrap();
        result
    }

    fn drain(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            self.events.push(event);
        }
    }

    /// Everything that can be sent.
    fn flush(&mut self) {
        let mut out = Vec::new();
        while self.connection.transmit(1 << 20, &mut out) > 0 {}
        out.iter().for_each(|part| part.write_to(&mut self.sent));
        self.connection.check().unwrap();
        self.drain();
    }

    /// The frames sent since the last call.
    fn frames(&mut self) -> Vec<Frame> {
        self.flush();
        if self.sent.starts_with(PREFACE) {
            self.sent.advance(PREFACE.len());
        }
        let mut frames = Vec::new();
        while !self.sent.is_empty() {
            let header = self.sent.split_to(HEADER_BYTES);
            let header = FrameHeader::parse(header.as_ref().try_into().unwrap());
            frames.push(Frame {
                kind: header.kind,
                flags: header.flags,
                stream: header.stream.value(),
                payload: self.sent.split_to(header.length).to_vec(),
            });
        }
        frames
    }

    fn of_kind(&mut self, kind: FrameKind) -> Vec<Frame> {
        let mut frames = self.frames();
        frames.retain(|frame| frame.kind == kind);
        frames
    }

    fn take_events(&mut self) -> Vec<Event> {
        self.drain();
        std::mem::take(&mut self.events)
    }
}

fn violation(stream: u32, code: ErrorCode, violation: Violation) -> Event {
    let stream = StreamId::new(stream);
    let error = StreamError {
        stream,
        code,
        violation,
    };
    Event::Reset {
        stream,
        cause: ResetCause::Violation(error),
    }
}

/// Settings whose windows are small enough to be exceeded by hand.
fn small() -> Settings {
    let mut settings = Settings::default();
    settings.announce.stream_window_bytes = 100;
    settings
}
