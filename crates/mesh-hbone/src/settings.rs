//! Named limits of both roles, with the defaults of interop/hbone.md ("HTTP/2 parameters").

use std::time::Duration;

/// Flow-control window of one stream, bytes.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Flow-control window of one connection, bytes; well above a stream's, so that one stream whose
/// reader is slow does not stop the others.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Largest frame we accept, bytes.
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// Largest header list a server accepts, bytes.
const SERVER_HEADER_LIST_BYTES_MAX: u32 = 64 << 10;
/// Largest header list a client accepts, bytes.
const CLIENT_HEADER_LIST_BYTES_MAX: u32 = 16 << 10;
/// Concurrent streams a server allows on one connection.
const SERVER_STREAMS_MAX: u32 = 200;
/// Concurrent streams a client puts on one connection, whatever the server would allow.
const CLIENT_STREAMS_MAX: usize = 100;
/// Bytes one stream may hold that were written and not yet sent.
const SEND_BUFFER_BYTES_MAX: usize = 256 << 10;

/// HTTP/2 PING in both roles: it finds peers that vanished without a FIN (a deleted pod's network
/// namespace is gone before its proxy can say goodbye).
#[derive(Debug, Clone, Copy)]
pub struct KeepAlive {
    /// Time between pings, and before the first.
    pub interval: Duration,
    /// Time to wait for an answer before the connection is closed.
    pub timeout: Duration,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(20),
        }
    }
}

/// Windows and frame sizes, the same in both roles.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    /// Window of a stream, bytes (`HTTP2_STREAM_WINDOW_SIZE`).
    pub stream_bytes: u32,
    /// Window of a connection, bytes (`HTTP2_CONNECTION_WINDOW_SIZE`).
    pub connection_bytes: u32,
    /// Largest frame accepted, bytes (`HTTP2_FRAME_SIZE`).
    pub frame_bytes_max: u32,
    /// Bytes a stream may hold unsent.
    pub send_buffer_bytes_max: usize,
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            stream_bytes: STREAM_WINDOW_BYTES,
            connection_bytes: CONNECTION_WINDOW_BYTES,
            frame_bytes_max: FRAME_BYTES_MAX,
            send_buffer_bytes_max: SEND_BUFFER_BYTES_MAX,
        }
    }
}

/// Settings of the client side.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Streams we put on one connection; the peer's own limit counts too
    /// (`POOL_MAX_STREAMS_PER_CONNECTION`).
    pub streams_max: usize,
    /// A connection without streams is closed after this time (`POOL_UNUSED_RELEASE_TIMEOUT`).
    pub idle_release: Duration,
    /// Connections of the whole pool; past it an open fails as overloaded.
    pub connections_max: usize,
    /// Time for the peer's SETTINGS to arrive, after TLS.
    pub handshake_timeout: Duration,
    /// Time to wait for the answer to a CONNECT. The far side connects to its application first,
    /// which it gives up after 10 s.
    pub response_timeout: Duration,
    /// Largest header list accepted, bytes.
    pub header_list_bytes_max: u32,
    /// Windows and frames.
    pub windows: Windows,
    /// PING.
    pub keep_alive: KeepAlive,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            streams_max: CLIENT_STREAMS_MAX,
            idle_release: Duration::from_secs(300),
            connections_max: 16_384,
            handshake_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(20),
            header_list_bytes_max: CLIENT_HEADER_LIST_BYTES_MAX,
            windows: Windows::default(),
            keep_alive: KeepAlive::default(),
        }
    }
}

/// Settings of the server side.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Concurrent streams of one connection; the stream past it is refused by HTTP/2.
    pub streams_max: u32,
    /// Time for the HTTP/2 preface and SETTINGS to arrive, after TLS.
    pub handshake_timeout: Duration,
    /// Largest header list accepted, bytes; the stream of a larger request is reset.
    pub header_list_bytes_max: u32,
    /// Windows and frames.
    pub windows: Windows,
    /// PING.
    pub keep_alive: KeepAlive,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            streams_max: SERVER_STREAMS_MAX,
            handshake_timeout: Duration::from_secs(10),
            header_list_bytes_max: SERVER_HEADER_LIST_BYTES_MAX,
            windows: Windows::default(),
            keep_alive: KeepAlive::default(),
        }
    }
}
