//! HTTP/2 CONNECT tunnels (HBONE): the pool of the client side and the server (interop/hbone.md).
//!
//! A tunnel is one HTTP/2 connection in mutual TLS between two proxies; each stream in it carries
//! one TCP connection. [`Pool`] opens streams towards other proxies, [`serve`] takes streams from
//! them, and [`HboneStream`] is a stream on either side: plain `AsyncRead + AsyncWrite`.
//!
//! Nothing here decides who may talk to whom: that is mesh-plan and mesh-authz.

mod baggage;
mod client;
mod error;
mod keepalive;
mod pool;
mod server;
mod settings;
mod stream;
mod trace;
mod upstream;

pub use baggage::{Baggage, Forwarded};
pub use error::TunnelError;
pub use pool::{ConnectRequest, Dial, Pool, TunnelKey};
pub use server::{Incoming, passed, serve, serve_until};
pub use settings::{KeepAlive, PoolSettings, ServerSettings, Windows};
pub use stream::HboneStream;
pub use trace::{new_traceparent, trace_id};
pub use upstream::UpstreamStream;
