//! Bytes in: the incremental parser, and what can be said of a frame by its header.

use super::control::u32_at;
use super::{Connection, Role, protocol_error};
use crate::error::{ConnectionError, ErrorCode, Violation};
use crate::frame::{ACK, FrameHeader, FrameKind, HEADER_BYTES, PREFACE};
use crate::limits::Limit;
use crate::stream::StreamId;
use bytes::{Buf, BytesMut};
use serde::{Deserialize, Serialize};

/// What 24 bits of length can say, bytes.
const FRAME_BYTES_MAX: usize = 0xff_ffff;

/// How far the parser is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reader {
    pub(super) state: State,
    /// The beginning of a frame header or of a payload that is read whole.
    partial: BytesMut,
    /// A header block that is not complete.
    pub(super) block: Option<Block>,
    settings_seen: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    /// A client's preface.
    Preface,
    /// A frame header.
    Header,
    /// A payload that is read whole; then `skip` bytes are thrown away.
    Payload { header: FrameHeader, skip: usize },
    /// The pad length of DATA.
    PadLength(FrameHeader),
    /// Payload of DATA, which is handed on as it comes; then `padding` bytes are thrown away.
    Data {
        stream: StreamId,
        rest: usize,
        padding: usize,
        end: bool,
    },
    /// Bytes that are thrown away.
    Skip(usize),
}

/// The parts of a header block so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Block {
    pub(super) stream: StreamId,
    pub(super) end: bool,
    pub(super) fragment: Vec<u8>,
    pub(super) continuations: u32,
}

impl Reader {
    pub(super) fn new(role: Role) -> Self {
        Self {
            state: match role {
                Role::Client => State::Header,
                Role::Server => State::Preface,
            },
            partial: BytesMut::new(),
            block: None,
            settings_seen: false,
        }
    }

    /// Takes `bytes` bytes off the input once they are there.
    fn gather(&mut self, input: &mut BytesMut, bytes: usize) -> Option<BytesMut> {
        if self.partial.is_empty() && input.len() >= bytes {
            return Some(input.split_to(bytes));
        }
        let missing = bytes.saturating_sub(self.partial.len());
        let more = input.split_to(missing.min(input.len()));
        self.partial.extend_from_slice(&more);
        (self.partial.len() >= bytes).then(|| self.partial.split())
    }

    /// Takes a frame header off the input once it is there.
    fn frame_header(&mut self, input: &mut BytesMut) -> Option<FrameHeader> {
        if self.partial.is_empty()
            && let Some(bytes) = input.first_chunk()
        {
            let header = FrameHeader::parse(*bytes);
            input.advance(HEADER_BYTES);
            return Some(header);
        }
        let bytes = self.gather(input, HEADER_BYTES)?;
        bytes.first_chunk().copied().map(FrameHeader::parse)
    }

    /// Bytes of the DATA frame that is being read, which its windows have counted.
    pub(super) fn in_frame(&self, of: Option<StreamId>) -> usize {
        match self.state {
            State::PadLength(h) if of.is_none_or(|id| id == h.stream) => h.length,
            State::Data { stream, rest, .. } if of.is_none_or(|id| id == stream) => rest,
            _ => 0,
        }
    }

    /// Whether what is kept of a frame is what its state says.
    pub(super) fn is_sound(&self, block_bytes_max: usize) -> bool {
        let (partial_max, possible) = match self.state {
            State::Preface => (PREFACE.len(), true),
            State::Header => (HEADER_BYTES, true),
            State::Payload { header, .. } => (header.length, header.length <= FRAME_BYTES_MAX),
            State::Data { padding, .. } => (1, padding <= usize::from(u8::MAX)),
            State::PadLength(_) | State::Skip(_) => (1, true),
        };
        let block = self.block.as_ref().map_or(0, |b| b.fragment.len());
        possible && self.partial.len() < partial_max && block <= block_bytes_max
    }
}

impl Connection {
    /// Takes bytes of the peer. All of `input` is taken, unless [`crate::Limits::events_max`] events
    /// wait: then the rest stays in it, and the call is to be repeated when they were polled.
    ///
    /// # Errors
    /// The connection has to end; what led to it may still be polled, and is to be transmitted once more.
    pub fn receive(&mut self, input: &mut BytesMut) -> Result<(), ConnectionError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        while !input.is_empty() && self.events.len() < self.limits.events_max {
            let step = self.step(input).and_then(|()| self.check_output());
            if let Err(error) = step {
                self.fail(error);
                return Err(error);
            }
        }
        Ok(())
    }

    /// A peer that causes answers and does not read them.
    fn check_output(&self) -> Result<(), ConnectionError> {
        if self.outbox.control.len() > self.limits.control_bytes_max {
            return Err(Limit::ControlBytes.reached());
        }
        Ok(())
    }

    fn step(&mut self, input: &mut BytesMut) -> Result<(), ConnectionError> {
        match self.reader.state {
            State::Preface => self.read_preface(input),
            State::Header => match self.reader.frame_header(input) {
                Some(header) => self.begin(header),
                None => Ok(()),
            },
            State::Payload { header, skip } => match self.reader.gather(input, header.length) {
                Some(payload) => {
                    self.skip(skip);
                    self.frame(header, &payload)
                }
                None => Ok(()),
            },
            State::PadLength(header) => {
                let padding = usize::from(input.get_u8());
                self.begin_padded(header, padding)
            }
            State::Data {
                stream,
                rest,
                padding,
                end,
            } => {
                let chunk = input.split_to(rest.min(input.len())).freeze();
                self.data(stream, chunk, rest, padding, end)
            }
            State::Skip(bytes) => {
                let now = bytes.min(input.len());
                input.advance(now);
                self.skip(bytes - now);
                Ok(())
            }
        }
    }

    pub(super) fn skip(&mut self, bytes: usize) {
        self.reader.state = match bytes {
            0 => State::Header,
            _ => State::Skip(bytes),
        };
    }

    fn read_preface(&mut self, input: &mut BytesMut) -> Result<(), ConnectionError> {
        let before = self.reader.partial.len();
        let expected = PREFACE.get(before..).unwrap_or_default();
        if !input.iter().zip(expected).all(|(a, b)| a == b) {
            return Err(protocol_error(Violation::Preface));
        }
        if self.reader.gather(input, PREFACE.len()).is_some() {
            self.reader.state = State::Header;
        }
        Ok(())
    }

    /// A frame header was read: checks what can be known by it, and decides how to read the payload.
    fn begin(&mut self, header: FrameHeader) -> Result<(), ConnectionError> {
        self.check_place(&header)?;
        check_shape(&header)?;
        let (length, mut skip) = (header.length, 0);
        match header.kind {
            FrameKind::Data => return self.begin_data(header),
            FrameKind::Unknown(_) | FrameKind::Priority => {
                self.charge(Limit::IgnoredFrames)?;
                self.skip(length);
                return Ok(());
            }
            FrameKind::PushPromise => return Err(protocol_error(Violation::PushPromise)),
            FrameKind::Headers | FrameKind::Continuation => self.check_block_size(length)?,
            FrameKind::Settings => {
                self.charge(Limit::Settings)?;
                if length / 6 > self.limits.settings_entries_max {
                    return Err(Limit::SettingsEntries.reached());
                }
            }
            FrameKind::GoAway => {
                self.charge(Limit::Settings)?;
                let kept = self.limits.goaway_debug_bytes_max.saturating_add(8);
                skip = length.saturating_sub(kept);
            }
            FrameKind::RstStream | FrameKind::Ping | FrameKind::WindowUpdate => {}
        }
        let header = FrameHeader {
            length: length - skip,
            ..header
        };
        if header.length == 0 {
            self.reader.state = State::Header;
            return self.frame(header, &[]);
        }
        self.reader.state = State::Payload { header, skip };
        Ok(())
    }

    /// Size, order: what depends on the state of the connection.
    fn check_place(&mut self, header: &FrameHeader) -> Result<(), ConnectionError> {
        if header.length > self.local.frame_bytes_max() {
            return Err(ConnectionError {
                code: ErrorCode::FRAME_SIZE_ERROR,
                violation: Violation::FrameTooLarge(header.kind),
            });
        }
        if !self.reader.settings_seen {
            if header.kind != FrameKind::Settings || header.has(ACK) {
                return Err(protocol_error(Violation::FirstFrame));
            }
            self.reader.settings_seen = true;
        }
        let continued = self.reader.block.as_ref().map(|block| block.stream);
        match (continued, header.kind) {
            (None, FrameKind::Continuation) => {
                Err(protocol_error(Violation::ContinuationUnexpected))
            }
            (Some(stream), FrameKind::Continuation) if stream == header.stream => Ok(()),
            (Some(_), _) => Err(protocol_error(Violation::HeaderBlockInterrupted)),
            (None, _) => Ok(()),
        }
    }

    fn frame(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), ConnectionError> {
        match header.kind {
            FrameKind::Headers => self.on_headers(header, payload),
            FrameKind::Continuation => self.on_continuation(header, payload),
            FrameKind::RstStream => {
                self.on_rst_stream(header.stream, ErrorCode(u32_at(payload, 0)))
            }
            FrameKind::Settings if header.has(ACK) => self.on_settings_ack(),
            FrameKind::Settings => self.on_settings(payload),
            FrameKind::Ping => self.on_ping(header.has(ACK), payload),
            FrameKind::GoAway => self.on_goaway(payload),
            FrameKind::WindowUpdate => self.on_window_update(header.stream, payload),
            // These were dealt with when they began.
            FrameKind::Data
            | FrameKind::Priority
            | FrameKind::PushPromise
            | FrameKind::Unknown(_) => Ok(()),
        }
    }

    /// Whether a frame on this stream is one that our GOAWAY told the peer we would ignore.
    pub(super) fn is_excluded(&self, stream: StreamId) -> bool {
        self.streams.is_of_peer(stream) && self.goaway_sent.is_some_and(|last| stream > last)
    }
}

/// Stream identifier and length: what depends on the frame alone (RFC 9113 section 6).
fn check_shape(header: &FrameHeader) -> Result<(), ConnectionError> {
    let kind = header.kind;
    let of_connection = match kind {
        FrameKind::Settings | FrameKind::Ping | FrameKind::GoAway => Some(true),
        FrameKind::WindowUpdate | FrameKind::Unknown(_) => None,
        _ => Some(false),
    };
    if of_connection.is_some_and(|expected| expected != header.stream.is_connection()) {
        return Err(protocol_error(Violation::FrameStream(kind)));
    }
    let fits = match kind {
        FrameKind::Priority => header.length == 5,
        FrameKind::RstStream | FrameKind::WindowUpdate => header.length == 4,
        FrameKind::Settings if header.has(ACK) => header.length == 0,
        FrameKind::Settings => header.length.is_multiple_of(6),
        FrameKind::Ping => header.length == 8,
        FrameKind::GoAway => header.length >= 8,
        _ => true,
    };
    if !fits {
        return Err(ConnectionError {
            code: ErrorCode::FRAME_SIZE_ERROR,
            violation: Violation::FrameLength(kind),
        });
    }
    Ok(())
}
