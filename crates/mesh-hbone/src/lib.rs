//! HTTP/2 CONNECT tunnels (HBONE): the pool of the client side and the server (interop/hbone.md).
//!
//! A tunnel is one HTTP/2 connection in mutual TLS between two proxies; each stream in it carries
//! one TCP connection. [`Pool`] opens streams towards other proxies, [`serve`] takes streams from
//! them, and [`HboneStream`] is a stream on either side: plain `AsyncRead + AsyncWrite`.
//!
//! HTTP/2 is mesh-http2's, which has no I/O. One task owns a connection: it reads, feeds the engine,
//! wakes the streams and writes what they left. Streams and task share the engine on one thread.
//!
//! Nothing here decides who may talk to whom: that is mesh-plan and mesh-authz.

mod baggage;
mod buffers;
mod client;
mod core;
mod driver;
mod error;
mod fields;
mod frozen;
mod inbox;
mod join;
mod parting;
mod pool;
mod server;
mod settings;
mod stream;
#[cfg(test)]
mod testing;
mod trace;
mod upstream;
mod wire;

pub use baggage::{Baggage, Forwarded};
pub use error::TunnelError;
pub use frozen::{Frozen, ReviveError, Revived, Tunnel, TunnelState, revive};
pub use join::join;
pub use pool::{ConnectRequest, Dial, Pool, TunnelKey};
pub use server::{Incoming, passed, serve, serve_session, serve_until};
pub use settings::{KeepAlive, PoolSettings, ServerSettings, Windows};
pub use stream::HboneStream;
pub use trace::{new_traceparent, trace_id};
pub use upstream::UpstreamStream;
