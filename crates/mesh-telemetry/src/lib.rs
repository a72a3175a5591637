//! Logs, metric families as types, access records, trace context and OTLP export.
//!
//! One [`ConnectionRecord`] a connection and one [`RequestRecord`] a request: each counts while the
//! traffic flows and gives exactly one end record - a log line and metrics with one reason code -
//! also when it is dropped. Names and labels are those of interop/telemetry.md.

mod access;
mod connection;
mod facts;
mod live;
mod logging;
mod metrics;
mod request;
mod trace_context;
mod tracer;

pub use access::RecordTap;
pub use connection::{ByteCounts, ConnectionRecord};
pub use facts::{
    ConnectionFacts, Direction, Party, Reporter, RequestFacts, RequestProtocol, Security, Transport,
};
pub use live::LiveConnection;
pub use logging::rfc3339;
pub use logging::{LogFormat, LogHandle, LoggingError, init_logging, init_logging_to};
pub use metrics::{Counter, DnsMetrics, DnsQuestion, Gauge, LabelledCounter, Metrics};
pub use request::RequestRecord;
pub use trace_context::{TraceContext, TraceContextError};
pub use tracer::{Span, SpanKind, Tracer, TracerError, TracerSettings};
