//! Header blocks that come in: gathered, decompressed, and held against the state of their stream.

use super::receive::Block;
use super::streams::Standing;
use super::{Connection, Role, protocol_error};
use crate::error::{ConnectionError, ErrorCode, Violation};
use crate::event::Event;
use crate::fields::{self, Expect, FieldsError, Message};
use crate::frame::{END_HEADERS, END_STREAM, FrameHeader, FrameKind, PADDED, PRIORITY};
use crate::hpack::{Field, FieldList, HpackError, ListLimits};
use crate::limits::Limit;
use crate::stream::{Body, Ended, Phase, Stream, StreamId};

impl Connection {
    /// A frame of a header block begins: the block must stay within its bounds.
    pub(super) fn check_block_size(&self, bytes: usize) -> Result<(), ConnectionError> {
        let so_far = self.reader.block.as_ref().map_or(0, |b| b.fragment.len());
        // Padding and priority are up to 261 bytes of the frame and not of the block.
        let overhead = if so_far == 0 { 261 } else { 0 };
        let max = self.limits.header_block_bytes_max;
        if so_far.saturating_add(bytes) > max.saturating_add(overhead) {
            return Err(Limit::HeaderBlockBytes.reached());
        }
        Ok(())
    }

    pub(super) fn on_headers(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        let fragment = fragment(&header, payload)?;
        if fragment.len() > self.limits.header_block_bytes_max {
            return Err(Limit::HeaderBlockBytes.reached());
        }
        self.extend_block(
            Block {
                stream: header.stream,
                end: header.has(END_STREAM),
                fragment: Vec::new(),
                continuations: 0,
            },
            fragment,
            header.has(END_HEADERS),
        )
    }

    pub(super) fn on_continuation(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        let block = self.reader.block.take();
        let mut block = block.ok_or(protocol_error(Violation::ContinuationUnexpected))?;
        block.continuations = block.continuations.saturating_add(1);
        if block.continuations > self.limits.continuation_frames_max {
            return Err(Limit::ContinuationFrames.reached());
        }
        if payload.is_empty() {
            self.charge(Limit::EmptyFrames)?;
        }
        self.extend_block(block, payload, header.has(END_HEADERS))
    }

    fn extend_block(
        &mut self,
        mut block: Block,
        fragment: &[u8],
        last: bool,
    ) -> Result<(), ConnectionError> {
        if !last {
            block.fragment.extend_from_slice(fragment);
            self.reader.block = Some(block);
            return Ok(());
        }
        if block.fragment.is_empty() {
            return self.on_block(block.stream, block.end, fragment);
        }
        block.fragment.extend_from_slice(fragment);
        self.on_block(block.stream, block.end, &block.fragment)
    }

    /// A whole header block. It is always decompressed, since the peer's table goes on with it.
    fn on_block(
        &mut self,
        stream: StreamId,
        end: bool,
        block: &[u8],
    ) -> Result<(), ConnectionError> {
        let limits = ListLimits {
            list_bytes_max: self.local.latest().header_list_bytes_max as usize,
            fields_max: self.limits.header_fields_max,
            bomb_bytes_max: self.limits.header_bomb_bytes_max,
        };
        let list = self.decoder.decode(block, &limits).map_err(hpack_error)?;
        let ended = Violation::StreamEnded(FrameKind::Headers);
        match self.streams.standing(stream) {
            Standing::Open => self.headers_on_open(stream, list, end),
            Standing::Idle if self.role == Role::Server && self.streams.is_of_peer(stream) => {
                self.request(stream, list, end)
            }
            Standing::Idle if stream.is_of_client() => {
                Err(protocol_error(Violation::IdleStream(FrameKind::Headers)))
            }
            Standing::Idle => Err(protocol_error(Violation::StreamParity)),
            _ if self.is_excluded(stream) => self.charge(Limit::IgnoredFrames),
            Standing::Ended(Some(Ended::ByUs)) => self.charge(Limit::IgnoredFrames),
            Standing::Ended(Some(Ended::Well)) => Err(ConnectionError {
                code: ErrorCode::STREAM_CLOSED,
                violation: ended,
            }),
            Standing::Ended(_) => self.fail_stream(stream, ErrorCode::STREAM_CLOSED, ended),
        }
    }

    /// A request on a new stream.
    fn request(&mut self, id: StreamId, list: FieldList, end: bool) -> Result<(), ConnectionError> {
        self.streams.highest_peer = id.value();
        if self.is_excluded(id) {
            return self.charge(Limit::IgnoredFrames);
        }
        if self.streams.peer >= self.local.latest().streams_max {
            return self.fail_stream(id, ErrorCode::REFUSED_STREAM, Violation::StreamLimit);
        }
        let (fields, message) = match self.message(Expect::Request, list, end) {
            Ok(message) => message,
            Err((code, violation)) => return self.fail_stream(id, code, violation),
        };
        let receive_bytes = self.local.acked().stream_window_bytes;
        let mut stream = Stream::new(false, self.peer.stream_window_bytes, receive_bytes);
        stream.receiving = if end { Phase::Done } else { Phase::Body };
        stream.body = body_of(&message, end);
        self.streams.insert(id, stream);
        let stream = id;
        self.events.push_back(Event::Headers {
            stream,
            fields,
            end,
        });
        Ok(())
    }

    /// A response, or trailers.
    fn headers_on_open(
        &mut self,
        id: StreamId,
        list: FieldList,
        end: bool,
    ) -> Result<(), ConnectionError> {
        let Some(stream) = self.streams.table.get(&id) else {
            return Ok(());
        };
        let (receiving, bodiless) = (stream.receiving, stream.bodiless);
        let expect = match receiving {
            Phase::Headers => Expect::Response,
            Phase::Body if end => Expect::Trailers,
            Phase::Body => {
                let code = ErrorCode::PROTOCOL_ERROR;
                return self.fail_stream(id, code, Violation::TrailersNotLast);
            }
            Phase::Ending | Phase::Done => {
                let ended = Violation::StreamEnded(FrameKind::Headers);
                return self.fail_stream(id, ErrorCode::STREAM_CLOSED, ended);
            }
        };
        let (fields, message) = match self.message(expect, list, end) {
            Ok(message) => message,
            Err((code, violation)) => return self.fail_stream(id, code, violation),
        };
        if message.is_interim() {
            self.charge(Limit::IgnoredFrames)?;
        }
        if let Some(stream) = self.streams.table.get_mut(&id)
            && receiving == Phase::Headers
            && !message.is_interim()
        {
            stream.receiving = Phase::Body;
            if !bodiless && !matches!(message.status, Some(204 | 304)) {
                stream.body = message.content_length.map(Body::new);
            }
        }
        if end && !self.body_is_complete(id) {
            return self.fail_stream(id, ErrorCode::PROTOCOL_ERROR, Violation::ContentLength);
        }
        let stream = id;
        self.events.push_back(Event::Headers {
            stream,
            fields,
            end,
        });
        if end {
            self.end_receiving(stream);
        }
        Ok(())
    }

    /// The fields as a well-formed message, or why the stream has to end.
    fn message(
        &self,
        expect: Expect,
        list: FieldList,
        end: bool,
    ) -> Result<(Vec<Field>, Message), (ErrorCode, Violation)> {
        let FieldList::Whole(fields) = list else {
            return Err((ErrorCode::ENHANCE_YOUR_CALM, Violation::HeaderListTooLarge));
        };
        let malformed = |error| (ErrorCode::PROTOCOL_ERROR, Violation::Fields(error));
        let message = fields::check(expect, &fields).map_err(malformed)?;
        if message.extended && !self.local.latest().extended_connect {
            return Err(malformed(FieldsError::Pseudo));
        }
        if message.is_interim() && end {
            return Err(malformed(FieldsError::InterimEnd));
        }
        if expect == Expect::Request && end && message.content_length.is_some_and(|n| n > 0) {
            return Err((ErrorCode::PROTOCOL_ERROR, Violation::ContentLength));
        }
        Ok((fields, message))
    }
}

/// The body of a request. CONNECT has none, but a tunnel.
fn body_of(message: &Message, end: bool) -> Option<Body> {
    if end || message.connect {
        return None;
    }
    message.content_length.map(Body::new)
}

/// The block's part of a HEADERS frame: without padding and priority.
fn fragment<'a>(header: &FrameHeader, payload: &'a [u8]) -> Result<&'a [u8], ConnectionError> {
    let wrong = protocol_error(Violation::Padding);
    let (mut payload, mut padding) = (payload, 0);
    if header.has(PADDED) {
        let (first, rest) = payload.split_first().ok_or(wrong)?;
        (payload, padding) = (rest, usize::from(*first));
    }
    if header.has(PRIORITY) {
        payload = payload.get(5..).ok_or(ConnectionError {
            code: ErrorCode::FRAME_SIZE_ERROR,
            violation: Violation::FrameLength(FrameKind::Headers),
        })?;
    }
    let length = payload.len().checked_sub(padding).ok_or(wrong)?;
    payload.get(..length).ok_or(wrong)
}

const fn hpack_error(error: HpackError) -> ConnectionError {
    match error {
        HpackError::Bomb => Limit::HeaderBombBytes.reached(),
        error => ConnectionError {
            code: ErrorCode::COMPRESSION_ERROR,
            violation: Violation::Hpack(error),
        },
    }
}
