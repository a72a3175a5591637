//! The metric families and the registry that shows them.

mod custom;
mod dns;
mod labels;
mod process;
mod traffic;

pub use custom::{Counter, Gauge, LabelledCounter};
pub use dns::{DnsMetrics, DnsQuestion};
pub(crate) use traffic::ConnectionHandles;

use crate::access::{RecordTap, Tap};
use crate::connection::ConnectionRecord;
use crate::facts::{ConnectionFacts, Reporter, RequestFacts};
use crate::live::{LiveConnection, LiveTable, held};
use crate::request::RequestRecord;
use custom::Customs;
use labels::{RequestLabels, TrafficLabels};
use mesh_model::{Fault, Reason};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge as AtomicGauge;
use prometheus_client::registry::Registry;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use traffic::{Traffic, TrafficCollector};

/// What is known of a request at its end.
#[derive(Debug)]
pub(crate) struct RequestOutcome {
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u32>,
    pub(crate) reason: Reason,
    pub(crate) duration: Duration,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) request_messages: u64,
    pub(crate) response_messages: u64,
}

/// The metrics of one process, and where its records begin. Clones are the same registry.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Shared>);

type ReporterLabel = [(&'static str, &'static str); 1];

#[derive(Debug)]
struct Shared {
    registry: Mutex<Registry>,
    customs: Mutex<Customs>,
    traffic: Arc<Traffic>,
    sockets: Family<ReporterLabel, AtomicGauge>,
    live: LiveTable,
    tap: Tap,
}

impl Metrics {
    /// A registry of the families of interop/telemetry.md, with `istio_build` for the component.
    pub fn new(component: &str) -> Self {
        let mut registry = Registry::default();
        let build: Family<Vec<(&str, String)>, AtomicGauge> = Family::default();
        let labels = vec![
            ("component", component.to_owned()),
            ("tag", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        build.get_or_create(&labels).set(1);
        registry.register("istio_build", "Component and version", build);
        let sockets = Family::default();
        registry.register(
            "istio_tcp_sockets_open",
            "Open connections",
            sockets.clone(),
        );
        let traffic = Arc::new(Traffic::new());
        registry.register_collector(Box::new(TrafficCollector(traffic.clone())));
        registry.register_collector(Box::new(process::ProcessCollector));
        Self(Arc::new(Shared {
            registry: Mutex::new(registry),
            customs: Mutex::default(),
            traffic,
            sockets,
            live: LiveTable::new(),
            tap: Tap::default(),
        }))
    }

    /// Every metric in OpenMetrics text, for `/metrics` and `/stats/prometheus`.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = held(&self.0.registry);
        // Writing to a String cannot fail; an error would come from a collector and cut the text.
        if prometheus_client::encoding::text::encode(&mut text, &registry).is_err() {
            tracing::error!("the metrics could not be written in full");
        }
        text
    }

    /// Begins the record of a connection.
    pub fn connection(&self, facts: ConnectionFacts) -> ConnectionRecord {
        ConnectionRecord::begin(self.clone(), facts)
    }

    /// Begins the record of a request.
    pub fn request(&self, facts: RequestFacts) -> RequestRecord {
        RequestRecord::begin(self.clone(), facts)
    }

    /// Every open connection, oldest first, for `/debug/connections`.
    pub fn open_connections(&self) -> Vec<LiveConnection> {
        self.live().list()
    }

    /// The end records from now on, as JSON objects with the keys of the log, whatever the log's
    /// filter. At most `capacity` wait to be read; further ones are lost. A new tap replaces the old.
    pub fn tap_records(&self, capacity: usize) -> RecordTap {
        self.0.tap.open(capacity)
    }

    /// A counter under a name of the component's own, without `_total`. The same name gives the
    /// same counter.
    pub fn counter(&self, name: &'static str, help: &str) -> Counter {
        held(&self.0.customs).counter(&mut held(&self.0.registry), name, help)
    }

    /// A gauge under a name of the component's own. The same name gives the same gauge.
    pub fn gauge(&self, name: &'static str, help: &str) -> Gauge {
        held(&self.0.customs).gauge(&mut held(&self.0.registry), name, help)
    }

    /// A counter with one label, under a name without `_total`. The same name gives the same
    /// counter.
    pub fn labelled_counter(
        &self,
        name: &'static str,
        help: &str,
        label: &'static str,
    ) -> LabelledCounter {
        held(&self.0.customs).labelled(&mut held(&self.0.registry), name, help, label)
    }

    pub(crate) fn live(&self) -> &LiveTable {
        &self.0.live
    }

    pub(crate) fn tap(&self) -> &Tap {
        &self.0.tap
    }

    /// Counts sockets of a side up or down.
    pub(crate) fn sockets(&self, reporter: Reporter, by: i64) {
        let label = [("reporter", reporter.as_str())];
        self.0.sockets.get_or_create(&label).inc_by(by);
    }

    /// Looks up the counters of a connection's labels and counts it as opened.
    pub(crate) fn open_connection(&self, facts: &ConnectionFacts) -> Arc<ConnectionHandles> {
        let handles = self
            .0
            .traffic
            .connection(TrafficLabels::of_connection(facts));
        handles.opened();
        handles
    }

    pub(crate) fn count_request(&self, facts: &RequestFacts, outcome: &RequestOutcome) {
        let handles = self.0.traffic.request(RequestLabels {
            traffic: TrafficLabels::of_request(facts),
            protocol: facts.protocol,
            status: outcome.status,
            flag: request_flag(outcome.reason),
            grpc_status: outcome.grpc_status,
        });
        handles.requests.inc();
        handles
            .duration_ms
            .observe(outcome.duration.as_secs_f64() * 1000.0);
        handles.request_bytes.observe(bytes(outcome.received));
        handles.response_bytes.observe(bytes(outcome.sent));
        handles.request_messages.inc_by(outcome.request_messages);
        handles.response_messages.inc_by(outcome.response_messages);
    }
}

/// A size as a float. Past 2^53 the last digits are lost, which no histogram shows.
#[expect(
    clippy::cast_precision_loss,
    reason = "sizes past 2^53 bytes are rounded"
)]
fn bytes(count: u64) -> f64 {
    count as f64
}

/// The response flag of a connection: one of those that Istio's ztunnel knows
/// (interop/telemetry.md section 3), so that what is made for it finds every failure. The reason's
/// code, which tells more, is a label of its own.
pub(crate) fn tcp_flag(reason: Reason) -> &'static str {
    match reason {
        // The client went, or we did: nothing failed to be reached.
        Reason::DownstreamReset | Reason::Drained => "-",
        // The tunnel was there; what it should lead to was not given.
        Reason::TunnelRefused => "CONNECT",
        other => match other.response_flag() {
            flag @ ("-"
            | "DENY"
            | "TLS_FAILURE"
            | "H2_HANDSHAKE_FAILURE"
            | "NETWORK_POLICY"
            | "IDENTITY_ERROR"
            | "CERT_REVOKED") => flag,
            _ => "CONNECT",
        },
    }
}

/// The response flag of a request: Envoy's own, which users grep for (interop/telemetry.md 5). It
/// differs from the flag of a connection where ztunnel and Envoy differ.
pub(crate) fn request_flag(reason: Reason) -> &'static str {
    match reason {
        Reason::PolicyDenied | Reason::PolicyUnavailable | Reason::PolicyRevoked => "-",
        Reason::ConnectFailed
        | Reason::ConnectTimeout
        | Reason::TlsFailure
        | Reason::CertRevoked
        | Reason::TunnelFailure
        | Reason::TunnelRefused
        | Reason::NoIdentity => "UF",
        other => other.response_flag(),
    }
}

/// Whether a failure is the upstream's.
pub(crate) fn upstream_failed(reason: Reason) -> bool {
    reason.fault() == Fault::Upstream
}

#[cfg(test)]
mod tests;
