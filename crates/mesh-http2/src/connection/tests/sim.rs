//! A seeded simulation: two engines back to back, with any chunking, delay and order of commands.
//!
//! What is held against them: a model of what each side was given and got, a monitor that counts
//! windows on the wire by its own arithmetic, and the invariants of the state after every step.

use super::*;
use mesh_model::Dice;
use std::collections::BTreeMap;

const SEEDS: u64 = 256;
const STEPS: u32 = 500;

/// The bytes of each direction of each stream are a fixed sequence.
fn pattern(stream: StreamId, from_client: bool, place: u64) -> u8 {
    let mix = place.wrapping_mul(31) ^ u64::from(stream.value() * 2 + u32::from(from_client));
    mix.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]
}

/// What one side knows of a stream.
#[derive(Debug, Default)]
struct Model {
    accepted: u64,
    received: u64,
    unreleased: usize,
    answered: bool,
    end_sent: bool,
    end_seen: bool,
    closed: bool,
    reset: bool,
}

impl Model {
    fn is_over(&self) -> bool {
        self.closed || self.reset
    }
}

/// Counts what may be sent in one direction, from the frames alone.
#[derive(Debug, Default)]
struct Monitor {
    pending: BytesMut,
    data: u64,
    data_of: BTreeMap<u32, u64>,
    credit: u64,
    credit_of: BTreeMap<u32, u64>,
    /// The largest initial window ever announced in this direction.
    initial_max: u64,
}

impl Monitor {
    fn watch(&mut self, bytes: &[u8], mut preface: bool) {
        self.pending.extend_from_slice(bytes);
        loop {
            if preface && self.pending.starts_with(b"PRI") && self.pending.len() >= PREFACE.len() {
                self.pending.advance(PREFACE.len());
                preface = false;
            }
            let Some(header) = self.pending.first_chunk::<HEADER_BYTES>() else {
                return;
            };
            let header = FrameHeader::parse(*header);
            if self.pending.len() < HEADER_BYTES + header.length {
                return;
            }
            let frame = self.pending.split_to(HEADER_BYTES + header.length);
            self.count(header, &frame[HEADER_BYTES..]);
        }
    }

    fn count(&mut self, header: FrameHeader, payload: &[u8]) {
        let stream = header.stream.value();
        match header.kind {
            FrameKind::Data => {
                assert!(payload.len() <= 16_384);
                self.data += payload.len() as u64;
                *self.data_of.entry(stream).or_default() += payload.len() as u64;
            }
            FrameKind::WindowUpdate => {
                let increment = u64::from(u32::from_be_bytes(payload.try_into().unwrap()));
                assert!(increment > 0);
                if stream == 0 {
                    self.credit += increment;
                } else {
                    *self.credit_of.entry(stream).or_default() += increment;
                }
            }
            FrameKind::Settings => {
                for entry in payload.chunks(6).filter(|entry| entry[..2] == [0, 4]) {
                    let value = u32::from_be_bytes(entry[2..].try_into().unwrap());
                    self.initial_max = self.initial_max.max(u64::from(value));
                }
            }
            _ => {}
        }
    }

    /// Nothing was sent that the other direction had not given credit for.
    fn check(&self, other: &Self) {
        assert!(self.data <= 65_535 + other.credit, "connection window");
        for (stream, sent) in &self.data_of {
            let credit = other.credit_of.get(stream).copied().unwrap_or_default();
            assert!(
                *sent <= other.initial_max.max(65_535) + credit,
                "window of {stream}"
            );
        }
    }
}

const PINGS: [[u8; 8]; 3] = [[1; 8], [2; 8], [3; 8]];

fn roll(dice: &mut Dice, bound: usize) -> usize {
    usize::try_from(dice.below(bound as u64)).unwrap()
}

/// A command that may be refused.
fn ignore(_: Result<(), crate::CommandError>) {}

struct Side {
    connection: Connection,
    models: BTreeMap<StreamId, Model>,
    /// On its way to the other side.
    wire: BytesMut,
    /// Arrived and not taken.
    input: BytesMut,
    monitor: Monitor,
    client: bool,
}

struct World {
    sides: [Side; 2],
    dice: Dice,
}

fn any_announce(dice: &mut Dice) -> Announce {
    let number = |dice: &mut Dice, of: &[u32]| of[roll(dice, of.len())];
    Announce {
        header_table_bytes: number(dice, &[0, 64, 4096, 9000]),
        streams_max: number(dice, &[3, 8, 20]),
        stream_window_bytes: number(dice, &[1, 300, 5000, 65_535, 100_000]),
        frame_bytes_max: number(dice, &[16_384, 20_000]),
        header_list_bytes_max: 65_536,
        extended_connect: false,
    }
}

fn any_settings(dice: &mut Dice) -> Settings {
    let mut settings = Settings {
        announce: any_announce(dice),
        connection_window_bytes: 65_535 + u32::try_from(dice.below(3) * 40_000).unwrap(),
        limits: Limits::default(),
    };
    settings.limits.stream_buffer_bytes_max = 4000;
    settings.limits.connection_buffer_bytes_max = 10_000;
    settings.limits.events_max = 20;
    settings
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::seeded(seed);
        let side = |connection, client| Side {
            connection,
            models: BTreeMap::new(),
            wire: BytesMut::new(),
            input: BytesMut::new(),
            monitor: Monitor::default(),
            client,
        };
        let client = side(Connection::client(any_settings(&mut dice)), true);
        let server = side(Connection::server(any_settings(&mut dice)), false);
        Self {
            sides: [client, server],
            dice,
        }
    }

    fn step(&mut self) {
        let which = usize::from(self.dice.below(2) == 1);
        let side = &mut self.sides[which];
        match self.dice.below(100) {
            0..12 => side.open(),
            12..40 => side.send(&mut self.dice),
            40..44 => side.end(&mut self.dice),
            44..46 => side.reset(&mut self.dice),
            46..58 => side.release(&mut self.dice),
            58..60 => ignore(side.connection.ping(PINGS[roll(&mut self.dice, 3)])),
            60..62 => drop(
                side.connection
                    .change_settings(any_announce(&mut self.dice)),
            ),
            62..64 => side.rewrite(),
            64..78 => side.transmit(1 + roll(&mut self.dice, 9000)),
            78..96 => {
                let bytes = roll(&mut self.dice, 3000);
                self.deliver(which, bytes);
            }
            _ => side.connection.refill(),
        }
        self.check();
    }

    /// Bytes arrive at the other side, and it looks at them.
    fn deliver(&mut self, from: usize, bytes: usize) {
        let [client, server] = &mut self.sides;
        let (from, to) = if from == 0 {
            (client, server)
        } else {
            (server, client)
        };
        let now = from.wire.split_to(bytes.min(from.wire.len()));
        to.input.extend_from_slice(&now);
        to.connection.receive(&mut to.input).unwrap();
        to.poll();
    }

    fn check(&self) {
        for side in &self.sides {
            side.connection.check().unwrap();
            assert!(side.connection.buffered_bytes() <= 10_000);
            // What commands and output add, a few a stream, may go over the reader's limit.
            assert!(side.connection.events.len() <= 20 + 4 * side.models.len().max(10));
        }
        let [client, server] = &self.sides;
        client.monitor.check(&server.monitor);
        server.monitor.check(&client.monitor);
    }

    /// Ends every stream and lets everything arrive.
    fn finish(&mut self) {
        let mut widened = [false; 2];
        for _ in 0..2000 {
            for which in [0, 1] {
                let side = &mut self.sides[which];
                side.connection.refill();
                // Windows of one byte would take too long from here on.
                widened[which] =
                    widened[which] || side.connection.change_settings(Announce::default()).is_ok();
                side.release_all();
                side.end_all();
                side.transmit(1 << 20);
                self.deliver(which, usize::MAX);
            }
            self.check();
            if self.is_quiet() {
                return;
            }
        }
        panic!(
            "did not come to rest: {:?}",
            self.sides.each_ref().map(|s| &s.models)
        );
    }

    fn is_quiet(&self) -> bool {
        self.sides.iter().all(|side| {
            side.wire.is_empty()
                && side.input.is_empty()
                && !side.connection.wants_transmit()
                && side.connection.open_streams() == 0
                && side.models.values().all(|m| m.unreleased == 0)
        })
    }

    fn compare(&self) -> u64 {
        let [client, server] = &self.sides;
        let mut bytes = 0;
        for (stream, ours) in &client.models {
            let Some(theirs) = server.models.get(stream) else {
                assert!(ours.reset, "{stream} was lost");
                continue;
            };
            assert!(ours.is_over() && theirs.is_over());
            assert!(theirs.received <= ours.accepted && ours.received <= theirs.accepted);
            if ours.closed && theirs.closed {
                assert_eq!(
                    (theirs.received, ours.received),
                    (ours.accepted, theirs.accepted)
                );
            }
            bytes += ours.received + theirs.received;
        }
        for side in &self.sides {
            assert_eq!(side.connection.receive_window.unreleased(), 0);
        }
        bytes
    }
}

impl Side {
    fn any_stream(&self, dice: &mut Dice) -> Option<StreamId> {
        let open = self.models.iter().filter(|(_, m)| !m.is_over());
        let open: Vec<StreamId> = open.map(|(id, _)| *id).collect();
        open.get(roll(dice, open.len())).copied()
    }

    /// A client opens a stream, a server answers one.
    fn open(&mut self) {
        if self.client {
            if let Ok(stream) = self.connection.open_stream(&fields(CONNECT), false) {
                let model = Model {
                    answered: true,
                    ..Model::default()
                };
                self.models.insert(stream, model);
            }
            return;
        }
        let next = self
            .models
            .iter_mut()
            .find(|(_, m)| !m.answered && !m.is_over());
        if let Some((stream, model)) = next {
            let accepted = fields(&[OK[0], ("baggage", "a=b")]);
            model.answered = self
                .connection
                .send_headers(*stream, &accepted, false)
                .is_ok();
        }
    }

    fn send(&mut self, dice: &mut Dice) {
        let Some(stream) = self.any_stream(dice) else {
            return;
        };
        let model = self.models.get_mut(&stream).unwrap();
        let length = [1, 10, 100, 2000, 6000][roll(dice, 5)] + roll(dice, 50);
        let places = model.accepted..model.accepted + length as u64;
        let mut data: Bytes = places.map(|p| pattern(stream, self.client, p)).collect();
        match self.connection.send_data(stream, &mut data) {
            Ok(taken) => {
                assert_eq!(taken + data.len(), length);
                model.accepted += taken as u64;
            }
            Err(error) => assert!(!model.answered || model.end_sent, "{error}"),
        }
    }

    /// Ends our side, with trailers or without.
    fn end(&mut self, dice: &mut Dice) {
        let Some(stream) = self.any_stream(dice) else {
            return;
        };
        let model = self.models.get_mut(&stream).unwrap();
        if !model.answered || model.end_sent {
            return;
        }
        let trailers = fields(&[("x-bytes", &model.accepted.to_string()), ("x-kind", "one")]);
        let ended = match roll(dice, 2) {
            0 => self.connection.end_stream(stream),
            _ => self.connection.send_headers(stream, &trailers, true),
        };
        model.end_sent = ended.is_ok();
    }

    fn end_all(&mut self) {
        let open = self.models.iter_mut().filter(|(_, m)| !m.is_over());
        for (stream, model) in open {
            if !model.answered {
                model.answered = self
                    .connection
                    .send_headers(*stream, &fields(OK), false)
                    .is_ok();
            }
            if !model.end_sent {
                model.end_sent = self.connection.end_stream(*stream).is_ok();
            }
        }
    }

    fn reset(&mut self, dice: &mut Dice) {
        if let Some(stream) = self.any_stream(dice)
            && self.connection.reset(stream, ErrorCode::CANCEL).is_ok()
        {
            self.models.get_mut(&stream).unwrap().reset = true;
        }
    }

    fn release(&mut self, dice: &mut Dice) {
        let all: Vec<StreamId> = self.models.keys().copied().collect();
        let Some(stream) = all.get(roll(dice, all.len())) else {
            return;
        };
        let model = self.models.get_mut(stream).unwrap();
        let bytes = roll(dice, model.unreleased + 1);
        self.connection.release_window(*stream, bytes).unwrap();
        model.unreleased -= bytes;
    }

    fn release_all(&mut self) {
        for (stream, model) in &mut self.models {
            self.connection
                .release_window(*stream, model.unreleased)
                .unwrap();
            model.unreleased = 0;
        }
    }

    /// Writes the state down and takes it up again.
    fn rewrite(&mut self) {
        let written = serde_json::to_vec(&self.connection.snapshot()).unwrap();
        let snapshot = serde_json::from_slice(&written).unwrap();
        let restored = Connection::restore(snapshot).unwrap();
        assert!(restored == self.connection);
        self.connection = restored;
    }

    fn transmit(&mut self, max: usize) {
        let mut out = Vec::new();
        let written = self.connection.transmit(max, &mut out);
        assert!(written <= max.max(64));
        let before = self.wire.len();
        out.iter().for_each(|part| part.write_to(&mut self.wire));
        assert_eq!(self.wire.len() - before, written);
        self.monitor.watch(&self.wire[before..], self.client);
        self.poll();
    }

    fn poll(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Headers {
                stream,
                fields,
                end: true,
            } => {
                let model = self.models.get_mut(&stream).unwrap();
                assert!(!model.end_seen && !model.is_over());
                assert_eq!(fields[0].value, model.received.to_string());
                model.end_seen = true;
            }
            Event::Headers { stream, .. } => {
                assert_eq!(self.client, self.models.contains_key(&stream));
                self.models.entry(stream).or_default();
            }
            Event::Data { stream, data, end } => {
                let model = self.models.get_mut(&stream).unwrap();
                assert!(!model.end_seen && !model.is_over(), "data after the end");
                for byte in &data {
                    assert_eq!(*byte, pattern(stream, !self.client, model.received));
                    model.received += 1;
                }
                model.unreleased += data.len();
                model.end_seen = end;
            }
            Event::Reset { stream, cause } => {
                assert!(matches!(cause, ResetCause::Peer(_)), "{cause:?}");
                let model = self.models.get_mut(&stream).unwrap();
                assert!(!model.is_over());
                model.reset = true;
            }
            Event::Closed { stream } => {
                let model = self.models.get_mut(&stream).unwrap();
                assert!(!model.is_over() && model.end_seen && model.end_sent);
                model.closed = true;
            }
            Event::WindowOpened { stream } => assert!(!self.models[&stream].is_over()),
            Event::StreamsAvailable | Event::Settings(_) | Event::SettingsAcked => {}
            Event::PingAcked { .. } => {}
            Event::GoAway { .. } => panic!("nobody went away"),
        }
    }
}

#[test]
fn two_engines_lose_nothing_whatever_the_order() {
    let (mut bytes, mut streams) = (0, 0);
    for seed in 0..SEEDS {
        let run = || {
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.step();
            }
            world.finish();
            (world.compare(), world.sides[0].models.len())
        };
        let result = std::panic::catch_unwind(run);
        let (got, opened) = result.unwrap_or_else(|_| panic!("seed {seed}"));
        bytes += got;
        streams += opened;
    }
    // The simulation is worth something only if it moves something.
    assert!(
        bytes > 10_000_000 && streams > 4000,
        "{bytes} bytes, {streams} streams"
    );
}
