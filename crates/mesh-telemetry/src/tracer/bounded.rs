//! The bound on spans that wait for their export, and the count of those that were lost.
//!
//! The library's own queue is bounded too, but tells nobody what it lost. Here the places of the
//! queue are counted in front of it, and each failed export behind it.

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

static LOST: AtomicU64 = AtomicU64::new(0);

/// Spans lost since the process began: the queue was full, or the collector did not take them.
pub(crate) fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

fn lose(spans: usize) {
    LOST.fetch_add(spans.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Spans between the end of a request and the start of their export.
pub(super) type Waiting = Arc<AtomicUsize>;

/// Takes a span only when there is a place for it.
#[derive(Debug)]
pub(super) struct Bounded<P> {
    pub(super) next: P,
    pub(super) waiting: Waiting,
    pub(super) spans_max: usize,
}

impl<P: SpanProcessor> SpanProcessor for Bounded<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.next.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.spans_max {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            lose(1);
            return;
        }
        self.next.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.next.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.next.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.next.set_resource(resource);
    }
}

/// Frees the places, counts failures, and says when exports begin to fail and when they work again.
#[derive(Debug)]
pub(super) struct Counted<E> {
    pub(super) next: E,
    pub(super) waiting: Waiting,
    pub(super) failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        let result = self.next.export(batch).await;
        match &result {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("spans are exported again");
                }
            }
            Err(error) => {
                lose(spans);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "spans cannot be exported and are lost");
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.next.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.next.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.next.set_resource(resource);
    }
}
