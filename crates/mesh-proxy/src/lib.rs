//! What every proxy binary is made of: common settings, and the way up and down.
//!
//! A binary flattens the flags of [`settings`] into its own, checks all of them together, and hands
//! what comes out to [`run`]. What only one proxy does stays with that proxy.

mod run;
pub mod settings;

pub use run::{StartError, run};
pub use settings::{Addresses, Process, WorkloadInfo};
