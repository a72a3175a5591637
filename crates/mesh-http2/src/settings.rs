//! SETTINGS (RFC 9113 section 6.5): what we announce, what the peer announced.

use crate::error::{ConnectionError, ErrorCode, Violation};
use crate::flow::{WINDOW_BYTES_INITIAL, WINDOW_BYTES_MAX};
use crate::limits::Limits;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

const HEADER_TABLE_SIZE: u16 = 0x1;
const ENABLE_PUSH: u16 = 0x2;
const MAX_CONCURRENT_STREAMS: u16 = 0x3;
const INITIAL_WINDOW_SIZE: u16 = 0x4;
const MAX_FRAME_SIZE: u16 = 0x5;
const MAX_HEADER_LIST_SIZE: u16 = 0x6;
/// RFC 8441.
const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;

pub(crate) const FRAME_BYTES_MIN: u32 = 16_384;
const FRAME_BYTES_MAX: u32 = 16_777_215;
const HEADER_TABLE_BYTES_INITIAL: u32 = 4096;

/// How a connection is set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// What the peer is told.
    pub announce: Announce,
    /// The window of the whole connection, bytes; at least 65,535. It should be well above that of a
    /// stream (interop/hbone.md): else one stream that nobody reads stops the others.
    pub connection_window_bytes: u32,
    /// What the peer is not told.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            announce: Announce::default(),
            connection_window_bytes: 1024 * 1024,
            limits: Limits::default(),
        }
    }
}

/// The parameters that a SETTINGS frame of ours carries. Values out of range are brought into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announce {
    /// The dynamic table that the peer may use when it compresses, bytes.
    pub header_table_bytes: u32,
    /// Streams that the peer may have open at once.
    pub streams_max: u32,
    /// The window of a new stream, bytes; up to 2^31-1.
    pub stream_window_bytes: u32,
    /// Payload of one frame, bytes; 16,384 to 16,777,215.
    pub frame_bytes_max: u32,
    /// Fields of one message: names, values and 32 each, bytes.
    pub header_list_bytes_max: u32,
    /// Whether extended CONNECT (RFC 8441) is taken. Cannot be taken back.
    pub extended_connect: bool,
}

impl Default for Announce {
    fn default() -> Self {
        Self {
            header_table_bytes: HEADER_TABLE_BYTES_INITIAL,
            streams_max: 200,
            stream_window_bytes: 256 * 1024,
            frame_bytes_max: FRAME_BYTES_MIN,
            header_list_bytes_max: 65_536,
            extended_connect: false,
        }
    }
}

impl Announce {
    /// What is in force before the first acknowledgement, as far as the peer may rely on it.
    const BEFORE_SETTINGS: Self = Self {
        header_table_bytes: HEADER_TABLE_BYTES_INITIAL,
        streams_max: u32::MAX,
        stream_window_bytes: WINDOW_BYTES_INITIAL,
        frame_bytes_max: FRAME_BYTES_MIN,
        header_list_bytes_max: u32::MAX,
        extended_connect: false,
    };

    fn in_range(mut self) -> Self {
        self.stream_window_bytes = self.stream_window_bytes.min(WINDOW_BYTES_MAX);
        self.frame_bytes_max = self.frame_bytes_max.clamp(FRAME_BYTES_MIN, FRAME_BYTES_MAX);
        self
    }

    /// The entries that tell a peer who knows `before` of `self`.
    fn entries(&self, before: &Self) -> Vec<(u16, u32)> {
        let of = |a: &Self| {
            [
                (HEADER_TABLE_SIZE, a.header_table_bytes),
                (MAX_CONCURRENT_STREAMS, a.streams_max),
                (INITIAL_WINDOW_SIZE, a.stream_window_bytes),
                (MAX_FRAME_SIZE, a.frame_bytes_max),
                (MAX_HEADER_LIST_SIZE, a.header_list_bytes_max),
                (ENABLE_CONNECT_PROTOCOL, u32::from(a.extended_connect)),
            ]
        };
        let changed = |(entry, old): &((u16, u32), (u16, u32))| entry != old;
        let pairs = of(self).into_iter().zip(of(before));
        pairs.filter(changed).map(|(entry, _)| entry).collect()
    }
}

/// Our parameters: those in force at the peer, and those on their way to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LocalSettings {
    /// What the peer has acknowledged.
    acked: Announce,
    /// What was sent and not acknowledged, the oldest first.
    in_flight: VecDeque<Announce>,
}

impl LocalSettings {
    /// The first SETTINGS, and its entries.
    pub(crate) fn first(announce: Announce, client: bool) -> (Self, Vec<(u16, u32)>) {
        let mut local = Self {
            acked: Announce::BEFORE_SETTINGS,
            in_flight: VecDeque::new(),
        };
        let mut entries = local.send(announce);
        if client {
            entries.push((ENABLE_PUSH, 0));
        }
        (local, entries)
    }

    /// Later SETTINGS: the entries that are new.
    pub(crate) fn send(&mut self, announce: Announce) -> Vec<(u16, u32)> {
        let mut announce = announce.in_range();
        let before = *self.latest();
        announce.extended_connect |= before.extended_connect;
        self.in_flight.push_back(announce);
        announce.entries(&before)
    }

    /// An acknowledgement: the parameters before and after it.
    pub(crate) fn ack(&mut self) -> Option<(Announce, Announce)> {
        let before = self.acked;
        self.acked = self.in_flight.pop_front()?;
        Some((before, self.acked))
    }

    pub(crate) const fn acked(&self) -> &Announce {
        &self.acked
    }

    pub(crate) fn latest(&self) -> &Announce {
        self.in_flight.back().unwrap_or(&self.acked)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether every value is in its range.
    pub(crate) fn is_sound(&self) -> bool {
        self.in_flight
            .iter()
            .chain([&self.acked])
            .all(|a| *a == a.in_range())
    }

    /// The longest payload that the peer may send: of what is in force and what may soon be.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        let soon = self.in_flight.iter().map(|a| a.frame_bytes_max);
        soon.fold(self.acked.frame_bytes_max, u32::max) as usize
    }
}

/// The peer's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerSettings {
    /// The dynamic table that we may use when we compress, bytes.
    pub header_table_bytes: u32,
    /// Streams that we may have open at once; none before it was said.
    pub streams_max: Option<u32>,
    /// The window of a new stream, bytes.
    pub stream_window_bytes: u32,
    /// Payload of one frame, bytes.
    pub frame_bytes_max: u32,
    /// Fields of one message: names, values and 32 each, bytes; none before it was said.
    pub header_list_bytes_max: Option<u32>,
    /// Whether extended CONNECT (RFC 8441) is taken.
    pub extended_connect: bool,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            header_table_bytes: HEADER_TABLE_BYTES_INITIAL,
            streams_max: None,
            stream_window_bytes: WINDOW_BYTES_INITIAL,
            frame_bytes_max: FRAME_BYTES_MIN,
            header_list_bytes_max: None,
            extended_connect: false,
        }
    }
}

impl PeerSettings {
    /// Takes over one entry of a SETTINGS frame from a client or a server. Unknown ones are ignored.
    pub(crate) fn apply(
        &mut self,
        id: u16,
        value: u32,
        from_server: bool,
    ) -> Result<(), ConnectionError> {
        let wrong = |code| ConnectionError {
            code,
            violation: Violation::Setting(id),
        };
        match id {
            HEADER_TABLE_SIZE => self.header_table_bytes = value,
            ENABLE_PUSH if value > 1 || (from_server && value == 1) => {
                return Err(wrong(ErrorCode::PROTOCOL_ERROR));
            }
            MAX_CONCURRENT_STREAMS => self.streams_max = Some(value),
            INITIAL_WINDOW_SIZE if value > WINDOW_BYTES_MAX => {
                return Err(wrong(ErrorCode::FLOW_CONTROL_ERROR));
            }
            INITIAL_WINDOW_SIZE => self.stream_window_bytes = value,
            MAX_FRAME_SIZE if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&value) => {
                return Err(wrong(ErrorCode::PROTOCOL_ERROR));
            }
            MAX_FRAME_SIZE => self.frame_bytes_max = value,
            MAX_HEADER_LIST_SIZE => self.header_list_bytes_max = Some(value),
            // RFC 8441 section 3: it must not be taken back.
            ENABLE_CONNECT_PROTOCOL if value > 1 || (self.extended_connect && value == 0) => {
                return Err(wrong(ErrorCode::PROTOCOL_ERROR));
            }
            ENABLE_CONNECT_PROTOCOL => self.extended_connect = value == 1,
            _ => {}
        }
        Ok(())
    }

    /// Whether every value is one that [`Self::apply`] would take.
    pub(crate) fn is_sound(&self) -> bool {
        self.stream_window_bytes <= WINDOW_BYTES_MAX
            && (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&self.frame_bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_is_said() {
        let announce = Announce {
            stream_window_bytes: u32::MAX,
            ..Announce::default()
        };
        let (mut local, entries) = LocalSettings::first(announce, true);
        let expected = [
            (MAX_CONCURRENT_STREAMS, 200),
            (INITIAL_WINDOW_SIZE, WINDOW_BYTES_MAX),
            (MAX_HEADER_LIST_SIZE, 65_536),
            (ENABLE_PUSH, 0),
        ];
        assert_eq!(entries, expected);
        let larger = Announce {
            frame_bytes_max: 1 << 20,
            ..announce
        };
        assert_eq!(local.send(larger), [(MAX_FRAME_SIZE, 1 << 20)]);
        assert_eq!(local.frame_bytes_max(), 1 << 20);
        assert_eq!(local.ack().unwrap().1.stream_window_bytes, WINDOW_BYTES_MAX);
        assert!(local.ack().is_some() && local.ack().is_none());
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let mut peer = PeerSettings::default();
        let mut code =
            |id, value, from_server| peer.apply(id, value, from_server).err().map(|e| e.code);
        let protocol = Some(ErrorCode::PROTOCOL_ERROR);
        assert_eq!(code(ENABLE_PUSH, 2, false), protocol);
        assert_eq!(code(ENABLE_PUSH, 1, true), protocol);
        assert_eq!(code(ENABLE_PUSH, 1, false), None);
        assert_eq!(
            code(INITIAL_WINDOW_SIZE, 1 << 31, false),
            Some(ErrorCode::FLOW_CONTROL_ERROR)
        );
        assert_eq!(code(MAX_FRAME_SIZE, 16_383, false), protocol);
        assert_eq!(code(MAX_FRAME_SIZE, 1 << 24, false), protocol);
        assert_eq!(code(ENABLE_CONNECT_PROTOCOL, 1, true), None);
        assert_eq!(code(ENABLE_CONNECT_PROTOCOL, 0, true), protocol);
        assert_eq!(code(0xfeed, u32::MAX, true), None);
    }
}
