//! A receiver of OTLP spans over gRPC that answers questions about them.

use mesh_net::{ListenOptions, listen};
use mesh_runtime::Scope;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Most spans kept. Of later ones only those of a trace that was asked for are.
const SPANS_MAX: usize = 100_000;

/// One span as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectedSpan {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
    /// 16 hex digits; `None` for the first span of a trace.
    pub parent_span_id: Option<String>,
    /// Name.
    pub name: String,
    /// `service.name` of the process that made it.
    pub service: String,
    /// `server`, `client` or `other`.
    pub kind: &'static str,
    /// Attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// The span's status is an error.
    pub error: bool,
}

type Spans = watch::Sender<Vec<CollectedSpan>>;

/// Receives spans until it is dropped.
#[derive(Debug)]
pub struct OtlpReceiver {
    address: SocketAddr,
    spans: Spans,
    wanted: Wanted,
    scope: Scope,
}

impl Drop for OtlpReceiver {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

/// Traces that are kept however many spans there are.
type Wanted = Arc<Mutex<BTreeSet<String>>>;

#[derive(Debug)]
struct Collector {
    spans: Spans,
    wanted: Wanted,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut received = collect(request.into_inner());
        if self.spans.borrow().len() + received.len() > SPANS_MAX {
            let wanted = self.wanted.lock().unwrap();
            received.retain(|span| wanted.contains(&span.trace_id));
        }
        self.spans.send_modify(|spans| spans.extend(received));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn collect(request: ExportTraceServiceRequest) -> Vec<CollectedSpan> {
    let mut collected = Vec::new();
    for of_resource in request.resource_spans {
        let attributes = of_resource.resource.map(|r| texts(r.attributes));
        let service = attributes
            .and_then(|mut a| a.remove("service.name"))
            .unwrap_or_default();
        let spans = of_resource.scope_spans.into_iter().flat_map(|s| s.spans);
        collected.extend(spans.map(|span| read(&service, span)));
    }
    collected
}

fn read(service: &str, span: Span) -> CollectedSpan {
    CollectedSpan {
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent_span_id: Some(hex(&span.parent_span_id)).filter(|id| !id.is_empty()),
        kind: match span.kind() {
            SpanKind::Server => "server",
            SpanKind::Client => "client",
            _ => "other",
        },
        error: span
            .status
            .as_ref()
            .is_some_and(|s| s.code() == StatusCode::Error),
        name: span.name,
        service: service.to_owned(),
        attributes: texts(span.attributes),
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<Value>| match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes
        .into_iter()
        .map(|a| (a.key, text(a.value.and_then(|v| v.value))))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl OtlpReceiver {
    /// Listens on a free port of loopback. Must be called within a tokio runtime.
    pub fn start() -> Self {
        let options = ListenOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        Self::start_on(listen(&options).unwrap())
    }

    /// Takes connections of a listener made elsewhere, such as in another network namespace.
    pub fn start_on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let spans = watch::Sender::new(Vec::new());
        let scope = Scope::new();
        let wanted = Wanted::default();
        let service = TraceServiceServer::new(Collector {
            spans: spans.clone(),
            wanted: wanted.clone(),
        });
        scope.spawn("otlp-receiver", async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self {
            address,
            spans,
            wanted,
            scope,
        }
    }

    /// Keeps the spans of a trace, 32 hex digits, also past the bound on all others: a test finds its
    /// trace whatever load ran before it.
    pub fn keep(&self, trace_id: &str) {
        self.wanted.lock().unwrap().insert(trace_id.to_owned());
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as an `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every span so far, in order of arrival.
    pub fn spans(&self) -> Vec<CollectedSpan> {
        self.spans.borrow().clone()
    }

    /// Waits until the spans received meet a condition, and gives them. Panics, with what was
    /// received, when they do not in the time given.
    pub async fn wait_for(
        &self,
        what: &str,
        wait: Duration,
        mut met: impl FnMut(&[CollectedSpan]) -> bool,
    ) -> Vec<CollectedSpan> {
        let mut spans = self.spans.subscribe();
        let found = tokio::time::timeout(wait, spans.wait_for(|s| met(s))).await;
        match found {
            Ok(Ok(spans)) => spans.clone(),
            Ok(Err(_)) | Err(_) => panic!("no {what} within {wait:?}: {:#?}", self.spans()),
        }
    }

    /// The span that a span was made within; `None` for the first of a trace, or when the parent
    /// was not received.
    pub fn parent_of(&self, span: &CollectedSpan) -> Option<CollectedSpan> {
        let spans = self.spans.borrow();
        parent_among(&spans, span).cloned()
    }

    /// A span and those around it, innermost first, as `service: name`.
    pub fn ancestry_of(&self, span: &CollectedSpan) -> Vec<String> {
        let spans = self.spans.borrow();
        ancestry_among(&spans, span)
            .into_iter()
            .map(|s| format!("{}: {}", s.service, s.name))
            .collect()
    }
}

/// The parent of a span among others.
pub fn parent_among<'a>(
    spans: &'a [CollectedSpan],
    span: &CollectedSpan,
) -> Option<&'a CollectedSpan> {
    let parent = span.parent_span_id.as_deref()?;
    spans
        .iter()
        .find(|s| s.trace_id == span.trace_id && s.span_id == parent)
}

/// A span and those around it, innermost first. A loop of parents ends at its second round.
pub fn ancestry_among<'a>(
    spans: &'a [CollectedSpan],
    span: &'a CollectedSpan,
) -> Vec<&'a CollectedSpan> {
    let mut line = vec![span];
    let mut next = parent_among(spans, span);
    while let Some(parent) = next.filter(|p| !line.contains(p)) {
        line.push(parent);
        next = parent_among(spans, parent);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};

    fn request(trace: u8, count: usize) -> Request<ExportTraceServiceRequest> {
        let span = Span {
            trace_id: vec![trace; 16],
            ..Span::default()
        };
        Request::new(ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                scope_spans: vec![ScopeSpans {
                    spans: vec![span; count],
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        })
    }

    #[tokio::test]
    async fn a_trace_that_was_asked_for_is_kept_past_the_bound() {
        let receiver = OtlpReceiver::start();
        let kept = hex(&[7; 16]);
        receiver.keep(&kept);
        let collector = Collector {
            spans: receiver.spans.clone(),
            wanted: receiver.wanted.clone(),
        };
        collector.export(request(1, SPANS_MAX)).await.unwrap();
        collector.export(request(2, 5)).await.unwrap();
        collector.export(request(7, 3)).await.unwrap();
        let spans = receiver.spans();
        assert_eq!(spans.len(), SPANS_MAX + 3);
        assert!(spans.iter().rev().take(3).all(|s| s.trace_id == kept));
    }
}
