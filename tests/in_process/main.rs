//! The in-process layer: control plane, authority and command line as real processes on loopback. It
//! needs no privileges. What a crate can show alone, its own tests show.

mod authority;
mod configuration;
mod plant;
mod questions;
