//! Access records: the one log line of a connection (interop/telemetry.md section 4) and of a
//! request (section 5).

use crate::connection::ByteCounts;
use crate::facts::{ConnectionFacts, RequestFacts};
use crate::metrics::RequestOutcome;
use mesh_model::Reason;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

pub(crate) struct ConnectionEnd<'a> {
    pub(crate) facts: &'a ConnectionFacts,
    pub(crate) counts: &'a ByteCounts,
    pub(crate) id: u64,
    pub(crate) age: Duration,
    pub(crate) reason: Reason,
    pub(crate) detail: Option<&'a str>,
}

pub(crate) struct RequestEnd<'a> {
    pub(crate) facts: &'a RequestFacts,
    pub(crate) outcome: &'a RequestOutcome,
    pub(crate) started_at: SystemTime,
    pub(crate) upstream: Option<SocketAddr>,
    pub(crate) upstream_cluster: Option<&'a str>,
    pub(crate) upstream_time: Option<Duration>,
    pub(crate) policy: Option<&'a str>,
    pub(crate) trace_id: Option<&'a str>,
    pub(crate) detail: Option<&'a str>,
}

pub(crate) fn connection(end: &ConnectionEnd<'_>) {
    tracing::info!(target: "access", id = end.id, reason = end.reason.code(), "connection complete");
}

pub(crate) fn request(end: &RequestEnd<'_>) {
    tracing::info!(target: "access", reason = end.outcome.reason.code(), "request complete");
}
