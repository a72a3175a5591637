//! What every proxy binary is made of: common settings, the way up and down, admin pages,
//! connection facts, limits.
//!
//! A binary flattens the flags of [`settings`] into its own, checks all of them together, and hands
//! what comes out to [`run`]. What only one proxy does stays with that proxy.

pub mod admin;
pub mod facts;
pub mod limits;
mod listener;
mod revocation;
mod run;
pub mod settings;

pub use listener::accept_until_drain;
pub use mesh_model::WorkloadInfo;
pub use revocation::{revocations, tunnels_retired};
pub use run::{StartError, run};
pub use settings::{Addresses, Process};
