//! Frames: the header of nine bytes, and the frames that are written whole (RFC 9113 sections 4 and 6).

use crate::StreamId;
use crate::error::ErrorCode;
use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a client sends first.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame header, bytes.
pub(crate) const HEADER_BYTES: usize = 9;
/// DATA and HEADERS: the last frame of this direction of the stream.
pub(crate) const END_STREAM: u8 = 0x1;
/// SETTINGS and PING: an acknowledgement.
pub(crate) const ACK: u8 = 0x1;
/// HEADERS and CONTINUATION: the header block ends here.
pub(crate) const END_HEADERS: u8 = 0x4;
/// DATA and HEADERS: a pad length follows, and padding at the end.
pub(crate) const PADDED: u8 = 0x8;
/// HEADERS: five bytes of (deprecated) priority follow.
pub(crate) const PRIORITY: u8 = 0x20;

/// The type of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FrameKind {
    /// Payload of a stream.
    Data,
    /// Opens a stream, answers it, or ends it with trailers.
    Headers,
    /// Deprecated; read and ignored.
    Priority,
    /// Ends a stream at once.
    RstStream,
    /// Parameters of the connection.
    Settings,
    /// Server push; always refused.
    PushPromise,
    /// Liveness and round trip time.
    Ping,
    /// No new streams past a given one.
    GoAway,
    /// Gives credit.
    WindowUpdate,
    /// More of a header block.
    Continuation,
    /// Not of RFC 9113; read and ignored.
    Unknown(u8),
}

impl FrameKind {
    const fn from_wire(value: u8) -> Self {
        match value {
            0x0 => Self::Data,
            0x1 => Self::Headers,
            0x2 => Self::Priority,
            0x3 => Self::RstStream,
            0x4 => Self::Settings,
            0x5 => Self::PushPromise,
            0x6 => Self::Ping,
            0x7 => Self::GoAway,
            0x8 => Self::WindowUpdate,
            0x9 => Self::Continuation,
            other => Self::Unknown(other),
        }
    }

    const fn to_wire(self) -> u8 {
        match self {
            Self::Data => 0x0,
            Self::Headers => 0x1,
            Self::Priority => 0x2,
            Self::RstStream => 0x3,
            Self::Settings => 0x4,
            Self::PushPromise => 0x5,
            Self::Ping => 0x6,
            Self::GoAway => 0x7,
            Self::WindowUpdate => 0x8,
            Self::Continuation => 0x9,
            Self::Unknown(other) => other,
        }
    }
}

impl fmt::Display for FrameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Data => "DATA",
            Self::Headers => "HEADERS",
            Self::Priority => "PRIORITY",
            Self::RstStream => "RST_STREAM",
            Self::Settings => "SETTINGS",
            Self::PushPromise => "PUSH_PROMISE",
            Self::Ping => "PING",
            Self::GoAway => "GOAWAY",
            Self::WindowUpdate => "WINDOW_UPDATE",
            Self::Continuation => "CONTINUATION",
            Self::Unknown(other) => return write!(f, "type {other:#x}"),
        })
    }
}

/// The nine bytes before each payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FrameHeader {
    /// Payload, bytes; 24 bits on the wire.
    pub(crate) length: usize,
    pub(crate) kind: FrameKind,
    pub(crate) flags: u8,
    /// 0 is the connection.
    pub(crate) stream: StreamId,
}

impl FrameHeader {
    pub(crate) fn parse(bytes: [u8; HEADER_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]) as usize,
            kind: FrameKind::from_wire(kind),
            flags,
            stream: StreamId::from_wire([s0, s1, s2, s3]),
        }
    }

    pub(crate) fn encode(self) -> [u8; HEADER_BYTES] {
        // Every payload of ours is within the peer's maximum, which is under 2^24.
        let length = u32::try_from(self.length).unwrap_or(u32::MAX);
        let [_, l0, l1, l2] = length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.value().to_be_bytes();
        [l0, l1, l2, self.kind.to_wire(), self.flags, s0, s1, s2, s3]
    }

    pub(crate) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

fn put(out: &mut BytesMut, kind: FrameKind, flags: u8, stream: StreamId, payload: &[&[u8]]) {
    let length = payload.iter().map(|part| part.len()).sum();
    out.put_slice(
        &FrameHeader {
            length,
            kind,
            flags,
            stream,
        }
        .encode(),
    );
    for part in payload {
        out.put_slice(part);
    }
}

pub(crate) fn put_rst_stream(out: &mut BytesMut, stream: StreamId, code: ErrorCode) {
    put(
        out,
        FrameKind::RstStream,
        0,
        stream,
        &[&code.0.to_be_bytes()],
    );
}

pub(crate) fn put_window_update(out: &mut BytesMut, stream: StreamId, increment: u32) {
    put(
        out,
        FrameKind::WindowUpdate,
        0,
        stream,
        &[&increment.to_be_bytes()],
    );
}

pub(crate) fn put_ping(out: &mut BytesMut, ack: bool, opaque: [u8; 8]) {
    let flags = if ack { ACK } else { 0 };
    put(
        out,
        FrameKind::Ping,
        flags,
        StreamId::CONNECTION,
        &[&opaque],
    );
}

pub(crate) fn put_goaway(out: &mut BytesMut, last: u32, code: ErrorCode, debug: &[u8]) {
    put(
        out,
        FrameKind::GoAway,
        0,
        StreamId::CONNECTION,
        &[&last.to_be_bytes(), &code.0.to_be_bytes(), debug],
    );
}

pub(crate) fn put_settings(out: &mut BytesMut, entries: &[(u16, u32)]) {
    let mut payload = Vec::with_capacity(entries.len() * 6);
    for (id, value) in entries {
        payload.put_u16(*id);
        payload.put_u32(*value);
    }
    put(
        out,
        FrameKind::Settings,
        0,
        StreamId::CONNECTION,
        &[&payload],
    );
}

pub(crate) fn put_settings_ack(out: &mut BytesMut) {
    put(out, FrameKind::Settings, ACK, StreamId::CONNECTION, &[]);
}

/// A header block as HEADERS and as many CONTINUATION as the peer's maximum asks for.
pub(crate) fn put_headers(
    out: &mut BytesMut,
    stream: StreamId,
    end_stream: bool,
    block: &[u8],
    frame_bytes_max: usize,
) {
    let mut flags = if end_stream { END_STREAM } else { 0 };
    let mut kind = FrameKind::Headers;
    let mut rest = block;
    loop {
        let (part, after) = rest.split_at(rest.len().min(frame_bytes_max));
        if after.is_empty() {
            flags |= END_HEADERS;
        }
        put(out, kind, flags, stream, &[part]);
        if after.is_empty() {
            return;
        }
        (kind, flags, rest) = (FrameKind::Continuation, 0, after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_written() {
        for kind in 0..=20 {
            let header = FrameHeader {
                length: 0x00a1_b2c3,
                kind: FrameKind::from_wire(kind),
                flags: 0x25,
                stream: StreamId::from_wire([0x7f, 1, 2, 3]),
            };
            assert_eq!(FrameHeader::parse(header.encode()), header);
        }
    }

    #[test]
    fn the_reserved_bit_of_a_stream_is_ignored() {
        let header = FrameHeader::parse([0, 0, 0, 0, 0, 0x80, 0, 0, 5]);
        assert_eq!(header.stream.value(), 5);
    }

    #[test]
    fn a_long_block_is_continued() {
        let mut out = BytesMut::new();
        put_headers(
            &mut out,
            StreamId::from_wire([0, 0, 0, 1]),
            true,
            &[7; 25],
            10,
        );
        let first = FrameHeader::parse(out[..9].try_into().unwrap());
        let last = FrameHeader::parse(out[38..47].try_into().unwrap());
        assert_eq!((first.length, first.flags), (10, END_STREAM));
        assert_eq!((last.length, last.flags), (5, END_HEADERS));
        assert_eq!(last.kind, FrameKind::Continuation);
        assert_eq!(out.len(), 25 + 3 * 9);
    }
}
