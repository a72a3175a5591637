//! The record of one request: counts while it runs, one end record when it ends.

use crate::access::{self, RequestEnd};
use crate::facts::{Party, RequestFacts, Security};
use crate::metrics::{Metrics, RequestOutcome};
use mesh_model::{Reason, Service};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// The record of one request, from its head to the last byte of its answer.
///
/// Exactly one end record is given: by [`Self::end`], or by dropping the record. An L7 proxy moves
/// the record into the response body, so that the end of the body ends the record.
#[derive(Debug)]
pub struct RequestRecord {
    metrics: Metrics,
    facts: RequestFacts,
    started: Instant,
    started_at: SystemTime,
    upstream: Option<SocketAddr>,
    upstream_cluster: Option<String>,
    upstream_time: Option<Duration>,
    policy: Option<String>,
    trace_id: Option<String>,
    grpc_status: Option<u32>,
    status: u16,
    sent: AtomicU64,
    received: AtomicU64,
    sent_messages: AtomicU64,
    received_messages: AtomicU64,
    drop_reason: Reason,
    detail: Option<String>,
    ended: bool,
}

impl RequestRecord {
    pub(crate) fn begin(metrics: Metrics, facts: RequestFacts) -> Self {
        Self {
            metrics,
            facts,
            started: Instant::now(),
            started_at: SystemTime::now(),
            upstream: None,
            upstream_cluster: None,
            upstream_time: None,
            policy: None,
            trace_id: None,
            grpc_status: None,
            status: 0,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent_messages: AtomicU64::new(0),
            received_messages: AtomicU64::new(0),
            drop_reason: Reason::DownstreamReset,
            detail: None,
            ended: false,
        }
    }

    /// The facts as they stand.
    pub fn facts(&self) -> &RequestFacts {
        &self.facts
    }

    /// Counts bytes of the response body, server to client.
    pub fn add_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes of the request body, client to server.
    pub fn add_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts gRPC messages of the response.
    pub fn add_response_messages(&self, count: u64) {
        self.sent_messages.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts gRPC messages of the request.
    pub fn add_request_messages(&self, count: u64) {
        self.received_messages.fetch_add(count, Ordering::Relaxed);
    }

    /// Sets who asks.
    pub fn set_source(&mut self, source: Party) {
        self.facts.source = source;
    }

    /// Sets who answers and the service asked for.
    pub fn set_destination(&mut self, destination: Party, service: Option<Arc<Service>>) {
        self.facts.destination = destination;
        self.facts.service = service;
    }

    /// Sets how the connection to the other party is protected.
    pub fn set_security(&mut self, security: Security) {
        self.facts.security = security;
    }

    /// Sets the rule that matched, `namespace/route/rule`.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers give names by value or by reference alike"
    )]
    pub fn set_route(&mut self, route: impl ToString) {
        self.facts.route = Some(route.to_string());
    }

    /// Sets the policy that decided: the one that allowed, or the one that denied.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers give names by value or by reference alike"
    )]
    pub fn set_policy(&mut self, policy: impl ToString) {
        self.policy = Some(policy.to_string());
    }

    /// Sets the request id, when the proxy made one.
    pub fn set_request_id(&mut self, id: impl Into<String>) {
        self.facts.request_id = Some(id.into());
    }

    /// Sets the trace the request belongs to, 32 hex digits.
    pub fn set_trace_id(&mut self, id: impl Into<String>) {
        self.trace_id = Some(id.into());
    }

    /// Sets where the request was sent and the name of that set of endpoints.
    pub fn set_upstream(&mut self, address: SocketAddr, cluster: impl Into<String>) {
        self.upstream = Some(address);
        self.upstream_cluster = Some(cluster.into());
    }

    /// The head of the response is here: `upstream_service_time` ends, the status is known. A
    /// record that is dropped later carries this status.
    pub fn response_started(&mut self, status: u16) {
        self.upstream_time = Some(self.started.elapsed());
        self.status = status;
    }

    /// Sets the `grpc-status` of headers or trailers.
    pub fn set_grpc_status(&mut self, status: u32) {
        self.grpc_status = Some(status);
    }

    /// The reason given when the record is dropped without an end. [`Reason::DownstreamReset`] at
    /// first: an HTTP server drops what answers a request when its client goes away.
    pub fn set_drop_reason(&mut self, reason: Reason) {
        self.drop_reason = reason;
    }

    /// Ends the request: one log line, one count in each family. `detail` says what the reason code
    /// does not: the error's text.
    pub fn end(mut self, status: u16, reason: Reason, detail: Option<String>) {
        self.status = status;
        self.detail = detail;
        self.finish(reason);
    }

    fn finish(&mut self, reason: Reason) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let outcome = RequestOutcome {
            status: self.status,
            grpc_status: self.grpc_status,
            reason,
            duration: self.started.elapsed(),
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            request_messages: self.received_messages.load(Ordering::Relaxed),
            response_messages: self.sent_messages.load(Ordering::Relaxed),
        };
        self.metrics.count_request(&self.facts, &outcome);
        let end = RequestEnd {
            facts: &self.facts,
            outcome: &outcome,
            started_at: self.started_at,
            upstream: self.upstream,
            upstream_cluster: self.upstream_cluster.as_deref(),
            upstream_time: self.upstream_time,
            policy: self.policy.as_deref(),
            trace_id: self.trace_id.as_deref(),
            detail: self.detail.as_deref(),
        };
        access::request(&self.metrics, &end);
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        self.finish(self.drop_reason);
    }
}
