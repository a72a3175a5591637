//! Access records: the one log line of a connection (interop/telemetry.md section 4) and of a
//! request (section 5).
//!
//! A record is built once as an ordered list of fields and written straight into the log's queue:
//! on the path of every request this costs one buffer and no formatting machinery.

mod line;
#[cfg(test)]
mod tests;

pub use line::RecordTap;
pub(crate) use line::{Line, Tap, Value, write_json_text};

use crate::connection::ByteCounts;
use crate::facts::{ConnectionFacts, Direction, Party, RequestFacts};
use crate::logging;
use crate::metrics::{Metrics, RequestOutcome, request_flag, tcp_flag, upstream_failed};
use mesh_model::{Reason, SpiffeId};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};
use tracing::Level;

/// The log target of access records.
const TARGET: &str = "access";

pub(crate) struct ConnectionEnd<'a> {
    pub(crate) facts: &'a ConnectionFacts,
    pub(crate) counts: &'a ByteCounts,
    pub(crate) id: u64,
    pub(crate) age: Duration,
    pub(crate) reason: Reason,
    pub(crate) detail: Option<&'a str>,
    /// It failed before anything was established.
    pub(crate) early: bool,
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

/// Writes, at DEBUG, that a connection was opened.
pub(crate) fn opened(id: u64, facts: &ConnectionFacts) {
    if !tracing::enabled!(target: TARGET, Level::DEBUG) {
        return;
    }
    let mut line = Line::with_capacity(16);
    parties(&mut line, facts);
    line.put("direction", Value::text(facts.direction.as_str()));
    line.put("connection_id", Value::Number(id));
    logging::write_access(Level::DEBUG, TARGET, "connection opened", &line);
}

/// Writes the end record of a connection. One that failed before it was known who is at either end
/// is written shorter, as a warning: a scan of a port is no error of the mesh.
pub(crate) fn connection(metrics: &Metrics, end: &ConnectionEnd<'_>) {
    let facts = end.facts;
    let unknown = facts.source.workload.is_none() && facts.destination.workload.is_none();
    if end.early && unknown {
        return emit(metrics, Level::WARN, "connection failed", || {
            early_line(end)
        });
    }
    emit(metrics, level(end.reason), "connection complete", || {
        connection_line(end)
    });
}

/// Writes the end record of a request.
pub(crate) fn request(metrics: &Metrics, end: &RequestEnd<'_>) {
    emit(
        metrics,
        level(end.outcome.reason),
        "request complete",
        || request_line(end),
    );
}

const fn level(reason: Reason) -> Level {
    match reason {
        Reason::Ok => Level::INFO,
        _ => Level::ERROR,
    }
}

fn emit<'a>(
    metrics: &Metrics,
    level: Level,
    message: &'static str,
    make: impl FnOnce() -> Line<'a>,
) {
    let logged = match level {
        Level::ERROR => tracing::enabled!(target: TARGET, Level::ERROR),
        Level::WARN => tracing::enabled!(target: TARGET, Level::WARN),
        _ => tracing::enabled!(target: TARGET, Level::INFO),
    };
    if !logged && !metrics.tap().is_open() {
        return;
    }
    let line = make();
    metrics.tap().give(message, &line);
    if logged {
        logging::write_access(level, TARGET, message, &line);
    }
}

/// The error's text: only failures have one, and a failure without text says its code.
fn error_of(reason: Reason, detail: Option<&str>) -> Option<&str> {
    (reason != Reason::Ok).then(|| detail.unwrap_or_else(|| reason.code()))
}

fn connection_line<'a>(end: &ConnectionEnd<'a>) -> Line<'a> {
    let facts = end.facts;
    let (sent, received) = match facts.direction {
        // bytes_* are seen from the reporter (interop/telemetry.md section 4).
        Direction::Outbound => (end.counts.received(), end.counts.sent()),
        Direction::Inbound => (end.counts.sent(), end.counts.received()),
    };
    let mut line = Line::with_capacity(24);
    parties(&mut line, facts);
    line.put("direction", Value::text(facts.direction.as_str()));
    line.put("bytes_sent", Value::Number(sent));
    line.put("bytes_recv", Value::Number(received));
    line.put(
        "duration",
        Value::owned(format!("{}ms", end.age.as_millis())),
    );
    line.optional("error", error_of(end.reason, end.detail).map(Value::text));
    // What follows is ours; what comes before is read by tools made for Istio.
    endings(&mut line, end);
    line.optional("policy", facts.policy.as_deref().map(Value::text));
    line.put("transport", Value::text(facts.transport.as_str()));
    line.optional("tls_group", facts.tls_group.map(Value::text));
    line
}

/// The record of a connection of which only the addresses are known.
fn early_line<'a>(end: &ConnectionEnd<'a>) -> Line<'a> {
    let facts = end.facts;
    let mut line = Line::with_capacity(10);
    line.optional("src.addr", facts.source.address.map(Value::address));
    line.optional("dst.addr", facts.destination.address.map(Value::address));
    line.put("direction", Value::text(facts.direction.as_str()));
    line.optional("error", error_of(end.reason, end.detail).map(Value::text));
    endings(&mut line, end);
    line
}

fn endings(line: &mut Line<'_>, end: &ConnectionEnd<'_>) {
    line.put("reason", Value::text(end.reason.code()));
    line.put("response_flags", Value::text(tcp_flag(end.reason)));
    line.put("reporter", Value::text(end.facts.reporter.as_str()));
    line.put("connection_id", Value::Number(end.id));
}

/// Both ends of a connection and what was asked for, in the order of interop/telemetry.md section 4.
fn parties<'a>(line: &mut Line<'a>, facts: &'a ConnectionFacts) {
    line.optional("src.addr", facts.source.address.map(Value::address));
    party(line, &SOURCE, &facts.source, facts.proven(&facts.source));
    line.optional("dst.addr", facts.destination.address.map(Value::address));
    line.optional(
        "dst.hbone_addr",
        facts.hbone_address.as_deref().map(Value::Authority),
    );
    line.optional(
        "dst.service",
        facts
            .service
            .as_deref()
            .map(|s| Value::text(&s.name.hostname)),
    );
    let proven = facts.proven(&facts.destination);
    party(line, &DESTINATION, &facts.destination, proven);
}

struct PartyKeys {
    workload: &'static str,
    namespace: &'static str,
    identity: &'static str,
    cluster: &'static str,
}

const SOURCE: PartyKeys = PartyKeys {
    workload: "src.workload",
    namespace: "src.namespace",
    identity: "src.identity",
    cluster: "src.cluster",
};

const DESTINATION: PartyKeys = PartyKeys {
    workload: "dst.workload",
    namespace: "dst.namespace",
    identity: "dst.identity",
    cluster: "dst.cluster",
};

/// One party's fields with the identity that may be shown, its address apart: each record has its own place and key for that.
fn party<'a>(
    line: &mut Line<'a>,
    keys: &PartyKeys,
    party: &'a Party,
    identity: Option<&'a SpiffeId>,
) {
    let workload = party.workload.as_deref();
    line.optional(keys.workload, workload.map(|w| Value::text(&w.name)));
    line.optional(keys.namespace, workload.map(|w| Value::text(&w.namespace)));
    line.optional(keys.identity, identity.map(|i| Value::owned(i.to_string())));
    line.optional(
        keys.cluster,
        workload
            .filter(|w| !w.cluster.is_empty())
            .map(|w| Value::text(&w.cluster)),
    );
}

fn request_line<'a>(end: &RequestEnd<'a>) -> Line<'a> {
    let mut line = Line::with_capacity(40);
    envoy_fields(&mut line, end);
    let facts = end.facts;
    let reason = end.outcome.reason;
    line.put("reason", Value::text(reason.code()));
    line.put("reporter", Value::text(facts.reporter.as_str()));
    if let Some(status) = end.outcome.grpc_status {
        line.put("grpc_status", Value::Number(status.into()));
    }
    line.optional("policy", end.policy.map(Value::text));
    line.optional("trace_id", end.trace_id.map(Value::text));
    let (source, destination) = (&facts.source, &facts.destination);
    party(&mut line, &SOURCE, source, source.identity.as_ref());
    line.optional(
        "dst.service",
        facts
            .service
            .as_deref()
            .map(|s| Value::text(&s.name.hostname)),
    );
    party(
        &mut line,
        &DESTINATION,
        destination,
        destination.identity.as_ref(),
    );
    line.optional("error", error_of(reason, end.detail).map(Value::text));
    line
}

/// The keys of Envoy's JSON log, all of them in every line: `null` where nothing is known.
fn envoy_fields<'a>(line: &mut Line<'a>, end: &RequestEnd<'a>) {
    let facts = end.facts;
    let outcome = end.outcome;
    let maybe = |text: &'a Option<String>| text.as_deref().map_or(Value::Missing, Value::text);
    let address = |a: Option<SocketAddr>| a.map_or(Value::Missing, Value::address);
    line.put("start_time", Value::owned(logging::rfc3339(end.started_at)));
    line.put("method", Value::text(&facts.method));
    line.put("path", Value::text(&facts.path));
    line.put("protocol", Value::text(protocol(facts.http_version)));
    line.put("response_code", Value::Number(outcome.status.into()));
    line.put("response_flags", Value::text(request_flag(outcome.reason)));
    line.put("response_code_details", code_details(end));
    line.put("connection_termination_details", Value::Missing);
    let upstream_failure = end.detail.filter(|_| upstream_failed(outcome.reason));
    line.put(
        "upstream_transport_failure_reason",
        upstream_failure.map_or(Value::Missing, Value::text),
    );
    line.put("bytes_received", Value::Number(outcome.received));
    line.put("bytes_sent", Value::Number(outcome.sent));
    line.put("duration", Value::Number(millis(outcome.duration)));
    // Envoy takes this one from a header, so it is text there.
    let upstream_time = end.upstream_time.map(|t| millis(t).to_string());
    line.put(
        "upstream_service_time",
        upstream_time.map_or(Value::Missing, Value::owned),
    );
    line.put("x_forwarded_for", maybe(&facts.forwarded_for));
    line.put("user_agent", maybe(&facts.user_agent));
    line.put("request_id", maybe(&facts.request_id));
    line.put("authority", Value::text(&facts.authority));
    line.put("upstream_host", address(end.upstream));
    line.put(
        "upstream_cluster",
        end.upstream_cluster.map_or(Value::Missing, Value::text),
    );
    line.put("upstream_local_address", Value::Missing);
    line.put("downstream_local_address", address(facts.local_address));
    line.put("downstream_remote_address", address(facts.source.address));
    line.put("requested_server_name", maybe(&facts.server_name));
    line.put("route_name", maybe(&facts.route));
}

fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2",
        http::Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// `response_code_details` in Envoy's words where it has one for the reason.
fn code_details<'a>(end: &RequestEnd<'a>) -> Value<'a> {
    let answered = end.upstream_time.is_some();
    Value::text(match end.outcome.reason {
        Reason::Ok if answered => "via_upstream",
        Reason::Ok => "direct_response",
        Reason::PolicyDenied => {
            let policy = end.policy.unwrap_or("none");
            return Value::owned(format!("rbac_access_denied_matched_policy[{policy}]"));
        }
        Reason::NoRoute => "route_not_found",
        Reason::NoEndpoint => "no_healthy_upstream",
        Reason::ConnectFailed
        | Reason::ConnectTimeout
        | Reason::TlsFailure
        | Reason::CertRevoked => "upstream_reset_before_response_started{connection_failure}",
        Reason::RequestTimeout => "response_timeout",
        Reason::UpstreamReset if answered => {
            "upstream_reset_after_response_started{connection_termination}"
        }
        Reason::UpstreamReset => "upstream_reset_before_response_started{connection_termination}",
        Reason::DownstreamReset => "downstream_remote_disconnect",
        Reason::Overloaded => "overload",
        other => other.code(),
    })
}
