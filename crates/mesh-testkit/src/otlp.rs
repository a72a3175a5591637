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
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Most spans kept; later ones are refused.
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
    scope: Scope,
}

impl Drop for OtlpReceiver {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

#[derive(Debug)]
struct Collector(Spans);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let received = collect(request.into_inner());
        if self.0.borrow().len() + received.len() > SPANS_MAX {
            return Err(Status::resource_exhausted("too many spans"));
        }
        self.0.send_modify(|spans| spans.extend(received));
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
        let service = TraceServiceServer::new(Collector(spans.clone()));
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
            scope,
        }
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
