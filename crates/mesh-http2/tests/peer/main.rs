//! The engine against another implementation, the `h2` crate, in both roles, over a duplex pipe.

#![expect(
    clippy::unwrap_used,
    reason = "test code: a failure of a helper is the test's"
)]

mod engine;
mod h2_client;
mod h2_server;

use bytes::Bytes;
use mesh_http2::{Field, Settings};

/// The bytes that stream number `n` carries.
fn text(n: usize, length: usize) -> Bytes {
    (0..length)
        .map(|place| u8::try_from((place * 7 + n * 13) % 251).unwrap())
        .collect()
}

fn connect_fields(authority: &str) -> Vec<Field> {
    vec![
        Field::from_static(":method", "CONNECT"),
        Field::new(":authority", authority.to_owned()),
    ]
}

/// Small windows, so that all of it depends on credit that comes back.
fn narrow() -> Settings {
    let mut settings = Settings::default();
    settings.announce.stream_window_bytes = 3000;
    settings.connection_window_bytes = 70_000;
    settings.limits.stream_buffer_bytes_max = 8000;
    settings
}
