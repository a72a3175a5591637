//! Flags and environment that all proxies have, under the names of interop/migrate.md section 2.
//!
//! Each group is a [`clap::Args`] to be flattened into a binary's own flags. What a group reads is
//! turned into what the program uses by its methods; mistakes are collected in [`Mistakes`], so that
//! an operator is told all of them at once.

mod congestion;
mod control;
mod keep_alive;
mod mistakes;
mod parse;
mod place;
mod policy;
mod process;
mod tls;
mod tracing;

pub use congestion::CongestionFlags;
pub use control::{ControlFlags, XDS_ADDRESS_DEFAULT};
pub use keep_alive::KeepAliveFlags;
pub use mistakes::{Mistakes, SettingsError};
pub use parse::{duration, text_source, with_scheme};
pub use place::PlaceFlags;
pub use policy::PolicyFlags;
pub use process::{Addresses, Process, ProcessFlags};
pub use tls::{Tls, TlsFlags};
pub use tracing::TracingFlags;
