//! The connection: its whole state, and what can be asked of it.

mod control;
mod data;
mod headers;
mod receive;
mod schedule;
mod send;
mod snapshot;
mod streams;
#[cfg(test)]
mod tests;
mod windows;

pub use schedule::Outgoing;
pub use snapshot::Snapshot;

use crate::error::{ConnectionError, ErrorCode, StreamError, Violation};
use crate::event::{Event, ResetCause};
use crate::flow::{ReceiveWindow, SendWindow, WINDOW_BYTES_INITIAL, WINDOW_BYTES_MAX};
use crate::frame::{self, PREFACE};
use crate::hpack::{Decoder, Encoder};
use crate::limits::{Limit, Limits, Spent};
use crate::settings::{Announce, LocalSettings, PeerSettings, Settings};
use crate::stream::{Ended, StreamId};
use receive::Reader;
use schedule::Outbox;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use streams::Streams;

/// Events for which an idle connection keeps room.
const IDLE_EVENTS: usize = 16;

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Opens streams.
    Client,
    /// Answers them.
    Server,
}

/// One HTTP/2 connection.
///
/// The owner reads bytes and gives them to [`Self::receive`], takes events from [`Self::poll_event`],
/// gives commands, and after each of these writes what [`Self::transmit`] hands out. When a method
/// returns a [`ConnectionError`], what is left to do is to transmit once more (there is a GOAWAY in
/// it) and to close the transport.
///
/// The state is serialisable in order to be part of a [`Snapshot`]; it should be read back through
/// [`Self::restore`] only, which checks it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    role: Role,
    limits: Limits,
    local: LocalSettings,
    peer: PeerSettings,
    reader: Reader,
    decoder: Decoder,
    encoder: Encoder,
    streams: Streams,
    send_window: SendWindow,
    receive_window: ReceiveWindow,
    /// Delivered and not released bytes of streams that are gone.
    orphaned: usize,
    outbox: Outbox,
    events: VecDeque<Event>,
    spent: Spent,
    /// PING frames of ours without an answer.
    pings: VecDeque<[u8; 8]>,
    /// The last stream of the peer that our GOAWAY let pass.
    goaway_sent: Option<StreamId>,
    /// The last stream of ours that the peer's GOAWAY let pass.
    goaway_received: Option<StreamId>,
    /// `open_stream` was refused for the peer's limit.
    streams_wanted: bool,
    failed: Option<ConnectionError>,
}

impl Connection {
    /// The client's end; its preface and SETTINGS are ready to be transmitted.
    pub fn client(settings: Settings) -> Self {
        Self::new(Role::Client, settings)
    }

    /// The server's end; its SETTINGS are ready to be transmitted.
    pub fn server(settings: Settings) -> Self {
        Self::new(Role::Server, settings)
    }

    fn new(role: Role, settings: Settings) -> Self {
        let client = role == Role::Client;
        let (local, entries) = LocalSettings::first(settings.announce, client);
        let mut outbox = Outbox::default();
        if client {
            outbox.control.extend_from_slice(PREFACE);
        }
        frame::put_settings(&mut outbox.control, &entries);
        let window = settings
            .connection_window_bytes
            .clamp(WINDOW_BYTES_INITIAL, WINDOW_BYTES_MAX);
        if window > WINDOW_BYTES_INITIAL {
            let more = window - WINDOW_BYTES_INITIAL;
            frame::put_window_update(&mut outbox.control, StreamId::CONNECTION, more);
        }
        Self {
            role,
            limits: settings.limits,
            local,
            peer: PeerSettings::default(),
            reader: Reader::new(role),
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            streams: Streams::new(role),
            send_window: SendWindow::new(WINDOW_BYTES_INITIAL),
            receive_window: ReceiveWindow::new(window),
            orphaned: 0,
            outbox,
            events: VecDeque::new(),
            spent: Spent::default(),
            pings: VecDeque::new(),
            goaway_sent: None,
            goaway_received: None,
            streams_wanted: false,
            failed: None,
        }
    }

    /// Which end this is.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The oldest event that was not taken.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if event.is_none() && self.events.capacity() > IDLE_EVENTS {
            self.events = VecDeque::new();
        }
        event
    }

    /// The peer's parameters; defaults until its SETTINGS came.
    pub const fn peer_settings(&self) -> &PeerSettings {
        &self.peer
    }

    /// Our parameters as the peer has acknowledged them.
    pub const fn acknowledged(&self) -> &Announce {
        self.local.acked()
    }

    /// SETTINGS of ours without an answer. The owner may end a connection where this does not fall in
    /// time, with [`ErrorCode::SETTINGS_TIMEOUT`].
    pub fn settings_in_flight(&self) -> usize {
        self.local.in_flight()
    }

    /// PING frames of ours without an answer.
    pub fn pings_in_flight(&self) -> usize {
        self.pings.len()
    }

    /// Streams that have not ended both ways.
    pub fn open_streams(&self) -> usize {
        self.streams.table.len()
    }

    /// How many streams may be opened now.
    pub fn streams_available(&self) -> usize {
        if self.role == Role::Server || self.is_going_away() || self.failed.is_some() {
            return 0;
        }
        let max = self
            .peer
            .streams_max
            .unwrap_or(self.limits.initial_streams_max);
        max.saturating_sub(self.streams.local) as usize
    }

    /// Whether all stream identifiers are used up: no stream can be opened any more.
    pub const fn is_exhausted(&self) -> bool {
        self.streams.next_local > StreamId::MAX.value()
    }

    /// Data that was taken by `send_data` and not handed out by `transmit`, bytes.
    pub const fn buffered_bytes(&self) -> usize {
        self.outbox.buffered
    }

    /// How much `send_data` would take now, bytes; 0 for a stream that is not there.
    pub fn send_capacity(&self, stream: StreamId) -> usize {
        let Some(stream) = self.streams.table.get(&stream) else {
            return 0;
        };
        let own = self
            .limits
            .stream_buffer_bytes_max
            .saturating_sub(stream.outbound.bytes());
        let all = self
            .limits
            .connection_buffer_bytes_max
            .saturating_sub(self.outbox.buffered);
        own.min(all)
    }

    /// Whether either side said with GOAWAY that it wants to end the connection.
    pub const fn is_going_away(&self) -> bool {
        self.goaway_sent.is_some() || self.goaway_received.is_some()
    }

    /// Whether nothing is left to do but to close the transport: the connection failed or went away for
    /// good, its streams have ended, and all is handed to the output.
    pub fn is_finished(&self) -> bool {
        // After a graceful GOAWAY of ours the peer may still open streams.
        let away = self.goaway_received.is_some()
            || self.goaway_sent.is_some_and(|last| last < StreamId::MAX);
        let over = self.failed.is_some() || (away && self.streams.table.is_empty());
        over && self.outbox.control.is_empty()
    }

    /// Why the connection failed, if it did.
    pub const fn error(&self) -> Option<ConnectionError> {
        self.failed
    }

    /// Fills up the budgets of [`Limits`]. To be called at a steady pace, since the engine has no clock;
    /// the defaults are meant for once a second.
    pub fn refill(&mut self) {
        self.spent = Spent::default();
    }

    fn charge(&mut self, limit: Limit) -> Result<(), ConnectionError> {
        self.spent.charge(&self.limits, limit)
    }

    /// Ends the connection for an error of the peer.
    fn fail(&mut self, error: ConnectionError) {
        self.put_goaway(self.last_processed(), error.code, &[]);
        self.failed = Some(error);
        let gone: Vec<StreamId> = self.streams.table.keys().copied().collect();
        for stream in gone {
            self.remove(stream, Ended::ByUs);
        }
    }

    /// Ends one stream for an error of the peer. It may be one that is not open.
    fn fail_stream(
        &mut self,
        stream: StreamId,
        code: ErrorCode,
        violation: Violation,
    ) -> Result<(), ConnectionError> {
        self.charge(Limit::Resets)?;
        frame::put_rst_stream(&mut self.outbox.control, stream, code);
        if self.remove(stream, Ended::ByUs) {
            let cause = ResetCause::Violation(StreamError {
                stream,
                code,
                violation,
            });
            self.events.push_back(Event::Reset { stream, cause });
        } else {
            let max = self.limits.closed_streams_max;
            self.streams.remember(stream, Ended::ByUs, max);
        }
        Ok(())
    }

    /// Forgets a stream but for how it ended; says whether it was there.
    fn remove(&mut self, id: StreamId, ended: Ended) -> bool {
        let Some(stream) = self
            .streams
            .remove(id, ended, self.limits.closed_streams_max)
        else {
            return false;
        };
        self.outbox.forget(id, &stream);
        self.orphaned += stream.receive_window.unreleased();
        if self.failed.is_none() {
            // Its data no longer takes room, and perhaps nothing is transmitted for long.
            self.wake_waiting();
        }
        if stream.local {
            self.tell_streams_available();
        }
        true
    }

    fn tell_streams_available(&mut self) {
        if self.streams_wanted && self.streams_available() > 0 {
            self.streams_wanted = false;
            self.events.push_back(Event::StreamsAvailable);
        }
    }

    /// Ends a stream if both sides have sent END_STREAM.
    fn close_if_done(&mut self, stream: StreamId) {
        if self.streams.table.get(&stream).is_some_and(|s| s.is_done()) {
            self.remove(stream, Ended::Well);
            self.spent.earn_stream();
            self.events.push_back(Event::Closed { stream });
        }
    }
}

/// The usual connection error.
const fn protocol_error(violation: Violation) -> ConnectionError {
    ConnectionError {
        code: ErrorCode::PROTOCOL_ERROR,
        violation,
    }
}
