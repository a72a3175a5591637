//! The record and the spans of one exchange, ended exactly once whoever comes first.

use crate::connection::ConnectionState;
use crate::grpc::MessageCounter;
use mesh_model::{Reason, RouteRuleName};
use mesh_telemetry::{RequestProtocol, RequestRecord, Span};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// One exchange: shared by the body of the request, which travels in the upstream connection's
/// task, and the side of the response, which ends it.
pub(crate) struct Exchange {
    open: RefCell<Option<Open>>,
    /// Bytes of the request body so far.
    received: Cell<u64>,
    /// gRPC messages of the request, when it is gRPC.
    messages: RefCell<Option<MessageCounter>>,
    received_messages: Cell<u64>,
    /// The request's body was read to its end.
    request_done: Cell<bool>,
    connection: Rc<ConnectionState>,
}

struct Open {
    record: RequestRecord,
    server_span: Span,
    client_span: Option<Span>,
    status: u16,
}

impl Exchange {
    /// Counts bytes of the request's body.
    pub(crate) fn count_received(&self, data: &[u8]) {
        let bytes = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.received.set(self.received.get().saturating_add(bytes));
        if let Some(counter) = self.messages.borrow_mut().as_mut() {
            let before = self.received_messages.get();
            self.received_messages.set(before + counter.count(data));
        }
    }

    pub(crate) fn request_done(&self) -> bool {
        self.request_done.get()
    }

    pub(crate) fn set_request_done(&self) {
        self.request_done.set(true);
    }
}

/// The response side's hold on an exchange. Dropped without an end, the client went away, or the
/// connection was cut for the reason that its state carries.
pub(crate) struct ExchangeGuard {
    exchange: Rc<Exchange>,
}

impl ExchangeGuard {
    pub(crate) fn begin(
        record: RequestRecord,
        server_span: Span,
        connection: Rc<ConnectionState>,
    ) -> Self {
        connection.exchange_began();
        let grpc = record.facts().protocol == RequestProtocol::Grpc;
        Self {
            exchange: Rc::new(Exchange {
                open: RefCell::new(Some(Open {
                    record,
                    server_span,
                    client_span: None,
                    status: 0,
                })),
                received: Cell::new(0),
                messages: RefCell::new(grpc.then(MessageCounter::default)),
                received_messages: Cell::new(0),
                request_done: Cell::new(false),
                connection,
            }),
        }
    }

    pub(crate) fn shared(&self) -> &Rc<Exchange> {
        &self.exchange
    }

    /// Changes the record while it is open.
    pub(crate) fn record(&self, change: impl FnOnce(&mut RequestRecord)) {
        if let Some(open) = self.exchange.open.borrow_mut().as_mut() {
            change(&mut open.record);
        }
    }

    /// The rule that took the request.
    pub(crate) fn set_route(&self, rule: &RouteRuleName) {
        if let Some(open) = self.exchange.open.borrow_mut().as_mut() {
            let name = rule.to_string();
            open.record.set_route(&name);
            open.server_span.set("strata.route", name);
        }
    }

    /// Begins the span of the request we send, as part of the one we received.
    pub(crate) fn start_client_span(&self, method: &http::Method, headers: &mut http::HeaderMap) {
        if let Some(open) = self.exchange.open.borrow_mut().as_mut() {
            let kind = mesh_telemetry::SpanKind::Client;
            let span = open.server_span.child(method.as_str(), kind);
            span.inject(headers);
            open.client_span = Some(span);
        }
    }

    /// The head of the response is on its way.
    pub(crate) fn response_started(&self, status: u16) {
        if let Some(open) = self.exchange.open.borrow_mut().as_mut() {
            open.status = status;
            open.record.response_started(status);
        }
    }

    /// Ends the exchange; `status: None` keeps that of the head.
    pub(crate) fn end(&self, status: Option<u16>, reason: Reason, detail: Option<String>) {
        let Some(open) = self.exchange.open.borrow_mut().take() else {
            return;
        };
        let status = status.unwrap_or(open.status);
        open.record.add_received(self.exchange.received.get());
        open.record
            .add_request_messages(self.exchange.received_messages.get());
        if let Some(span) = open.client_span {
            span.end(status, reason);
        }
        open.server_span.end(status, reason);
        open.record.end(status, reason, detail);
        self.exchange.connection.exchange_ended();
    }
}

impl Drop for ExchangeGuard {
    fn drop(&mut self) {
        let reason = self.exchange.connection.cut_reason();
        self.end(None, reason.unwrap_or(Reason::DownstreamReset), None);
    }
}
