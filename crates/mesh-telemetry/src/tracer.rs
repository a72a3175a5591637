//! Spans of requests, exported over OTLP (interop/telemetry.md section 6).

mod bounded;

pub(crate) use bounded::lost;

use crate::trace_context::{TRACEPARENT, TRACESTATE, TraceContext};
use bounded::{Bounded, Counted, Waiting};
use http::{HeaderMap, HeaderValue};
use mesh_model::{Fault, Reason, Workload};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind as OtelKind, Status,
    TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_otlp::{SpanExporter, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span as SdkSpan,
};
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tonic::transport::Channel;

/// Most spans that wait to be exported; further ones are lost. About 2 MiB at 1 KiB a span.
const QUEUE_SPANS_MAX: usize = 2048;
/// Most spans in one export.
const BATCH_SPANS_MAX: usize = 512;
/// How long a span waits for its batch to fill.
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// How long one export may take; the collector's loss must not stop exports for good.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last export may hold up the end of the process.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(2);
/// Most attributes of a span.
const ATTRIBUTES_MAX: u32 = 64;
/// Longest attribute value, in bytes; the rest is cut.
const ATTRIBUTE_BYTES_MAX: usize = 1024;

/// What a span stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// A request this proxy received.
    Server,
    /// A request this proxy sent.
    Client,
}

impl SpanKind {
    const fn otel(self) -> OtelKind {
        match self {
            Self::Server => OtelKind::Server,
            Self::Client => OtelKind::Client,
        }
    }
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
pub struct Tracer(Option<Arc<Exporting>>);

#[derive(Debug)]
struct Exporting {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Drop for Exporting {
    /// The provider's own end waits for a last export. That export may need the very runtime whose
    /// thread drops the tracer, so it happens on another thread.
    fn drop(&mut self) {
        let provider = self.provider.clone();
        let ending = std::thread::Builder::new().name("otlp-end".into());
        // Without a thread the last spans are lost, and nothing else.
        drop(ending.spawn(move || provider.shutdown_with_timeout(SHUTDOWN_WAIT)));
    }
}

impl Tracer {
    /// A tracer that records nothing; trace headers pass through unchanged.
    pub fn off() -> Self {
        Self::default()
    }

    /// A tracer that exports over OTLP gRPC, in batches, from a bounded queue. The channel's
    /// runtime must be one that is never busy with traffic: the control runtime.
    ///
    /// # Errors
    /// When the exporter cannot be built.
    pub fn otlp(channel: Channel, settings: TracerSettings) -> Result<Self, TracerError> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_channel(channel)
            .with_interceptor(|mut request: tonic::Request<()>| {
                request.set_timeout(EXPORT_TIMEOUT);
                Ok(request)
            })
            .build()
            .map_err(|e| TracerError::Exporter(e.to_string()))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_SPANS_MAX)
            .with_max_export_batch_size(BATCH_SPANS_MAX)
            .with_scheduled_delay(BATCH_WAIT)
            .build();
        let waiting = Waiting::default();
        let exporter = Counted {
            next: exporter,
            waiting: waiting.clone(),
            failing: AtomicBool::new(false),
        };
        let processor = Bounded {
            next: BatchSpanProcessor::builder(exporter)
                .with_batch_config(batches)
                .build(),
            waiting,
            spans_max: QUEUE_SPANS_MAX,
        };
        let sampler = Sampler::TraceIdRatioBased(settings.sample_ratio.clamp(0.0, 1.0));
        let resource = Resource::builder_empty()
            .with_attribute(KeyValue::new("service.name", settings.service_name))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(sampler)))
            .with_max_attributes_per_span(ATTRIBUTES_MAX)
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("strata");
        Ok(Self(Some(Arc::new(Exporting { provider, tracer }))))
    }

    /// Whether spans are made at all.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a span whose parent is the `traceparent` of the headers, or a new trace.
    pub fn start(&self, parent: &HeaderMap, name: impl Into<String>, kind: SpanKind) -> Span {
        let Some(exporting) = &self.0 else {
            return Span(None);
        };
        let context = remote_parent(parent).map_or_else(Context::new, |parent| {
            Context::new().with_remote_span_context(parent)
        });
        Span::begin(exporting, &context, name.into(), kind)
    }

    /// Exports what is queued, waiting 2 s at most. For the end of the process. The runtime goes on
    /// meanwhile, which the export needs.
    pub async fn shutdown(&self) {
        let Some(exporting) = &self.0 else {
            return;
        };
        let provider = exporting.provider.clone();
        let (done, ended) = tokio::sync::oneshot::channel();
        let ending = std::thread::Builder::new().name("otlp-end".into());
        let started = ending.spawn(move || {
            let result = provider.shutdown_with_timeout(SHUTDOWN_WAIT);
            // The waiting side may be gone.
            let _gone = done.send(result);
        });
        match started {
            Ok(_thread) => match ended.await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the last spans could not be exported"),
            },
            Err(error) => tracing::warn!(%error, "the last spans could not be exported"),
        }
    }
}

/// Reads the position that the headers carry.
fn remote_parent(headers: &HeaderMap) -> Option<SpanContext> {
    let parent = TraceContext::of(headers)?;
    let state = headers
        .get(TRACESTATE)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| TraceState::from_str(text).ok())
        .unwrap_or_default();
    Some(SpanContext::new(
        TraceId::from(parent.trace_id),
        SpanId::from(parent.span_id),
        TraceFlags::new(u8::from(parent.sampled)),
        true,
        state,
    ))
}

#[derive(Debug)]
struct Recording {
    span: SdkSpan,
    exporting: Arc<Exporting>,
}

/// A span. It ends when dropped, or with a status by [`Self::end`].
#[derive(Debug)]
pub struct Span(Option<Box<Recording>>);

impl Span {
    fn begin(exporting: &Arc<Exporting>, parent: &Context, name: String, kind: SpanKind) -> Self {
        let span = SpanBuilder::from_name(name)
            .with_kind(kind.otel())
            .start_with_context(&exporting.tracer, parent);
        Self(Some(Box::new(Recording {
            span,
            exporting: exporting.clone(),
        })))
    }

    /// Begins a span within this one.
    pub fn child(&self, name: impl Into<String>, kind: SpanKind) -> Self {
        let Some(recording) = &self.0 else {
            return Self(None);
        };
        let parent = recording.span.span_context().clone();
        let context = Context::new().with_remote_span_context(parent);
        Self::begin(&recording.exporting, &context, name.into(), kind)
    }

    /// Its place in the trace; `None` when tracing is off.
    pub fn context(&self) -> Option<TraceContext> {
        let context = self.0.as_ref()?.span.span_context();
        Some(TraceContext {
            trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(context.span_id().to_bytes()),
            sampled: context.is_sampled(),
        })
    }

    /// Makes the span the parent of what receives the headers. Tracing off: leaves them as they are.
    pub fn inject(&self, headers: &mut HeaderMap) {
        let (Some(context), Some(recording)) = (self.context(), &self.0) else {
            return;
        };
        // The text is ASCII, so it is always a header value.
        if let Ok(value) = HeaderValue::from_str(&context.to_string()) {
            headers.insert(TRACEPARENT, value);
        }
        let state = recording.span.span_context().trace_state().header();
        match HeaderValue::from_str(&state) {
            Ok(value) if !state.is_empty() => drop(headers.insert(TRACESTATE, value)),
            _ => drop(headers.remove(TRACESTATE)),
        }
    }

    /// Sets a text attribute; over 1 KiB it is cut.
    pub fn set(&mut self, key: &'static str, value: impl Into<String>) {
        if let Some(recording) = self.recording() {
            let mut text: String = value.into();
            if text.len() > ATTRIBUTE_BYTES_MAX {
                text.truncate(text.floor_char_boundary(ATTRIBUTE_BYTES_MAX));
            }
            recording.span.set_attribute(KeyValue::new(key, text));
        }
    }

    /// Sets a number attribute.
    pub fn set_number(&mut self, key: &'static str, value: i64) {
        if let Some(recording) = self.recording() {
            recording
                .span
                .set_attribute(KeyValue::new(key, Value::I64(value)));
        }
    }

    /// Sets the tags that tell whose proxy made the span: `istio.canonical_service`,
    /// `istio.canonical_revision`, `istio.namespace`, `istio.cluster_id`.
    pub fn set_workload(&mut self, workload: &Workload) {
        self.set("istio.canonical_service", &*workload.canonical_name);
        self.set("istio.canonical_revision", &*workload.canonical_revision);
        self.set("istio.namespace", &*workload.namespace);
        self.set("istio.cluster_id", &*workload.cluster);
    }

    /// Sets `http.request.method` and `url.path` (without the query, which may hold secrets).
    pub fn set_request(&mut self, method: &http::Method, uri: &http::Uri) {
        self.set("http.request.method", method.as_str());
        self.set("url.path", uri.path());
    }

    /// Ends the span with the HTTP status (0: none was sent) and the reason (`strata.reason`). A
    /// server error, or a reason that is not the client's own fault, makes it an error.
    pub fn end(mut self, status: u16, reason: Reason) {
        if status > 0 {
            self.set_number("http.response.status_code", status.into());
        }
        self.set("strata.reason", reason.code());
        let fault = matches!(reason.fault(), Fault::Upstream | Fault::Us);
        if let Some(recording) = self.recording()
            && (status >= 500 || fault)
        {
            recording.span.set_status(Status::error(reason.code()));
        }
        if let Some(mut recording) = self.0.take() {
            recording.span.end();
        }
    }

    /// The recording, when the span is sampled: an unsampled one needs no attributes.
    fn recording(&mut self) -> Option<&mut Recording> {
        self.0
            .as_deref_mut()
            .filter(|recording| recording.span.is_recording())
    }
}
