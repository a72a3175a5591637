//! One TCP session from plan to end record.
//!
//! [`Dialer::open`] turns a plan's target into a byte stream, plain or tunnelled; [`run_session`]
//! joins two streams until they end, the session is cut, or the process goes down, and ends the
//! connection's record exactly once. Nothing here looks into the bytes.

mod dialer;
mod session;
mod upstream;

pub use dialer::{DialError, Dialer, Tunnels};
pub use session::run_session;
pub use upstream::UpstreamStream;
