//! The metrics of the DNS proxy (interop/telemetry.md section 3).

use super::Metrics;
use super::labels::UNKNOWN;
use crate::live::held;
use mesh_model::Workload;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use std::time::Duration;

/// Upper ends of the buckets of the upstream's time, seconds.
const BUCKETS_S: [f64; 6] = [0.0005, 0.001, 0.01, 0.1, 1.0, 5.0];

/// What is counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DnsLabels {
    request_query_type: &'static str,
    request_protocol: &'static str,
    source_canonical_service: String,
    source_canonical_revision: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OnDemandLabels {
    hostname: String,
}

/// One question, as the metrics see it.
#[derive(Debug, Clone, Copy)]
pub struct DnsQuestion<'a> {
    /// The type in lower case, such as `aaaa`; from a bounded set.
    pub kind: &'static str,
    /// `udp` or `tcp`.
    pub protocol: &'static str,
    /// Who asks, if the control plane has told.
    pub source: Option<&'a Workload>,
}

impl DnsQuestion<'_> {
    fn labels(&self) -> DnsLabels {
        let text = |of: fn(&Workload) -> &str| self.source.map_or(UNKNOWN, of).to_owned();
        DnsLabels {
            request_query_type: self.kind,
            request_protocol: self.protocol,
            source_canonical_service: text(|w| &w.canonical_name),
            source_canonical_revision: text(|w| &w.canonical_revision),
        }
    }
}

/// The families. Clones count into the same numbers.
#[derive(Debug, Clone)]
pub struct DnsMetrics {
    requests: Family<DnsLabels, Counter>,
    upstream_requests: Family<DnsLabels, Counter>,
    upstream_failures: Family<DnsLabels, Counter>,
    upstream_duration: Family<DnsLabels, Histogram, fn() -> Histogram>,
    on_demand: Family<OnDemandLabels, Counter>,
}

impl DnsMetrics {
    /// Registers the families: once a process.
    pub fn new(metrics: &Metrics) -> Self {
        let made = Self {
            requests: Family::default(),
            upstream_requests: Family::default(),
            upstream_failures: Family::default(),
            upstream_duration: Family::new_with_constructor(|| Histogram::new(BUCKETS_S)),
            on_demand: Family::default(),
        };
        let mut registry = held(&metrics.0.registry);
        registry.register(
            "istio_dns_requests",
            "DNS questions of the pods",
            made.requests.clone(),
        );
        registry.register(
            "istio_dns_upstream_requests",
            "DNS questions forwarded",
            made.upstream_requests.clone(),
        );
        registry.register(
            "istio_dns_upstream_failures",
            "DNS questions forwarded and not answered",
            made.upstream_failures.clone(),
        );
        registry.register(
            "istio_dns_upstream_request_duration_seconds",
            "Time until a forwarded DNS question was answered or given up",
            made.upstream_duration.clone(),
        );
        registry.register(
            "istio_on_demand_dns",
            "Look-ups of workloads that are known by host name",
            made.on_demand.clone(),
        );
        drop(registry);
        made
    }

    /// Counts a question.
    pub fn asked(&self, question: DnsQuestion<'_>) {
        self.requests.get_or_create(&question.labels()).inc();
    }

    /// Counts a question as forwarded, and how it went.
    pub fn forwarded(&self, question: DnsQuestion<'_>, failed: bool, took: Duration) {
        let labels = question.labels();
        self.upstream_requests.get_or_create(&labels).inc();
        if failed {
            self.upstream_failures.get_or_create(&labels).inc();
        }
        self.upstream_duration
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// Counts the look-up of a workload's host name. Names are as many as the control plane sends.
    pub fn looked_up(&self, hostname: &str) {
        let hostname = hostname.to_owned();
        let labels = OnDemandLabels { hostname };
        self.on_demand.get_or_create(&labels).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_those_of_the_dashboards() {
        let metrics = Metrics::new("ztunnel");
        let dns = DnsMetrics::new(&metrics);
        let source = Workload::new("u", "demo", "web");
        let question = DnsQuestion {
            kind: "aaaa",
            protocol: "udp",
            source: Some(&source),
        };
        dns.asked(question);
        dns.forwarded(question, true, Duration::from_millis(2));
        dns.looked_up("example.com");
        let text = metrics.encode();
        let labels = "request_query_type=\"aaaa\",request_protocol=\"udp\",\
                      source_canonical_service=\"web\",source_canonical_revision=\"latest\"";
        for line in [
            format!("istio_dns_requests_total{{{labels}}} 1"),
            format!("istio_dns_upstream_requests_total{{{labels}}} 1"),
            format!("istio_dns_upstream_failures_total{{{labels}}} 1"),
            format!("istio_dns_upstream_request_duration_seconds_count{{{labels}}} 1"),
            "istio_on_demand_dns_total{hostname=\"example.com\"} 1".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }
}
