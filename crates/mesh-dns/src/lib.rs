//! DNS for the pods of a mesh: names of its services are answered from the snapshot, everything else
//! is for the upstream servers (interop/migrate.md section 5).
//!
//! [`answer()`] is pure: a snapshot, who asks and what, to the records or the word to forward.
//! [`Query::read`] and [`reply`] are the bytes around it. What is forwarded is passed on as it came,
//! so only as much of it is read here as must be: the question, and each record's place.
//! [`Server`] serves one pod on one worker; its [`Forwarder`] asks upstream and keeps what it hears.

mod answer;
mod cache;
mod query;
pub mod reply;
mod resolv_conf;
mod resolve;
mod server;
mod upstream;
pub mod wire;

pub use answer::{ANSWERS_MAX, Answer, Client, Decision, Search, TTL_S, Zone, answer};
pub use cache::{Cache, CacheBounds, NEGATIVE_MAX, POSITIVE_MAX};
pub use query::{Edns, Query, QueryFault};
pub use resolv_conf::{ResolvConf, SERVERS_MAX};
pub use resolve::Resolved;
pub use server::{CONNECTIONS_MAX, IDLE_TIMEOUT, QUERY_BYTES_MAX, Server, View};
pub use upstream::{
    Forwarder, Outstanding, Protocol, QUERY_TIMEOUT, UpstreamError, UpstreamSettings,
};
