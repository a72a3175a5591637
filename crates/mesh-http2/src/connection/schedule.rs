//! Bytes out: control frames first, then DATA of the streams in turn.

use super::Connection;
use crate::event::Event;
use crate::frame::{END_STREAM, FrameHeader, FrameKind, HEADER_BYTES};
use crate::stream::{Phase, Stream, StreamId, Waits};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What one stream may send before the next has its turn, bytes. A TLS record has as many.
const TURN_BYTES: usize = 16 * 1024;
/// A smaller rest of an output is left to the next one, unless a stream has no more, bytes.
const WORTHWHILE_BYTES: usize = 512;
/// The least that is handed out at once, bytes.
const TRANSMIT_BYTES_MIN: usize = 64;

/// A part of the output. Parts must be written in order and whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// Frames, or the continuation of the part before.
    Control(Bytes),
    /// One DATA frame. The payload is what `send_data` was given, so that it can be written or sealed
    /// without a copy.
    Data {
        /// The frame header.
        header: [u8; HEADER_BYTES],
        /// The frame's payload; may be empty.
        payload: Bytes,
    },
}

impl Outgoing {
    /// Length on the wire, bytes.
    pub fn wire_bytes(&self) -> usize {
        match self {
            Self::Control(bytes) => bytes.len(),
            Self::Data { payload, .. } => HEADER_BYTES + payload.len(),
        }
    }

    /// Appends it to `out`.
    pub fn write_to(&self, out: &mut impl BufMut) {
        match self {
            Self::Control(bytes) => out.put_slice(bytes),
            Self::Data { header, payload } => {
                out.put_slice(header);
                out.put_slice(payload);
            }
        }
    }
}

/// What waits for output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outbox {
    /// Encoded frames; they go before all DATA.
    pub(super) control: BytesMut,
    /// Streams that can send, in the order of their turns.
    ready: VecDeque<StreamId>,
    /// Streams that could send if the connection's window were open.
    starved: VecDeque<StreamId>,
    /// Streams whose owner waits for room in the buffer of all.
    pub(super) waiting: VecDeque<StreamId>,
    /// Data of all streams, bytes.
    pub(super) buffered: usize,
}

impl Outbox {
    /// A stream is gone.
    pub(super) fn forget(&mut self, id: StreamId, stream: &Stream) {
        if stream.scheduled {
            self.ready.retain(|other| *other != id);
            self.starved.retain(|other| *other != id);
        }
        if stream.waits == Waits::Connection {
            self.waiting.retain(|other| *other != id);
        }
        self.buffered = self.buffered.saturating_sub(stream.outbound.bytes());
    }

    /// The connection's window has opened.
    pub(super) fn resume_starved(&mut self) {
        self.ready.append(&mut self.starved);
    }

    /// The streams in line, each with whether it waits for the connection's window.
    pub(super) fn scheduled(&self) -> impl Iterator<Item = StreamId> {
        self.ready.iter().chain(&self.starved).copied()
    }
}

impl Connection {
    /// Whether [`Self::transmit`] may have something to hand out.
    pub fn wants_transmit(&self) -> bool {
        !self.outbox.control.is_empty() || !self.outbox.ready.is_empty()
    }

    /// Appends to `out` what is to be written now, up to about `max` bytes (at least 64), and says how
    /// many bytes that is. All of it must be written, in this order.
    pub fn transmit(&mut self, max: usize, out: &mut Vec<Outgoing>) -> usize {
        let max = max.max(TRANSMIT_BYTES_MIN);
        let mut written = 0;
        while written < max {
            let room = max - written;
            let control = self.outbox.control.len();
            let part = if control > 0 {
                let part = self.outbox.control.split_to(control.min(room));
                Outgoing::Control(part.freeze())
            } else {
                match self.turn(room, written == 0) {
                    Turn::Part(part) => part,
                    Turn::Control => continue,
                    Turn::Nothing => break,
                }
            };
            written += part.wire_bytes();
            out.push(part);
        }
        self.wake_waiting();
        written
    }

    /// Puts a stream in line if it has something to send.
    pub(super) fn schedule(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.table.get_mut(&id)
            && !stream.scheduled
            && stream.can_send()
        {
            stream.scheduled = true;
            self.outbox.ready.push_back(id);
        }
    }

    /// One turn of the stream that is next in line.
    fn turn(&mut self, room: usize, first: bool) -> Turn {
        while let Some(id) = self.outbox.ready.front().copied() {
            let Some(stream) = self.streams.table.get_mut(&id) else {
                self.outbox.ready.pop_front();
                continue;
            };
            let pending = stream.outbound.bytes();
            if !stream.can_send() {
                // SETTINGS have shrunk its window meanwhile.
                stream.scheduled = false;
                self.outbox.ready.pop_front();
                continue;
            }
            if pending == 0
                && let Some(trailers) = stream.outbound.trailers.take()
            {
                self.outbox.ready.pop_front();
                stream.scheduled = false;
                stream.sending = Phase::Done;
                self.put_trailers(id, &trailers);
                self.close_if_done(id);
                return Turn::Control;
            }
            let window = self.send_window.usable();
            if pending > 0 && window == 0 {
                self.outbox.ready.pop_front();
                self.outbox.starved.push_back(id);
                continue;
            }
            if !first && room < HEADER_BYTES + pending.min(WORTHWHILE_BYTES) {
                return Turn::Nothing;
            }
            let max = [
                window,
                stream.send_window.usable(),
                self.peer.frame_bytes_max as usize,
                TURN_BYTES,
                room.saturating_sub(HEADER_BYTES),
            ];
            let max = max.into_iter().fold(usize::MAX, usize::min);
            return Turn::Part(self.data_frame(id, max));
        }
        Turn::Nothing
    }

    /// The next DATA frame of the stream at the front of the line, with up to `max` bytes.
    fn data_frame(&mut self, id: StreamId, max: usize) -> Outgoing {
        self.outbox.ready.pop_front();
        let (mut payload, mut flags) = (Bytes::new(), 0);
        if let Some(stream) = self.streams.table.get_mut(&id) {
            payload = stream.outbound.pop(max);
            stream.send_window.take(payload.len());
            let last = stream.outbound.bytes() == 0 && stream.outbound.trailers.is_none();
            if last && stream.sending == Phase::Ending {
                flags = END_STREAM;
                stream.sending = Phase::Done;
            }
            stream.scheduled = stream.can_send();
            if stream.scheduled {
                self.outbox.ready.push_back(id);
            }
            let low = stream.outbound.bytes() * 2 <= self.limits.stream_buffer_bytes_max;
            if stream.waits == Waits::Stream && low {
                stream.waits = Waits::No;
                self.events.push_back(Event::WindowOpened { stream: id });
            }
        }
        self.send_window.take(payload.len());
        self.outbox.buffered = self.outbox.buffered.saturating_sub(payload.len());
        self.spent.earn_data(payload.len());
        self.close_if_done(id);
        let header = FrameHeader {
            length: payload.len(),
            kind: FrameKind::Data,
            flags,
            stream: id,
        };
        Outgoing::Data {
            header: header.encode(),
            payload,
        }
    }

    /// Tells the owners that wait for the buffer of all streams, once half of it is free.
    pub(super) fn wake_waiting(&mut self) {
        if self.outbox.buffered * 2 > self.limits.connection_buffer_bytes_max {
            return;
        }
        while let Some(stream) = self.outbox.waiting.pop_front() {
            if let Some(open) = self.streams.table.get_mut(&stream) {
                open.waits = Waits::No;
                self.events.push_back(Event::WindowOpened { stream });
            }
        }
    }
}

enum Turn {
    /// Something to write.
    Part(Outgoing),
    /// Something was put among the control frames.
    Control,
    /// No stream can send, or there is no room.
    Nothing,
}
