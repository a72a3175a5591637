//! The record of one connection: counts while it lives, one end record when it ends.

use crate::access::{self, ConnectionEnd};
use crate::facts::{ConnectionFacts, Party, Security, Transport};
use crate::live::LiveEntry;
use crate::metrics::{ConnectionHandles, Metrics};
use mesh_model::{Reason, Service};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Bytes carried by a connection so far, and the metrics that follow them.
#[derive(Debug, Default)]
pub struct ByteCounts {
    sent: AtomicU64,
    received: AtomicU64,
    handles: OnceLock<Arc<ConnectionHandles>>,
    /// The counts of the other side's record, where one process has both.
    twin: OnceLock<Arc<Self>>,
}

impl ByteCounts {
    /// Counts bytes from the server to the client ("response").
    pub fn add_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        if let Some(handles) = self.handles.get() {
            handles.sent_bytes.inc_by(bytes);
        }
        if let Some(twin) = self.twin.get() {
            twin.add_sent(bytes);
        }
    }

    /// Counts bytes from the client to the server ("request").
    pub fn add_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        if let Some(handles) = self.handles.get() {
            handles.received_bytes.inc_by(bytes);
        }
        if let Some(twin) = self.twin.get() {
            twin.add_received(bytes);
        }
    }

    /// From now on what is counted here is counted there as well: one stream of bytes, and a record of
    /// each side. The first call counts; the other's counts must not follow these in turn.
    pub fn count_also_in(&self, other: Arc<Self>) {
        self.twin.get_or_init(|| other);
    }

    /// Bytes from the server to the client so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes from the client to the server so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// The record of one connection.
///
/// Make it when the connection is accepted, with the facts known then; fill in the rest with the
/// setters as it becomes known. The labels are taken once: at [`Self::established`], at the first
/// byte, or at the end, whichever comes first. Facts set later show in the log and in the table of
/// open connections only.
///
/// Exactly one end record is given: by [`Self::end`], or by dropping the record.
#[derive(Debug)]
pub struct ConnectionRecord {
    metrics: Metrics,
    facts: Arc<ConnectionFacts>,
    live: Arc<LiveEntry>,
    counts: Arc<ByteCounts>,
    drop_reason: Reason,
    detail: Option<String>,
    ended: bool,
}

impl ConnectionRecord {
    pub(crate) fn begin(metrics: Metrics, facts: ConnectionFacts) -> Self {
        metrics.sockets(facts.reporter, 1);
        let facts = Arc::new(facts);
        let counts = Arc::new(ByteCounts::default());
        let live = metrics.live().open(facts.clone(), counts.clone());
        Self {
            metrics,
            facts,
            live,
            counts,
            drop_reason: Reason::Internal,
            detail: None,
            ended: false,
        }
    }

    /// A number that is unique among the connections of this process.
    pub fn id(&self) -> u64 {
        self.live.id()
    }

    /// The facts as they stand.
    pub fn facts(&self) -> &ConnectionFacts {
        &self.facts
    }

    /// Both ends are connected: counts the connection as opened. Calling it again does nothing.
    pub fn established(&self) {
        self.handles();
    }

    /// The byte counters, for the tasks that move the bytes. Takes the labels.
    pub fn counters(&self) -> Arc<ByteCounts> {
        self.handles();
        self.counts.clone()
    }

    /// Counts bytes from the server to the client ("response"), whichever side reports.
    pub fn add_sent(&self, bytes: u64) {
        self.handles();
        self.counts.add_sent(bytes);
    }

    /// Counts bytes from the client to the server ("request"), whichever side reports.
    pub fn add_received(&self, bytes: u64) {
        self.handles();
        self.counts.add_received(bytes);
    }

    /// Sets who connected.
    pub fn set_source(&mut self, source: Party) {
        self.change(|facts| facts.source = source);
    }

    /// Sets who is connected to.
    pub fn set_destination(&mut self, destination: Party) {
        self.change(|facts| facts.destination = destination);
    }

    /// Sets the service asked for.
    pub fn set_service(&mut self, service: Option<Arc<Service>>) {
        self.change(|facts| facts.service = service);
    }

    /// Sets the authority of the tunnel.
    pub fn set_hbone_address(&mut self, authority: impl Into<String>) {
        let authority = authority.into();
        self.change(|facts| facts.hbone_address = Some(authority));
    }

    /// Sets how the connection is protected.
    pub fn set_security(&mut self, security: Security) {
        self.change(|facts| facts.security = security);
    }

    /// Sets how the bytes travel.
    pub fn set_transport(&mut self, transport: Transport) {
        self.change(|facts| facts.transport = transport);
    }

    /// Sets the key exchange group of the TLS under it.
    pub fn set_tls_group(&mut self, group: Option<&'static str>) {
        self.change(|facts| facts.tls_group = group);
    }

    /// Sets the policy that decided: the one that allowed, or the one that denied.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers give names by value or by reference alike"
    )]
    pub fn set_policy(&mut self, policy: impl ToString) {
        let policy = policy.to_string();
        self.change(|facts| facts.policy = Some(policy));
    }

    /// The reason given when the record is dropped without an end; [`Reason::Internal`] at first.
    pub fn set_drop_reason(&mut self, reason: Reason) {
        self.drop_reason = reason;
    }

    /// Ends the connection: one log line, the closed counter. `detail` says what the reason code
    /// does not: the error's text.
    pub fn end(mut self, reason: Reason, detail: Option<String>) {
        self.detail = detail;
        self.finish(reason);
    }

    fn change(&mut self, change: impl FnOnce(&mut ConnectionFacts)) {
        self.live.change(&mut self.facts, change);
    }

    /// The counters, from the first byte on; the first look-up is the opening.
    fn handles(&self) -> &Arc<ConnectionHandles> {
        self.counts.handles.get_or_init(|| {
            access::opened(self.live.id(), &self.facts);
            self.metrics.open_connection(&self.facts)
        })
    }

    fn finish(&mut self, reason: Reason) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let early = self.counts.handles.get().is_none() && reason != Reason::Ok;
        // A connection that was never established is counted as opened and closed at once, so that
        // the two counters always meet.
        self.counts
            .handles
            .get_or_init(|| self.metrics.open_connection(&self.facts))
            .closed(reason);
        self.metrics.sockets(self.facts.reporter, -1);
        self.metrics.live().close(&self.live);
        let end = ConnectionEnd {
            facts: &self.facts,
            counts: &self.counts,
            id: self.live.id(),
            age: self.live.age(),
            reason,
            detail: self.detail.as_deref(),
            early,
        };
        access::connection(&self.metrics, &end);
    }
}

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        self.finish(self.drop_reason);
    }
}
