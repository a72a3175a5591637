//! What only tests need: a certificate authority that also signs what it should not, a receiver of
//! OTLP spans, scripted TCP peers, and short ways to a [`mesh_model::Snapshot`].
//!
//! Everything here panics on misuse: a test that is set up wrongly has failed.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "the crate is used by tests only, where a panic is the report"
)]

pub mod ca;
pub mod otlp;
pub mod peer;
pub mod resources;

pub use ca::{Leaf, TestCa};
pub use otlp::{CollectedSpan, OtlpReceiver};
pub use peer::{ScriptedPeer, Step};
