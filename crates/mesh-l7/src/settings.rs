//! Every limit of the HTTP rooms, with its default and its reason.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Limits towards the side that connected to us.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Bytes of a request head, start line and headers together. 64 KiB, as ztunnel's and Envoy's
    /// order of size; at least 8 KiB (hyper's smallest buffer).
    pub header_bytes_max: usize,
    /// Headers of a request; more is answered 431.
    pub header_count_max: usize,
    /// From the first byte of a request head to its last: a client slower than this gets 408.
    pub header_read_timeout: Duration,
    /// A connection without a request in flight is closed after this.
    pub idle_timeout: Duration,
    /// Requests at once on one HTTP/2 connection (SETTINGS_MAX_CONCURRENT_STREAMS).
    pub streams_max: u32,
    /// Bytes a client may send ahead on one HTTP/2 stream: the most a slow upstream makes us hold.
    pub stream_window_bytes: u32,
    /// Bytes a client may send ahead on one HTTP/2 connection.
    pub connection_window_bytes: u32,
    /// Bytes of a response held for one slow HTTP/2 stream.
    pub send_buffer_bytes_max: usize,
    /// How often a silent HTTP/2 client is probed, and how long it may take to answer.
    pub ping: (Duration, Duration),
    /// Further endpoints that are tried when a connect fails before any byte was sent.
    pub retries_max: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            header_bytes_max: 64 * 1024,
            header_count_max: 100,
            header_read_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            streams_max: 100,
            stream_window_bytes: 256 * 1024,
            connection_window_bytes: 1024 * 1024,
            send_buffer_bytes_max: 256 * 1024,
            ping: (Duration::from_secs(30), Duration::from_secs(20)),
            retries_max: 2,
        }
    }
}

/// Limits towards the side we connect to.
#[derive(Debug, Clone)]
pub struct UpstreamSettings {
    /// An unused connection is kept this long. Below the 60 s after which common servers close, so
    /// that a request seldom meets a connection just closed.
    pub idle_timeout: Duration,
    /// Unused HTTP/1.1 connections kept to one endpoint.
    pub idle_per_endpoint_max: usize,
    /// Connections open at once to one endpoint; further requests are refused as overload.
    pub connections_per_endpoint_max: usize,
    /// Requests at once on one HTTP/2 connection, where the server allows more.
    pub streams_per_connection_max: usize,
    /// Bytes of a response head.
    pub header_bytes_max: usize,
    /// Headers of a response.
    pub header_count_max: usize,
    /// Bytes an upstream may send ahead on one HTTP/2 stream.
    pub stream_window_bytes: u32,
    /// Bytes an upstream may send ahead on one HTTP/2 connection.
    pub connection_window_bytes: u32,
    /// How often a silent HTTP/2 upstream is probed, and how long it may take to answer.
    pub ping: (Duration, Duration),
    /// Source address of plain connections over IPv4; a sidecar's inbound side uses 127.0.0.6 so
    /// that the redirection lets them pass (interop/zds-cni.md section 7).
    pub source_v4: Option<Ipv4Addr>,
    /// The same over IPv6: `::6`.
    pub source_v6: Option<Ipv6Addr>,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(50),
            idle_per_endpoint_max: 64,
            connections_per_endpoint_max: 1024,
            streams_per_connection_max: 100,
            header_bytes_max: 64 * 1024,
            header_count_max: 100,
            stream_window_bytes: 256 * 1024,
            connection_window_bytes: 1024 * 1024,
            ping: (Duration::from_secs(30), Duration::from_secs(20)),
            source_v4: None,
            source_v6: None,
        }
    }
}
