//! One TCP session from plan to end record.
//!
//! [`Dialer::open`] turns a plan's target into a byte stream, plain or tunnelled, and [`Reach`] tries
//! another endpoint when nothing reached the first; [`run_session`] joins two streams until they end,
//! the session is cut, or the process goes down, and ends the connection's record exactly once.
//! Nothing here looks into the bytes.

mod dialer;
mod ejector;
mod reach;
mod session;

pub use dialer::{Crossed, DialError, Dialer, Tunnels};
pub use ejector::{Avoidance, Ejector};
pub use mesh_hbone::UpstreamStream;
pub use reach::{AttemptError, Reach};
pub use session::{Session, SessionEnd, run_session};
