//! DATA that comes in: counted when it begins, handed on as its bytes come.

use super::receive::State;
use super::streams::Standing;
use super::{Connection, protocol_error};
use crate::error::{ConnectionError, ErrorCode, Violation};
use crate::event::Event;
use crate::frame::{END_STREAM, FrameHeader, FrameKind, PADDED};
use crate::limits::Limit;
use crate::stream::{Ended, Phase, StreamId};
use bytes::Bytes;

const EXCEEDED: ConnectionError = ConnectionError {
    code: ErrorCode::FLOW_CONTROL_ERROR,
    violation: Violation::WindowExceeded,
};

/// What becomes of a DATA frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Take,
    /// Its stream is gone, and the peer may not know it yet.
    Ignore,
    /// Its stream has to end.
    Fail(ErrorCode, Violation),
}

impl Connection {
    /// DATA begins: all of it counts in the windows, padding too, and whoever it is for.
    pub(super) fn begin_data(&mut self, header: FrameHeader) -> Result<(), ConnectionError> {
        let (stream, length) = (header.stream, header.length);
        self.receive_window.charge(length).map_err(|_| EXCEEDED)?;
        let verdict = self.judge_data(stream, length)?;
        if verdict != Verdict::Take {
            self.discard_unowned(length);
            self.skip(length);
        }
        match verdict {
            Verdict::Take => {}
            Verdict::Ignore => return self.charge(Limit::IgnoredFrames),
            Verdict::Fail(code, violation) => return self.fail_stream(stream, code, violation),
        }
        if header.has(PADDED) {
            if length == 0 {
                return Err(protocol_error(Violation::Padding));
            }
            self.reader.state = State::PadLength(header);
            return Ok(());
        }
        self.begin_payload(stream, length, 0, header.has(END_STREAM))
    }

    /// Whether DATA may be taken; if so, the stream's window has counted it.
    fn judge_data(&mut self, stream: StreamId, length: usize) -> Result<Verdict, ConnectionError> {
        let ended = Violation::StreamEnded(FrameKind::Data);
        let Some(open) = self.streams.table.get_mut(&stream) else {
            if self.is_excluded(stream) {
                return Ok(Verdict::Ignore);
            }
            return match self.streams.standing(stream) {
                Standing::Idle => Err(protocol_error(Violation::IdleStream(FrameKind::Data))),
                Standing::Ended(Some(Ended::ByUs)) => Ok(Verdict::Ignore),
                Standing::Ended(_) | Standing::Open => {
                    Ok(Verdict::Fail(ErrorCode::STREAM_CLOSED, ended))
                }
            };
        };
        Ok(match open.receiving {
            Phase::Headers => {
                Verdict::Fail(ErrorCode::PROTOCOL_ERROR, Violation::DataBeforeHeaders)
            }
            Phase::Ending | Phase::Done => Verdict::Fail(ErrorCode::STREAM_CLOSED, ended),
            Phase::Body => match open.receive_window.charge(length) {
                Ok(()) => Verdict::Take,
                Err(_) => Verdict::Fail(EXCEEDED.code, EXCEEDED.violation),
            },
        })
    }

    pub(super) fn begin_padded(
        &mut self,
        header: FrameHeader,
        padding: usize,
    ) -> Result<(), ConnectionError> {
        // The state still says that all of the frame is counted: it must be left before anything else.
        self.reader.state = State::Header;
        let Some(length) = header.length.checked_sub(1 + padding) else {
            return Err(protocol_error(Violation::Padding));
        };
        if self.streams.table.contains_key(&header.stream) {
            self.discard(header.stream, 1 + padding);
            return self.begin_payload(header.stream, length, padding, header.has(END_STREAM));
        }
        // The owner has reset the stream since the frame began.
        self.discard_unowned(header.length);
        self.skip(header.length - 1);
        Ok(())
    }

    fn begin_payload(
        &mut self,
        stream: StreamId,
        rest: usize,
        padding: usize,
        end: bool,
    ) -> Result<(), ConnectionError> {
        if rest > 0 {
            self.spent.earn_received();
            self.reader.state = State::Data {
                stream,
                rest,
                padding,
                end,
            };
            return Ok(());
        }
        self.skip(padding);
        if !end {
            return self.charge(Limit::EmptyFrames);
        }
        self.deliver(stream, Bytes::new(), true)
    }

    /// A part of the `rest` bytes that are left of a DATA frame's payload.
    pub(super) fn data(
        &mut self,
        stream: StreamId,
        chunk: Bytes,
        rest: usize,
        padding: usize,
        end: bool,
    ) -> Result<(), ConnectionError> {
        let left = rest - chunk.len();
        let Some(open) = self.streams.table.get_mut(&stream) else {
            // The owner has reset the stream since the frame began.
            self.skip(left + padding);
            self.discard_unowned(rest);
            return Ok(());
        };
        let within = open
            .body
            .as_mut()
            .is_none_or(|body| body.receive(chunk.len()));
        if !within {
            self.skip(left + padding);
            self.discard(stream, rest);
            let code = ErrorCode::PROTOCOL_ERROR;
            return self.fail_stream(stream, code, Violation::ContentLength);
        }
        open.receive_window.deliver(chunk.len());
        self.receive_window.deliver(chunk.len());
        if left > 0 {
            self.reader.state = State::Data {
                stream,
                rest: left,
                padding,
                end,
            };
        } else {
            self.skip(padding);
        }
        self.deliver(stream, chunk, end && left == 0)
    }

    fn deliver(&mut self, stream: StreamId, data: Bytes, end: bool) -> Result<(), ConnectionError> {
        if end && !self.body_is_complete(stream) {
            // The bytes are counted as delivered, and the owner will not see them.
            self.take_back(stream, data.len());
            let code = ErrorCode::PROTOCOL_ERROR;
            return self.fail_stream(stream, code, Violation::ContentLength);
        }
        self.events.push_back(Event::Data { stream, data, end });
        if end {
            self.end_receiving(stream);
        }
        Ok(())
    }

    pub(super) fn body_is_complete(&self, stream: StreamId) -> bool {
        let open = self.streams.table.get(&stream);
        open.and_then(|s| s.body)
            .is_none_or(|body| body.is_complete())
    }

    pub(super) fn end_receiving(&mut self, stream: StreamId) {
        if let Some(open) = self.streams.table.get_mut(&stream) {
            open.receiving = Phase::Done;
        }
        self.close_if_done(stream);
    }
}
