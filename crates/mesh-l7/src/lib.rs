//! One HTTP exchange: codecs, filters, upstream pool, upgrades.
//!
//! [`HttpProxy::serve_connection`] takes one downstream connection, HTTP/1.1 or HTTP/2, and serves
//! its requests. The way of a request, each step in the file of its name:
//!
//! 1. `exchange`: head checked (`head`, `path`), policies (`policy`, mesh-authz) and plan
//!    (mesh-plan) decided purely on the newest snapshot; one access record begun (`record`).
//! 2. `filters`, `headers`: request filters, hop-by-hop headers off, edge headers and trace on.
//! 3. `send`, `upstream`: a kept or new connection to the endpoint, plain or HBONE; another
//!    endpoint when a connect fails before any byte was sent; time limits.
//! 4. `body`: both bodies streamed with the other side's back-pressure, trailers kept.
//! 5. `tunnel`: after a 101, bytes both ways with half-close.
//!
//! Every failure leaves through one exit - `exchange` before the response's head, `body` after it -
//! with a [`mesh_model::Reason`] that is log record, metric and answer alike (`answer`).
//!
//! Everything here lives on one worker thread: `Rc`, local tasks, no lock on a request's path.

mod answer;
mod body;
mod connection;
mod context;
mod exchange;
mod exec;
mod filters;
mod grpc;
mod head;
mod headers;
mod io;
mod policy;
mod proxy;
mod record;
mod send;
mod serve;
mod settings;
mod tunnel;
mod upstream;

pub use context::{Authorization, ConnectionContext, HttpVersion, OwnedScope, Role};
pub use proxy::HttpProxy;
pub use settings::{HttpSettings, UpstreamSettings};
pub use upstream::{Tunnels, Upstream};

#[cfg(test)]
mod tests;
