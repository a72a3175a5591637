//! HTTP/2 (RFC 9113) as a state machine without I/O: no socket, clock, lock or task.
//!
//! A [`Connection`] is fed with the peer's bytes ([`Connection::receive`]) and asked what they mean
//! ([`Connection::poll_event`]); it takes commands (open a stream, send data, …) and is asked which
//! bytes to write ([`Connection::transmit`]). Who reads, writes, waits and measures time is its owner.
//!
//! ```
//! use bytes::{Bytes, BytesMut};
//! use mesh_http2::{Connection, Event, Field, Settings};
//!
//! let (mut client, mut server) = (
//!     Connection::client(Settings::default()),
//!     Connection::server(Settings::default()),
//! );
//! let connect = [
//!     Field::from_static(":method", "CONNECT"),
//!     Field::from_static(":authority", "10.0.0.1:80"),
//! ];
//! let stream = client.open_stream(&connect, false)?;
//! let mut hello = Bytes::from_static(b"hello");
//! assert_eq!(client.send_data(stream, &mut hello)?, 5);
//!
//! let (mut frames, mut wire) = (Vec::new(), BytesMut::new());
//! client.transmit(16 * 1024, &mut frames);
//! frames.iter().for_each(|frame| frame.write_to(&mut wire));
//! server.receive(&mut wire)?;
//! while let Some(event) = server.poll_event() {
//!     if let Event::Data { stream, data, .. } = event {
//!         assert_eq!(data, "hello");
//!         server.release_window(stream, data.len())?;
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! * Memory is bounded: by the windows and sizes of [`Announce`] and by the named bounds of [`Limits`].
//! * What a peer does wrong is a [`ConnectionError`] or a [`StreamError`], never a panic.
//! * The whole state is data: [`Connection::snapshot`] can be written down with serde, and
//!   [`Connection::restore`] goes on from there in another process.

mod connection;
mod error;
mod event;
mod fields;
mod flow;
mod frame;
pub mod hpack;
mod limits;
mod settings;
mod stream;

pub use connection::{Connection, Outgoing, Role, Snapshot};
pub use error::{
    CommandError, ConnectionError, ErrorCode, OpenError, RestoreError, StreamError, Violation,
};
pub use event::{Event, ResetCause};
pub use fields::FieldsError;
pub use frame::FrameKind;
pub use hpack::Field;
pub use limits::{Limit, Limits};
pub use settings::{Announce, PeerSettings, Settings};
pub use stream::StreamId;
