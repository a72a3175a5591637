//! What can go wrong, typed: error codes (RFC 9113 section 7), violations of the peer, and commands
//! of the owner that cannot be carried out.

use crate::StreamId;
use crate::fields::FieldsError;
use crate::frame::FrameKind;
use crate::hpack::HpackError;
use crate::limits::Limit;
use serde::{Deserialize, Serialize};
use std::fmt;

/// An error code as it stands in RST_STREAM and GOAWAY. Codes that we do not know are kept as sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// Not an error: a graceful end.
    pub const NO_ERROR: Self = Self(0x0);
    /// The protocol was broken, and no other code says it better.
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    /// The fault is in the sender of the code.
    pub const INTERNAL_ERROR: Self = Self(0x2);
    /// A window was exceeded or overflowed.
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    /// SETTINGS were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: Self = Self(0x4);
    /// A frame came for a stream that had ended.
    pub const STREAM_CLOSED: Self = Self(0x5);
    /// A frame of a wrong length.
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    /// The stream was not processed at all: a retry is safe.
    pub const REFUSED_STREAM: Self = Self(0x7);
    /// The stream is no longer wanted.
    pub const CANCEL: Self = Self(0x8);
    /// The header compression state is lost.
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    /// The TCP connection of a CONNECT stream broke.
    pub const CONNECT_ERROR: Self = Self(0xa);
    /// The peer causes more work than it is given.
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
    /// The transport is not safe enough.
    pub const INADEQUATE_SECURITY: Self = Self(0xc);
    /// HTTP/1.1 is required.
    pub const HTTP_1_1_REQUIRED: Self = Self(0xd);

    /// The name that the RFC gives it, or none for a code that it does not know.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0x0 => "NO_ERROR",
            0x1 => "PROTOCOL_ERROR",
            0x2 => "INTERNAL_ERROR",
            0x3 => "FLOW_CONTROL_ERROR",
            0x4 => "SETTINGS_TIMEOUT",
            0x5 => "STREAM_CLOSED",
            0x6 => "FRAME_SIZE_ERROR",
            0x7 => "REFUSED_STREAM",
            0x8 => "CANCEL",
            0x9 => "COMPRESSION_ERROR",
            0xa => "CONNECT_ERROR",
            0xb => "ENHANCE_YOUR_CALM",
            0xc => "INADEQUATE_SECURITY",
            0xd => "HTTP_1_1_REQUIRED",
            _ => return None,
        })
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the peer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Violation {
    /// A client's first 24 bytes are not the preface.
    #[error("the connection preface is wrong")]
    Preface,
    /// The first frame is not SETTINGS.
    #[error("the first frame is not SETTINGS")]
    FirstFrame,
    /// A frame is longer than the maximum that we announced.
    #[error("a {0} frame is longer than the maximum announced")]
    FrameTooLarge(FrameKind),
    /// A frame of a fixed length has another one.
    #[error("a {0} frame of a wrong length")]
    FrameLength(FrameKind),
    /// A frame of the connection on a stream, or the other way round.
    #[error("a {0} frame on a stream identifier that it must not have")]
    FrameStream(FrameKind),
    /// Padding as long as the payload or longer.
    #[error("padding longer than the payload")]
    Padding,
    /// Another frame, or another stream, in the middle of a header block.
    #[error("a header block was interrupted")]
    HeaderBlockInterrupted,
    /// CONTINUATION without a header block to continue.
    #[error("CONTINUATION without a header block")]
    ContinuationUnexpected,
    /// A frame on a stream that was never opened.
    #[error("a {0} frame on an idle stream")]
    IdleStream(FrameKind),
    /// A stream identifier of the wrong parity, or server push.
    #[error("a stream identifier that the peer must not open")]
    StreamParity,
    /// A frame on a stream that the peer had ended.
    #[error("a {0} frame on a stream that had ended")]
    StreamEnded(FrameKind),
    /// Server push, which we switched off, or from a client.
    #[error("PUSH_PROMISE")]
    PushPromise,
    /// A setting with a value out of its range.
    #[error("setting {0:#x} is out of range")]
    Setting(u16),
    /// An acknowledgement of SETTINGS that we did not send.
    #[error("SETTINGS acknowledged that were not sent")]
    SettingsAck,
    /// WINDOW_UPDATE by 0.
    #[error("WINDOW_UPDATE by 0")]
    WindowIncrement,
    /// A window grew past 2^31-1.
    #[error("a window over 2^31-1")]
    WindowOverflow,
    /// More DATA than a window allowed.
    #[error("more data than the window allowed")]
    WindowExceeded,
    /// GOAWAY with a higher last stream than the one before.
    #[error("GOAWAY raised the last stream")]
    GoAwayRaised,
    /// A header block that cannot be decompressed.
    #[error("header compression: {0}")]
    Hpack(HpackError),
    /// A malformed message (RFC 9113 section 8.1.1).
    #[error("malformed message: {0}")]
    Fields(FieldsError),
    /// DATA before the headers of the message.
    #[error("data before headers")]
    DataBeforeHeaders,
    /// Trailers without END_STREAM.
    #[error("trailers that do not end the stream")]
    TrailersNotLast,
    /// The body is not as long as content-length said.
    #[error("the body is not as long as content-length says")]
    ContentLength,
    /// The fields of a message are larger than we announced to take.
    #[error("the fields are larger than the maximum announced")]
    HeaderListTooLarge,
    /// More streams at once than we announced to take.
    #[error("more streams than the maximum announced")]
    StreamLimit,
    /// A bound of ours was reached.
    #[error("limit reached: {0}")]
    Limit(Limit),
}

/// The connection cannot go on. GOAWAY with this code is already queued for output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("connection error {code}: {violation}")]
pub struct ConnectionError {
    /// The code that GOAWAY carries.
    pub code: ErrorCode,
    /// What the peer did.
    pub violation: Violation,
}

/// One stream cannot go on; the others do. RST_STREAM with this code is already queued for output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("stream error {code} on {stream}: {violation}")]
pub struct StreamError {
    /// The stream.
    pub stream: StreamId,
    /// The code that RST_STREAM carries.
    pub code: ErrorCode,
    /// What the peer did.
    pub violation: Violation,
}

/// A command that cannot be carried out. The state is as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The connection failed or was ended with a final GOAWAY.
    #[error("the connection is closed")]
    ConnectionClosed,
    /// No such stream: it ended, was reset, or never was.
    #[error("no such stream")]
    UnknownStream,
    /// The stream's sending half is in another phase: data before headers, or anything after its end.
    #[error("the stream is in another phase")]
    WrongPhase,
    /// The fields are not a well-formed message.
    #[error("malformed message: {0}")]
    Malformed(FieldsError),
    /// The fields are larger than the peer takes.
    #[error("the fields are larger than the peer takes")]
    FieldsTooLarge,
    /// Too much output waits to be transmitted; try again after `transmit`.
    #[error("the output queue is full")]
    OutputFull,
    /// More was released than was delivered.
    #[error("more was released than was delivered")]
    ReleasedTooMuch,
    /// Too many PING or SETTINGS frames are unanswered.
    #[error("too many unanswered frames")]
    TooManyInFlight,
}

/// A stream that cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer's limit of streams at once is reached; [`crate::Event::StreamsAvailable`] follows.
    #[error("the peer's stream limit is reached")]
    StreamLimit,
    /// The peer sent GOAWAY, or we did.
    #[error("the connection takes no new streams")]
    GoingAway,
    /// All 2^30 stream identifiers are used up.
    #[error("stream identifiers are used up")]
    Exhausted,
    /// A server opens no streams: there is no push.
    #[error("a server cannot open streams")]
    Server,
    /// As for any command.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// A snapshot that was not written by this version of the engine, or was altered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Written by another version of the format.
    #[error("snapshot version {found}, expected {expected}")]
    Version {
        /// The version in the snapshot.
        found: u16,
        /// The version of this engine.
        expected: u16,
    },
    /// Two parts of the state contradict each other.
    #[error("snapshot contradicts itself: {0}")]
    Inconsistent(&'static str),
}
