//! The two bodies of an exchange: streamed, counted, and the end of the response ends the record.

use crate::grpc::MessageCounter;
use crate::record::{Exchange, ExchangeGuard};
use crate::tunnel::Revoked;
use crate::upstream::{Lease, lost_reason};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use mesh_model::Reason;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::time::Sleep;

/// Why a body ended before its end. The codec cuts the stream or connection, so the client never
/// takes a part for the whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The far side's body failed.
    #[error("upstream body: {0}")]
    Upstream(hyper::Error),
    /// We ended it.
    #[error("ended: {0}")]
    Ended(Reason),
}

/// A request's body on its way up. Reading it is the back-pressure: the upstream connection polls
/// it when there is room.
pub(crate) struct RequestBody {
    inner: Option<Incoming>,
    exchange: Rc<Exchange>,
}

impl RequestBody {
    pub(crate) fn new(inner: Incoming, exchange: Rc<Exchange>) -> Self {
        if inner.is_end_stream() {
            exchange.set_request_done();
        }
        Self {
            inner: Some(inner),
            exchange,
        }
    }

    /// No body, for a request that is sent a second time.
    pub(crate) fn empty(exchange: Rc<Exchange>) -> Self {
        Self {
            inner: None,
            exchange,
        }
    }

    pub(crate) fn exchange(&self) -> &Rc<Exchange> {
        &self.exchange
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
        let ended = inner.is_end_stream();
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.exchange.count_received(data);
                }
                if ended {
                    self.exchange.set_request_done();
                }
            }
            None => self.exchange.set_request_done(),
            Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A response's body on its way down.
pub(crate) struct ResponseBody(Kind);

enum Kind {
    Text(Option<Bytes>),
    Upstream(Box<UpstreamBody>),
}

struct UpstreamBody {
    inner: Incoming,
    guard: Option<ExchangeGuard>,
    /// The upstream connection, given back when the body has ended well.
    lease: Option<Lease>,
    deadline: Option<Pin<Box<Sleep>>>,
    revoked: Option<Revoked>,
    /// Of a gRPC response.
    messages: Option<MessageCounter>,
}

impl ResponseBody {
    /// A text of ours; empty for none.
    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        let text: Bytes = text.into();
        Self(Kind::Text((!text.is_empty()).then_some(text)))
    }

    /// The upstream's body. Its end, its failure or its being dropped ends the exchange.
    pub(crate) fn upstream(
        inner: Incoming,
        guard: ExchangeGuard,
        lease: Lease,
        deadline: Option<tokio::time::Instant>,
        revoked: Option<Revoked>,
        grpc: bool,
    ) -> Self {
        let mut body = UpstreamBody {
            inner,
            guard: Some(guard),
            lease: Some(lease),
            deadline: None,
            revoked: None,
            messages: grpc.then(MessageCounter::default),
        };
        if body.inner.is_end_stream() {
            body.finish(Reason::Ok, None);
        } else {
            body.deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at)));
            body.revoked = revoked;
        }
        Self(Kind::Upstream(Box::new(body)))
    }
}

impl UpstreamBody {
    fn finish(&mut self, reason: Reason, detail: Option<String>) {
        let Some(guard) = self.guard.take() else {
            return;
        };
        self.revoked = None;
        self.deadline = None;
        if let Some(lease) = self.lease.take().filter(|_| reason == Reason::Ok) {
            lease.release(guard.shared().request_done());
        }
        guard.end(None, reason, detail);
    }

    fn count(&mut self, frame: &Frame<Bytes>) {
        let Some(guard) = &self.guard else { return };
        if let Some(data) = frame.data_ref() {
            let bytes = u64::try_from(data.len()).unwrap_or(u64::MAX);
            let messages = self.messages.as_mut().map_or(0, |m| m.count(data));
            guard.record(|record| {
                record.add_sent(bytes);
                record.add_response_messages(messages);
            });
        }
        if let Some(trailers) = frame.trailers_ref() {
            note_grpc_status(guard, trailers);
        }
    }

    /// Whether we end the body ourselves.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Option<(Reason, Option<String>)> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            let detail = "the response was not complete in time";
            return Some((Reason::RequestTimeout, Some(detail.into())));
        }
        if let Some(revoked) = &mut self.revoked
            && let Poll::Ready((reason, detail)) = revoked.as_mut().poll(cx)
        {
            return Some((reason, Some(detail)));
        }
        None
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some((reason, detail)) = self.poll_ended(cx) {
            self.finish(reason, detail);
            return Poll::Ready(Some(Err(BodyError::Ended(reason))));
        }
        match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => {
                self.count(&frame);
                if self.inner.is_end_stream() {
                    self.finish(Reason::Ok, None);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.finish(Reason::Ok, None);
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                self.finish(lost_reason(&error), Some(error.to_string()));
                Poll::Ready(Some(Err(BodyError::Upstream(error))))
            }
        }
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        // The codec drops a body of known length once it has its last byte, without asking for more.
        if self.inner.is_end_stream() {
            self.finish(Reason::Ok, None);
        }
    }
}

/// Takes `grpc-status` of headers or trailers into the record.
pub(crate) fn note_grpc_status(guard: &ExchangeGuard, headers: &HeaderMap) {
    let status = headers
        .get("grpc-status")
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse().ok());
    if let Some(status) = status {
        guard.record(|record| record.set_grpc_status(status));
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Text(text) => Poll::Ready(text.take().map(|t| Ok(Frame::data(t)))),
            Kind::Upstream(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Text(text) => text.is_none(),
            Kind::Upstream(body) => body.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Text(text) => {
                let length = text.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Kind::Upstream(body) => body.inner.size_hint(),
        }
    }
}
