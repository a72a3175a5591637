//! HTTP/2: compression, the engine against any bytes, and the engine against itself.

use crate::input::Input;
use bytes::{Bytes, BytesMut};
use mesh_http2::hpack::{Decoder, Encoder, FieldList, HpackError, ListLimits};
use mesh_http2::{
    Announce, Connection, ErrorCode, Event, Field, Limits, Outgoing, Settings, StreamId,
};

/// Header compression: blocks of one connection, each with its length before it. A list within the
/// limits is compressed and decompressed to the same fields; the tables of both ends stay in step.
pub fn hpack(data: &[u8]) {
    let mut input = Input::new(data);
    let limits = ListLimits {
        list_bytes_max: 4096,
        fields_max: 32,
        bomb_bytes_max: 64 * 1024,
    };
    let roomy = ListLimits {
        list_bytes_max: usize::MAX,
        fields_max: usize::MAX,
        bomb_bytes_max: usize::MAX,
    };
    let (mut decoder, mut encoder, mut again) =
        (Decoder::default(), Encoder::default(), Decoder::default());
    while !input.is_empty() {
        let flags = input.byte();
        if flags & 1 == 1 {
            let table = usize::from(input.u16());
            decoder.allow_table(table);
            encoder.allow_table(table);
            again.allow_table(table.min(4096));
        }
        match decoder.decode(input.chunk(), &limits) {
            Ok(FieldList::Whole(fields)) => {
                let bytes: usize = fields.iter().map(Field::size).sum();
                assert!(bytes <= limits.list_bytes_max && fields.len() <= limits.fields_max);
                let mut block = BytesMut::new();
                encoder.encode(&fields, &mut block);
                let read = again.decode(&block, &roomy);
                assert_eq!(read, Ok(FieldList::Whole(fields)));
            }
            Ok(FieldList::TooLarge) => {}
            // The connection ends here.
            Err(HpackError::Bomb) => return,
            Err(_) => return,
        }
    }
}

/// Any bytes into either end of a connection, in any pieces: its state keeps its invariants and can be
/// written down at any moment, and what it keeps is bounded. The first bytes choose the end and how
/// its owner behaves.
pub fn http2(data: &[u8]) {
    let mut input = Input::new(data);
    let (flags, at_once) = (input.byte(), usize::from(input.byte()).max(1));
    let settings = Settings {
        limits: Limits {
            events_max: if flags & 2 == 0 { 1024 } else { 2 },
            ..Limits::default()
        },
        announce: Announce {
            extended_connect: flags & 4 != 0,
            ..Announce::default()
        },
        ..Settings::default()
    };
    let mut end = if flags & 1 == 0 {
        Connection::server(settings)
    } else {
        let mut client = Connection::client(settings);
        for _ in 0..4 {
            let opened = client.open_stream(&request(flags), flags & 8 != 0);
            assert!(opened.is_ok());
        }
        client
    };
    let mut pending = BytesMut::new();
    for piece in input.rest().chunks(at_once) {
        pending.extend_from_slice(piece);
        loop {
            let before = pending.len();
            let received = end.receive(&mut pending);
            serve(&mut end, flags);
            is_sound(&end);
            if received.is_err() {
                assert!(end.error().is_some());
                return;
            }
            if pending.is_empty() || pending.len() == before {
                break;
            }
        }
        assert!(
            pending.is_empty(),
            "bytes are left though all events were taken"
        );
    }
}

fn request(flags: u8) -> Vec<Field> {
    let head = [
        Field::from_static(":method", if flags & 16 == 0 { "POST" } else { "CONNECT" }),
        Field::from_static(":authority", "10.0.0.1:80"),
    ];
    let rest = [
        Field::from_static(":scheme", "http"),
        Field::from_static(":path", "/"),
    ];
    let rest = rest.into_iter().filter(|_| flags & 16 == 0);
    head.into_iter().chain(rest).collect()
}

/// An owner that answers, or does not, as the flags say.
fn serve(end: &mut Connection, flags: u8) {
    while let Some(event) = end.poll_event() {
        match event {
            Event::Headers { stream, .. } if flags & 32 != 0 => {
                let ok = [Field::from_static(":status", "200")];
                _ = end.send_headers(stream, &ok, false);
                _ = end.send_data(stream, &mut Bytes::from_static(b"hello"));
                _ = end.end_stream(stream);
            }
            Event::Data { stream, data, .. } if flags & 64 == 0 => {
                let released = end.release_window(stream, data.len());
                assert!(released.is_ok() || end.error().is_some(), "{released:?}");
            }
            _ => {}
        }
    }
    if flags & 128 == 0 {
        end.transmit(16 * 1024, &mut Vec::new());
    }
}

fn is_sound(end: &Connection) {
    let limits = Limits::default();
    assert!(end.buffered_bytes() <= limits.connection_buffer_bytes_max);
    assert!(end.open_streams() <= 4 + 200);
    let restored = Connection::restore(end.snapshot());
    assert_eq!(restored.as_ref().ok(), Some(end), "{restored:?}");
}

/// Two ends that talk to each other, owners that do as the bytes say, and a network that delivers in
/// any pieces: neither end ever finds the other to break the protocol, and what was sent arrives.
pub fn http2_pair(data: &[u8]) {
    let mut input = Input::new(data);
    let mut pair = Pair {
        ends: [
            Connection::client(settings(&mut input)),
            Connection::server(settings(&mut input)),
        ],
        wires: [BytesMut::new(), BytesMut::new()],
        streams: Vec::new(),
        unreleased: [Vec::new(), Vec::new()],
    };
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        pair.act(&mut input);
    }
    pair.settle();
}

/// Commands of one input, at most.
const STEPS_MAX: usize = 400;

fn settings(input: &mut Input<'_>) -> Settings {
    let small = input.flag();
    Settings {
        announce: Announce {
            stream_window_bytes: if small { input.byte().into() } else { 65_535 },
            header_table_bytes: u32::from(input.byte()) * 32,
            streams_max: u32::from(input.below(8)) + 1,
            ..Announce::default()
        },
        connection_window_bytes: 65_535,
        limits: generous(),
    }
}

/// Budgets are for peers that are not us: here they would only end what is in order.
fn generous() -> Limits {
    Limits {
        resets_max: u32::MAX,
        empty_frames_max: u32::MAX,
        pings_max: u32::MAX,
        settings_max: u32::MAX,
        ignored_frames_max: u32::MAX,
        window_updates_max: u32::MAX,
        ..Limits::default()
    }
}

struct Pair {
    /// Client, server.
    ends: [Connection; 2],
    /// What was sent to each and has not arrived.
    wires: [BytesMut; 2],
    streams: Vec<StreamId>,
    unreleased: [Vec<(StreamId, usize)>; 2],
}

impl Pair {
    fn act(&mut self, input: &mut Input<'_>) {
        let command = input.byte();
        let side = usize::from(command >> 7);
        let stream = self.streams.get(usize::from(input.byte())).copied();
        let stream = stream.or(self.streams.last().copied());
        let end = &mut self.ends[side];
        match (command & 15, stream) {
            (0 | 1, _) if side == 0 => {
                let opened = end.open_stream(&request(command), command & 32 != 0);
                self.streams.extend(opened.ok());
            }
            (2, Some(stream)) => {
                let ok = [Field::from_static(":status", "200")];
                _ = end.send_headers(stream, &ok, command & 32 != 0);
            }
            (3 | 4, Some(stream)) => {
                let mut bytes = Bytes::from(vec![b'x'; input.u16().into()]);
                _ = end.send_data(stream, &mut bytes);
            }
            (5, Some(stream)) => _ = end.end_stream(stream),
            (6, Some(stream)) => _ = end.reset(stream, ErrorCode::CANCEL),
            (7, Some(stream)) => {
                let trailers = [Field::from_static("grpc-status", "0")];
                _ = end.send_headers(stream, &trailers, true);
            }
            (8, _) => _ = end.ping([command; 8]),
            (9, _) => _ = end.change_settings(settings(input).announce),
            (10, _) if command & 96 == 96 => _ = end.goaway_graceful(),
            (11, _) => {
                for (stream, bytes) in std::mem::take(&mut self.unreleased[side]) {
                    let released = end.release_window(stream, bytes);
                    assert!(released.is_ok(), "{released:?}");
                }
            }
            (12, _) => {
                let count = usize::from(input.u16());
                self.deliver(side, count);
            }
            _ => self.transmit(side, usize::from(input.byte()) * 64),
        }
        is_sound(&self.ends[side]);
    }

    fn transmit(&mut self, side: usize, max: usize) {
        let mut frames: Vec<Outgoing> = Vec::new();
        self.ends[side].transmit(max, &mut frames);
        for frame in &frames {
            frame.write_to(&mut self.wires[1 - side]);
        }
    }

    fn deliver(&mut self, side: usize, count: usize) {
        let wire = &mut self.wires[side];
        let mut piece = wire.split_to(count.min(wire.len()));
        while !piece.is_empty() {
            let received = self.ends[side].receive(&mut piece);
            assert_eq!(received, Ok(()), "end {side} of {:?}", self.streams);
            self.events(side);
        }
    }

    fn events(&mut self, side: usize) {
        while let Some(event) = self.ends[side].poll_event() {
            match event {
                Event::Data { stream, data, .. } => {
                    assert!(data.iter().all(|b| *b == b'x'));
                    self.unreleased[side].push((stream, data.len()));
                }
                Event::Reset { cause, .. } => {
                    let theirs = matches!(cause, mesh_http2::ResetCause::Violation(_));
                    assert!(!theirs, "{cause:?}");
                }
                _ => {}
            }
        }
    }

    /// All that is under way arrives.
    fn settle(&mut self) {
        for _ in 0..64 {
            for side in [0, 1] {
                for (stream, bytes) in std::mem::take(&mut self.unreleased[side]) {
                    let released = self.ends[side].release_window(stream, bytes);
                    assert!(released.is_ok(), "{released:?}");
                }
                self.transmit(side, 1 << 20);
                self.deliver(1 - side, usize::MAX);
            }
        }
        for end in &self.ends {
            is_sound(end);
            assert_eq!(end.pings_in_flight() + end.settings_in_flight(), 0);
        }
    }
}
