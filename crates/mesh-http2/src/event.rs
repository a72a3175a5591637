//! What the owner of a connection learns from it.

use crate::error::{ErrorCode, StreamError};
use crate::hpack::Field;
use crate::settings::PeerSettings;
use crate::stream::StreamId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Something happened. The life of each stream that [`Event::Headers`] or
/// [`crate::Connection::open_stream`] named ends with exactly one of [`Event::Closed`],
/// [`Event::Reset`] and the owner's own [`crate::Connection::reset`], unless the connection fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A message begins: on a server a request on a new stream; on a client a response, perhaps an
    /// interim one (1xx). Or trailers, which always have `end`.
    Headers {
        /// The stream.
        stream: StreamId,
        /// Well-formed fields, pseudo-header fields first.
        fields: Vec<Field>,
        /// The peer will send nothing more on this stream.
        end: bool,
    },
    /// Payload. Each byte must be released once, with [`crate::Connection::release_window`], when it
    /// was passed on, also when the stream has ended or was reset meanwhile.
    Data {
        /// The stream.
        stream: StreamId,
        /// May be empty when `end` is set. It shares the memory of the input that it came in.
        data: Bytes,
        /// The peer will send nothing more on this stream.
        end: bool,
    },
    /// The stream ended before its time. Data that waited for output is thrown away.
    Reset {
        /// The stream.
        stream: StreamId,
        /// Whose doing it was.
        cause: ResetCause,
    },
    /// Both sides have ended the stream well, and all of our part is handed to the output.
    Closed {
        /// The stream.
        stream: StreamId,
    },
    /// `send_data` took less than it was offered, and there is room now.
    WindowOpened {
        /// The stream.
        stream: StreamId,
    },
    /// `open_stream` was refused for the peer's limit, and there is room now.
    StreamsAvailable,
    /// The peer has set its parameters, which are already in force.
    Settings(PeerSettings),
    /// The peer has put the oldest unanswered SETTINGS of ours in force.
    SettingsAcked,
    /// The answer to a PING of ours.
    PingAcked {
        /// What was sent with it.
        opaque: [u8; 8],
    },
    /// The peer takes no new streams. Streams of ours above `last` are reset with
    /// [`ResetCause::GoAway`].
    GoAway {
        /// The last stream of ours that it may have processed.
        last: StreamId,
        /// Why.
        code: ErrorCode,
        /// The beginning of its debug data.
        debug: Bytes,
    },
}

/// Who ended a stream before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResetCause {
    /// The peer, with RST_STREAM.
    Peer(ErrorCode),
    /// We did, since the peer broke the protocol on it.
    Violation(StreamError),
    /// The peer went away without having processed it: a retry elsewhere is safe.
    GoAway,
}

impl ResetCause {
    /// Whether the peer has certainly not acted on the stream.
    pub fn retry_is_safe(&self) -> bool {
        match self {
            Self::Peer(code) => *code == ErrorCode::REFUSED_STREAM,
            Self::Violation(_) => false,
            Self::GoAway => true,
        }
    }
}
