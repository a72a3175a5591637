//! One stream: its phases, its windows, and the data that waits to be sent (RFC 9113 section 5.1).

use crate::flow::{ReceiveWindow, SendWindow};
use crate::hpack::Field;
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;

/// Pieces up to this size are copied together, so that small messages share a frame, bytes.
const SMALL_PIECE_BYTES: usize = 1024;

/// A stream identifier: odd when the client opened the stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId(u32);

impl StreamId {
    /// The connection itself, where a frame names a stream.
    pub(crate) const CONNECTION: Self = Self(0);
    /// The largest identifier; in GOAWAY it means "none is refused yet".
    pub(crate) const MAX: Self = Self(0x7fff_ffff);

    pub(crate) const fn new(value: u32) -> Self {
        Self(value)
    }

    pub(crate) const fn from_wire(bytes: [u8; 4]) -> Self {
        // The first bit is reserved and ignored.
        Self(u32::from_be_bytes(bytes) & Self::MAX.0)
    }

    /// The number on the wire.
    pub const fn value(self) -> u32 {
        self.0
    }

    pub(crate) const fn is_connection(self) -> bool {
        self.0 == 0
    }

    /// Whether a client opens streams of this number.
    pub(crate) const fn is_of_client(self) -> bool {
        self.0 % 2 == 1
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// How far one direction of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// The message's headers have not been seen, or only those of interim responses.
    Headers,
    /// DATA, then perhaps trailers.
    Body,
    /// Sending only: the end is known, not yet handed to the output.
    Ending,
    /// END_STREAM has passed.
    Done,
}

/// How a stream came to its end, as far as late frames are judged by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ended {
    /// Both sides sent END_STREAM.
    Well,
    /// We sent RST_STREAM: frames of the peer may still be on their way.
    ByUs,
    /// The peer sent RST_STREAM, or GOAWAY excluded the stream.
    ByPeer,
}

/// What the owner of a stream waits for after `send_data` took less than it was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Waits {
    No,
    /// For the stream's own buffer.
    Stream,
    /// For the buffers of all streams together.
    Connection,
}

/// The body that the peer announced with content-length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Body {
    expected: u64,
    received: u64,
}

impl Body {
    pub(crate) const fn new(expected: u64) -> Self {
        Self {
            expected,
            received: 0,
        }
    }

    /// Counts; says whether it is still within what was announced.
    pub(crate) fn receive(&mut self, bytes: usize) -> bool {
        self.received = self.received.saturating_add(bytes as u64);
        self.received <= self.expected
    }

    pub(crate) const fn is_complete(self) -> bool {
        self.received == self.expected
    }
}

/// The state of one stream that has not ended both ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stream {
    /// Whether we opened it.
    pub(crate) local: bool,
    pub(crate) sending: Phase,
    pub(crate) receiving: Phase,
    pub(crate) send_window: SendWindow,
    pub(crate) receive_window: ReceiveWindow,
    pub(crate) outbound: Outbound,
    /// Whether it stands in one of the scheduler's queues.
    pub(crate) scheduled: bool,
    /// Whether and for what the owner waits for [`crate::Event::WindowOpened`].
    pub(crate) waits: Waits,
    pub(crate) body: Option<Body>,
    /// On a client: the response has no body that content-length could be held against.
    pub(crate) bodiless: bool,
}

impl Stream {
    pub(crate) fn new(local: bool, send_bytes: u32, receive_bytes: u32) -> Self {
        Self {
            local,
            sending: Phase::Headers,
            receiving: Phase::Headers,
            send_window: SendWindow::new(send_bytes),
            receive_window: ReceiveWindow::new(receive_bytes),
            outbound: Outbound::default(),
            scheduled: false,
            waits: Waits::No,
            body: None,
            bodiless: false,
        }
    }

    /// Whether there is something to send that only the connection's window could hold back.
    pub(crate) fn can_send(&self) -> bool {
        match self.outbound.bytes() {
            0 => self.sending == Phase::Ending,
            _ => self.send_window.usable() > 0,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.sending == Phase::Done && self.receiving == Phase::Done
    }
}

/// Data that waits to be sent. Small pieces are gathered, large ones are kept as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outbound {
    pieces: VecDeque<Bytes>,
    /// Small pieces, after all of `pieces`.
    gathered: BytesMut,
    bytes: usize,
    /// Sent after the data, with END_STREAM.
    pub(crate) trailers: Option<Vec<Field>>,
}

impl Outbound {
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, piece: Bytes) {
        if piece.len() <= SMALL_PIECE_BYTES {
            return self.push_slice(&piece);
        }
        self.bytes += piece.len();
        self.close_gathered();
        self.pieces.push_back(piece);
    }

    pub(crate) fn push_slice(&mut self, piece: &[u8]) {
        self.bytes += piece.len();
        if piece.len() <= SMALL_PIECE_BYTES {
            self.gathered.extend_from_slice(piece);
            return;
        }
        self.close_gathered();
        self.pieces.push_back(Bytes::copy_from_slice(piece));
    }

    fn close_gathered(&mut self) {
        if !self.gathered.is_empty() {
            self.pieces.push_back(self.gathered.split().freeze());
        }
    }

    /// The next bytes, up to `max`; fewer when a piece ends before.
    pub(crate) fn pop(&mut self, max: usize) -> Bytes {
        let taken = match self.pieces.pop_front() {
            None => {
                let max = max.min(self.gathered.len());
                self.gathered.split_to(max).freeze()
            }
            Some(piece) if piece.len() <= max => piece,
            Some(mut piece) => {
                let taken = piece.split_to(max);
                self.pieces.push_front(piece);
                taken
            }
        };
        self.bytes -= taken.len();
        taken
    }

    /// Whether the number kept is that of the bytes.
    pub(crate) fn is_sound(&self) -> bool {
        let pieces: usize = self.pieces.iter().map(Bytes::len).sum();
        pieces + self.gathered.len() == self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_gathered_and_order_is_kept() {
        let mut outbound = Outbound::default();
        for piece in ["a", "bc", "d"] {
            outbound.push(Bytes::from_static(piece.as_bytes()));
        }
        outbound.push(Bytes::from(vec![b'x'; 2000]));
        outbound.push(Bytes::from_static(b"e"));
        assert_eq!(outbound.bytes(), 2005);
        assert_eq!(outbound.pop(3), "abc");
        assert_eq!(outbound.pop(100), "d");
        assert_eq!(outbound.pop(1500).len(), 1500);
        assert!(outbound.is_sound());
        assert_eq!(outbound.pop(1500).len(), 500);
        assert_eq!(outbound.pop(100), "e");
        assert_eq!(outbound.pop(100), "");
        assert!(outbound.is_sound() && outbound.bytes() == 0);
    }
}
