//! Worker threads, owned tasks, signals, drain, readiness and the admin HTTP shell.
//!
//! Every task has an owner (a [`Scope`]), every process one way up and one way down ([`run`]).
//! Data-plane work runs on [`Workers`], control work on the main thread's runtime, so that load
//! never starves the control plane's messages nor the admin pages.

mod admin;
mod drain;
mod readiness;
mod run;
mod scope;
mod workers;

pub use admin::{AdminResponse, AdminRoutes, serve_admin};
pub use drain::Drain;
pub use readiness::{Readiness, ReadyGate};
pub use run::{Context, RunError, RunOptions, run};
pub use scope::{Scope, panics_total};
pub use workers::{WORKER_QUEUE_JOBS, WorkerHandle, Workers, workers_default};
