//! Commands of the owner.

use super::{Connection, Role};
use crate::error::{CommandError, ErrorCode, OpenError};
use crate::event::Event;
use crate::fields::{self, Expect, FieldsError, Message};
use crate::frame;
use crate::hpack::Field;
use crate::settings::Announce;
use crate::stream::{Ended, Outbound, Phase, Stream, StreamId, Waits};
use bytes::{Bytes, BytesMut};

impl Connection {
    /// Opens a stream with a request; with `end` there is no body.
    ///
    /// # Errors
    /// The stream cannot be opened now or not at all, and nothing was sent.
    pub fn open_stream(&mut self, fields: &[Field], end: bool) -> Result<StreamId, OpenError> {
        if self.role == Role::Server {
            return Err(OpenError::Server);
        }
        self.check_room()?;
        if self.is_going_away() {
            return Err(OpenError::GoingAway);
        }
        let id = StreamId::new(self.streams.next_local);
        if id > StreamId::MAX {
            return Err(OpenError::Exhausted);
        }
        let message = self.check_fields(Expect::Request, fields)?;
        if message.extended && !self.peer.extended_connect {
            return Err(CommandError::Malformed(FieldsError::Pseudo).into());
        }
        if self.streams_available() == 0 {
            self.streams_wanted = true;
            return Err(OpenError::StreamLimit);
        }
        self.streams.next_local += 2;
        let receive_bytes = self.local.acked().stream_window_bytes;
        let mut stream = Stream::new(true, self.peer.stream_window_bytes, receive_bytes);
        stream.sending = if end { Phase::Done } else { Phase::Body };
        stream.bodiless = message.head || message.connect;
        self.streams.insert(id, stream);
        self.put_headers(id, fields, end);
        Ok(id)
    }

    /// Sends a response (interim ones first, without `end`), or, after that, trailers (with `end`).
    ///
    /// # Errors
    /// See [`CommandError`]; nothing was sent.
    pub fn send_headers(
        &mut self,
        stream: StreamId,
        fields: &[Field],
        end: bool,
    ) -> Result<(), CommandError> {
        self.check_room()?;
        match self.sending(stream)? {
            Phase::Headers => self.send_response(stream, fields, end),
            Phase::Body if end => self.send_trailers(stream, fields),
            _ => Err(CommandError::WrongPhase),
        }
    }

    fn send_response(
        &mut self,
        id: StreamId,
        fields: &[Field],
        end: bool,
    ) -> Result<(), CommandError> {
        let message = self.check_fields(Expect::Response, fields)?;
        if message.is_interim() && end {
            return Err(CommandError::Malformed(FieldsError::InterimEnd));
        }
        self.put_headers(id, fields, end);
        if let Some(stream) = self.streams.table.get_mut(&id)
            && !message.is_interim()
        {
            stream.sending = if end { Phase::Done } else { Phase::Body };
        }
        self.close_if_done(id);
        Ok(())
    }

    /// Trailers follow the data that waits.
    fn send_trailers(&mut self, id: StreamId, fields: &[Field]) -> Result<(), CommandError> {
        self.check_fields(Expect::Trailers, fields)?;
        if let Some(stream) = self.streams.table.get_mut(&id) {
            stream.outbound.trailers = Some(fields.to_vec());
            stream.sending = Phase::Ending;
        }
        self.schedule(id);
        Ok(())
    }

    /// Takes as much of `data` as the buffers have room for, off its front, and says how much. When it
    /// is not all, [`Event::WindowOpened`] follows once there is room again.
    ///
    /// # Errors
    /// [`CommandError::ConnectionClosed`], [`CommandError::UnknownStream`], or
    /// [`CommandError::WrongPhase`] before the response's headers and after the end.
    pub fn send_data(&mut self, stream: StreamId, data: &mut Bytes) -> Result<usize, CommandError> {
        let taken = self.take_room(stream, data.len())?;
        let piece = data.split_to(taken);
        self.put_data(stream, taken, |outbound| outbound.push(piece));
        Ok(taken)
    }

    /// As [`Self::send_data`], of bytes that the caller keeps: those that are taken are copied.
    ///
    /// # Errors
    /// As for [`Self::send_data`].
    pub fn send_slice(&mut self, stream: StreamId, data: &[u8]) -> Result<usize, CommandError> {
        let taken = self.take_room(stream, data.len())?;
        let piece = data.get(..taken).unwrap_or_default();
        self.put_data(stream, taken, |outbound| outbound.push_slice(piece));
        Ok(taken)
    }

    /// How much of `offered` bytes there is room for; when not for all, the stream waits from now on.
    fn take_room(&mut self, stream: StreamId, offered: usize) -> Result<usize, CommandError> {
        if self.sending(stream)? != Phase::Body {
            return Err(CommandError::WrongPhase);
        }
        let room = self.send_capacity(stream);
        let all = self
            .limits
            .connection_buffer_bytes_max
            .saturating_sub(self.outbox.buffered);
        if let Some(open) = self.streams.table.get_mut(&stream)
            && offered > room
            && open.waits != Waits::Connection
        {
            open.waits = Waits::Stream;
            if all == room {
                open.waits = Waits::Connection;
                self.outbox.waiting.push_back(stream);
            }
        }
        Ok(room.min(offered))
    }

    fn put_data(&mut self, stream: StreamId, bytes: usize, push: impl FnOnce(&mut Outbound)) {
        if bytes > 0
            && let Some(open) = self.streams.table.get_mut(&stream)
        {
            push(&mut open.outbound);
            self.outbox.buffered += bytes;
        }
        self.schedule(stream);
    }

    /// Whether data or the end of a stream was taken and not yet handed out by [`Self::transmit`].
    pub fn has_unsent(&self, stream: StreamId) -> bool {
        let open = self.streams.table.get(&stream);
        open.is_some_and(|s| s.outbound.bytes() > 0 || s.sending == Phase::Ending)
    }

    /// Ends our side of a stream, after the data that waits.
    ///
    /// # Errors
    /// As for [`Self::send_data`].
    pub fn end_stream(&mut self, stream: StreamId) -> Result<(), CommandError> {
        if self.sending(stream)? != Phase::Body {
            return Err(CommandError::WrongPhase);
        }
        if let Some(open) = self.streams.table.get_mut(&stream) {
            open.sending = Phase::Ending;
        }
        self.schedule(stream);
        Ok(())
    }

    /// Ends a stream at once, both ways. No event of it follows, not even those that wait; data that was
    /// delivered before is still to be released.
    ///
    /// # Errors
    /// [`CommandError::ConnectionClosed`] or [`CommandError::UnknownStream`].
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode) -> Result<(), CommandError> {
        self.sending(stream)?;
        let mut unseen = 0;
        self.events.retain(|event| match event {
            Event::Data {
                stream: of, data, ..
            } if *of == stream => {
                unseen += data.len();
                false
            }
            Event::Headers { stream: of, .. } | Event::WindowOpened { stream: of } => *of != stream,
            _ => true,
        });
        self.take_back(stream, unseen);
        self.remove(stream, Ended::ByUs);
        frame::put_rst_stream(&mut self.outbox.control, stream, code);
        Ok(())
    }

    /// Asks for a sign of life, [`Event::PingAcked`].
    ///
    /// # Errors
    /// [`CommandError::TooManyInFlight`], and as for any command.
    pub fn ping(&mut self, opaque: [u8; 8]) -> Result<(), CommandError> {
        self.check_room()?;
        if self.pings.len() >= self.limits.pings_in_flight_max {
            return Err(CommandError::TooManyInFlight);
        }
        self.pings.push_back(opaque);
        frame::put_ping(&mut self.outbox.control, false, opaque);
        Ok(())
    }

    /// Announces other parameters; they are in force with [`Event::SettingsAcked`].
    ///
    /// # Errors
    /// [`CommandError::TooManyInFlight`], and as for any command.
    pub fn change_settings(&mut self, announce: Announce) -> Result<(), CommandError> {
        self.check_room()?;
        if self.local.in_flight() >= self.limits.settings_in_flight_max {
            return Err(CommandError::TooManyInFlight);
        }
        let entries = self.local.send(announce);
        frame::put_settings(&mut self.outbox.control, &entries);
        Ok(())
    }

    /// Asks the peer to open no more streams, and still takes those that are on their way. After a round
    /// trip [`Self::goaway_final`] should follow (RFC 9113 section 6.8).
    ///
    /// # Errors
    /// [`CommandError::ConnectionClosed`].
    pub fn goaway_graceful(&mut self) -> Result<(), CommandError> {
        self.check_open()?;
        if self.goaway_sent.is_none() {
            self.put_goaway(StreamId::MAX, ErrorCode::NO_ERROR, &[]);
        }
        Ok(())
    }

    /// Takes no more streams; those that are open go on. With an error code, the owner closes the
    /// transport after the next [`Self::transmit`].
    ///
    /// # Errors
    /// [`CommandError::ConnectionClosed`].
    pub fn goaway_final(&mut self, code: ErrorCode, debug: &[u8]) -> Result<(), CommandError> {
        self.check_open()?;
        let last = self.last_processed();
        let debug = debug
            .get(..self.limits.goaway_debug_bytes_max)
            .unwrap_or(debug);
        self.put_goaway(last, code, debug);
        Ok(())
    }

    /// The last stream of the peer that was or will be looked at; it never rises once it was said.
    pub(super) fn last_processed(&self) -> StreamId {
        let highest = StreamId::new(self.streams.highest_peer);
        self.goaway_sent
            .map_or(highest, |before| before.min(highest))
    }

    pub(super) fn put_goaway(&mut self, last: StreamId, code: ErrorCode, debug: &[u8]) {
        self.goaway_sent = Some(last);
        frame::put_goaway(&mut self.outbox.control, last.value(), code, debug);
    }

    fn put_headers(&mut self, stream: StreamId, fields: &[Field], end: bool) {
        let mut block = BytesMut::new();
        self.encoder.encode(fields, &mut block);
        let max = self.peer.frame_bytes_max as usize;
        frame::put_headers(&mut self.outbox.control, stream, end, &block, max);
    }

    /// Puts the trailers of a stream, whose data is all handed out, into the output.
    pub(super) fn put_trailers(&mut self, stream: StreamId, fields: &[Field]) {
        self.put_headers(stream, fields, true);
    }

    fn check_open(&self) -> Result<(), CommandError> {
        match self.failed {
            Some(_) => Err(CommandError::ConnectionClosed),
            None => Ok(()),
        }
    }

    fn check_room(&self) -> Result<(), CommandError> {
        self.check_open()?;
        if self.outbox.control.len() > self.limits.control_bytes_max / 2 {
            return Err(CommandError::OutputFull);
        }
        Ok(())
    }

    fn sending(&self, stream: StreamId) -> Result<Phase, CommandError> {
        self.check_open()?;
        let open = self.streams.table.get(&stream);
        open.map(|s| s.sending).ok_or(CommandError::UnknownStream)
    }

    fn check_fields(&self, expect: Expect, fields: &[Field]) -> Result<Message, CommandError> {
        let bytes: usize = fields.iter().map(Field::size).sum();
        // What the peer takes, if it said so, and never more than fits into our own bounds.
        let max = self.peer.header_list_bytes_max.unwrap_or(u32::MAX) as usize;
        if bytes > max.min(self.limits.control_bytes_max / 4) {
            return Err(CommandError::FieldsTooLarge);
        }
        fields::check(expect, fields).map_err(CommandError::Malformed)
    }
}
