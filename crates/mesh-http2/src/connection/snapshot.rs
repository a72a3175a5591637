//! The state as data: written down here, taken up elsewhere.

use super::Connection;
use crate::error::RestoreError;
use crate::stream::{StreamId, Waits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The version of the format. It changes whenever the state does.
const VERSION: u16 = 1;

/// The whole state of a connection, to be written down with serde.
///
/// It is taken between two calls. What `transmit` has handed out is not in it and must still be
/// written; what `receive` left in its input must be fed to the connection that is restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    version: u16,
    connection: Connection,
}

impl Connection {
    /// The state as it is now.
    pub fn snapshot(&self) -> Snapshot {
        self.clone().into_snapshot()
    }

    /// The state as it is now, without a copy.
    pub const fn into_snapshot(self) -> Snapshot {
        Snapshot {
            version: VERSION,
            connection: self,
        }
    }

    /// Takes up a state.
    ///
    /// # Errors
    /// It is of another version of the engine, or contradicts itself.
    pub fn restore(snapshot: Snapshot) -> Result<Self, RestoreError> {
        if snapshot.version != VERSION {
            return Err(RestoreError::Version {
                found: snapshot.version,
                expected: VERSION,
            });
        }
        let connection = snapshot.connection;
        connection.check().map_err(RestoreError::Inconsistent)?;
        Ok(connection)
    }

    /// The invariants of the state; also what the tests hold it to.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let block_max = self.limits.header_block_bytes_max;
        let claims = [
            (self.reader.is_sound(block_max), "parser"),
            (self.decoder.is_sound(), "decompression table"),
            (self.encoder.is_sound(), "compression table"),
            (self.local.is_sound(), "settings"),
            (self.peer.is_sound(), "peer's settings"),
            (self.streams_are_sound(), "streams"),
            (self.windows_are_sound(), "windows"),
            (self.buffers_are_sound(), "buffers"),
            (self.lines_are_sound(), "scheduler"),
        ];
        match claims.iter().find(|(holds, _)| !holds) {
            Some((_, part)) => Err(part),
            None => Ok(()),
        }
    }

    fn streams_are_sound(&self) -> bool {
        let max = self.limits.closed_streams_max;
        self.streams.is_of(self.role) && self.streams.is_sound(max)
    }

    fn windows_are_sound(&self) -> bool {
        let streams = &self.streams.table;
        let unreleased: usize = streams
            .values()
            .map(|s| s.receive_window.unreleased())
            .sum();
        let own = streams.iter().all(|(id, stream)| {
            stream.send_window.is_sound()
                && stream
                    .receive_window
                    .is_sound(self.reader.in_frame(Some(*id)))
        });
        own && self.send_window.is_sound()
            // After an error, what was read of a last frame does not matter any more.
            && (self.failed.is_some() || self.receive_window.is_sound(self.reader.in_frame(None)))
            && self.receive_window.unreleased() == unreleased.saturating_add(self.orphaned)
    }

    fn buffers_are_sound(&self) -> bool {
        let limits = &self.limits;
        let outbound = || self.streams.table.values().map(|s| &s.outbound);
        let small = |bytes: usize| bytes <= limits.stream_buffer_bytes_max;
        outbound().all(|o| o.is_sound() && small(o.bytes()))
            && outbound().map(|o| o.bytes()).sum::<usize>() == self.outbox.buffered
            && self.outbox.buffered <= limits.connection_buffer_bytes_max
            && self.pings.len() <= limits.pings_in_flight_max
            && self.local.in_flight() <= limits.settings_in_flight_max.max(1)
    }

    /// Each stream stands in line exactly once if it can send, and its own mark says so.
    fn lines_are_sound(&self) -> bool {
        let streams = &self.streams.table;
        let mut line = BTreeSet::new();
        let once = self.outbox.scheduled().all(|id| line.insert(id));
        let marked: BTreeSet<StreamId> = streams
            .iter()
            .filter(|(_, s)| s.scheduled)
            .map(|(id, _)| *id)
            .collect();
        let waiting: BTreeSet<StreamId> = self.outbox.waiting.iter().copied().collect();
        let waits = streams.iter().filter(|(_, s)| s.waits == Waits::Connection);
        once && line == marked
            && streams.values().all(|s| s.scheduled || !s.can_send())
            && waiting.len() == self.outbox.waiting.len()
            && waits.map(|(id, _)| *id).collect::<BTreeSet<_>>() == waiting
            && streams.values().all(|s| !s.is_done())
    }
}
