//! The traffic families: one table of series for connections, one for requests.
//!
//! A series is looked up once a connection or request; after that its counters are bare atomics.
//! The tables are bounded: traffic beyond the bound is counted under collapsed labels, and how often
//! that happened is itself a metric.

use super::labels::{RequestLabels, TcpSeries, TrafficLabels};
use super::tcp_flag;
use crate::live::held;
use mesh_model::Reason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{MetricType, TypedMetric};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Most series of one kind. At about 1 KiB a label set this bounds a table to some 16 MiB.
pub(super) const SERIES_MAX: usize = 16 * 1024;
/// Upper bounds of the histograms, milliseconds or bytes: those of Istio's proxies, so that
/// existing dashboards and recording rules keep their buckets.
const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
/// The flag of series that exist before a connection's end is known.
const NO_FLAG: &str = "-";

/// The counters of the connections that share their labels.
#[derive(Debug, Default)]
pub(crate) struct ConnectionHandles {
    pub(crate) sent_bytes: Counter,
    pub(crate) received_bytes: Counter,
    opened: Counter,
    /// By the reason's code.
    ended: Mutex<BTreeMap<&'static str, Ended>>,
}

#[derive(Debug, Clone)]
struct Ended {
    flag: &'static str,
    closed: Counter,
    failed: Counter,
}

impl Ended {
    fn of(reason: Reason) -> Self {
        Self {
            flag: tcp_flag(reason),
            closed: Counter::default(),
            failed: Counter::default(),
        }
    }
}

impl ConnectionHandles {
    pub(crate) fn opened(&self) {
        self.opened.inc();
    }

    pub(crate) fn closed(&self, reason: Reason) {
        let ended = held(&self.ended)
            .entry(reason.code())
            .or_insert_with(|| Ended::of(reason))
            .clone();
        ended.closed.inc();
        if never_served(reason) {
            ended.failed.inc();
        }
    }
}

/// Whether a connection that ended so was never served, as against one that was cut later.
fn never_served(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::Ok
            | Reason::DownstreamReset
            | Reason::UpstreamReset
            | Reason::Drained
            | Reason::PolicyRevoked
    )
}

/// The counters of the requests that share their labels.
#[derive(Debug)]
pub(crate) struct RequestHandles {
    pub(crate) requests: Counter,
    pub(crate) duration_ms: Histogram,
    pub(crate) request_bytes: Histogram,
    pub(crate) response_bytes: Histogram,
    pub(crate) request_messages: Counter,
    pub(crate) response_messages: Counter,
}

impl Default for RequestHandles {
    fn default() -> Self {
        Self {
            requests: Counter::default(),
            duration_ms: Histogram::new(BUCKETS),
            request_bytes: Histogram::new(BUCKETS),
            response_bytes: Histogram::new(BUCKETS),
            request_messages: Counter::default(),
            response_messages: Counter::default(),
        }
    }
}

#[derive(Debug)]
struct Table<K, V> {
    series: RwLock<HashMap<K, Arc<V>>>,
}

impl<K: Eq + Hash, V: Default> Table<K, V> {
    fn new() -> Self {
        Self {
            series: RwLock::new(HashMap::new()),
        }
    }

    fn find(&self, key: &K) -> Option<Arc<V>> {
        let series = self.series.read().unwrap_or_else(PoisonError::into_inner);
        series.get(key).cloned()
    }

    /// The series, made when there is room or when it is a collapsed one; `None`: no room.
    fn make(&self, key: K, collapsed: bool) -> Option<Arc<V>> {
        let mut series = self.series.write().unwrap_or_else(PoisonError::into_inner);
        if series.len() >= SERIES_MAX && !collapsed && !series.contains_key(&key) {
            return None;
        }
        Some(series.entry(key).or_default().clone())
    }

    fn list(&self) -> Vec<(K, Arc<V>)>
    where
        K: Clone,
    {
        let series = self.series.read().unwrap_or_else(PoisonError::into_inner);
        series.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

/// All traffic series of the process.
#[derive(Debug)]
pub(crate) struct Traffic {
    connections: Table<TrafficLabels, ConnectionHandles>,
    requests: Table<RequestLabels, RequestHandles>,
    collapsed: Counter,
}

impl Traffic {
    pub(crate) fn new() -> Self {
        Self {
            connections: Table::new(),
            requests: Table::new(),
            collapsed: Counter::default(),
        }
    }

    pub(crate) fn connection(&self, labels: TrafficLabels) -> Arc<ConnectionHandles> {
        if let Some(found) = self.connections.find(&labels) {
            return found;
        }
        let fallback = labels.collapsed();
        self.connections.make(labels, false).unwrap_or_else(|| {
            self.collapsed.inc();
            self.connections.make(fallback, true).unwrap_or_default()
        })
    }

    pub(crate) fn request(&self, labels: RequestLabels) -> Arc<RequestHandles> {
        if let Some(found) = self.requests.find(&labels) {
            return found;
        }
        let mut fallback = labels.clone();
        fallback.traffic = labels.traffic.collapsed();
        self.requests.make(labels, false).unwrap_or_else(|| {
            self.collapsed.inc();
            self.requests.make(fallback, true).unwrap_or_default()
        })
    }
}

/// One series of one family.
type Series<L, M> = (L, M);

fn family<L: EncodeLabelSet, M: EncodeMetric>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    series: impl Iterator<Item = Series<L, M>>,
) -> fmt::Result {
    let mut family = to.encode_descriptor(name, help, None, kind)?;
    for (labels, metric) in series {
        metric.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[derive(Debug)]
pub(crate) struct TrafficCollector(pub(crate) Arc<Traffic>);

impl Collector for TrafficCollector {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let connections = self.0.connections.list();
        tcp_families(&mut to, &connections)?;
        ended_families(&mut to, &connections)?;
        let requests = self.0.requests.list();
        request_families(&mut to, &requests)?;
        message_families(&mut to, &requests)?;
        let collapsed = to.encode_descriptor(
            "strata_metric_series_collapsed",
            "Connections and requests counted without their own labels, as the table of series is full.",
            None,
            Counter::<u64>::TYPE,
        )?;
        self.0.collapsed.encode(collapsed)
    }
}

type Connections = [(TrafficLabels, Arc<ConnectionHandles>)];
type Requests = [(RequestLabels, Arc<RequestHandles>)];

fn tcp_families(to: &mut DescriptorEncoder<'_>, connections: &Connections) -> fmt::Result {
    type Field = fn(&ConnectionHandles) -> &Counter;
    let families: [(&str, &str, Field); 3] = [
        ("istio_tcp_connections_opened", "Connections opened.", |c| {
            &c.opened
        }),
        (
            "istio_tcp_sent_bytes",
            "Bytes sent from server to client.",
            |c| &c.sent_bytes,
        ),
        (
            "istio_tcp_received_bytes",
            "Bytes sent from client to server.",
            |c| &c.received_bytes,
        ),
    ];
    for (name, help, field) in families {
        let series = connections.iter().map(|(traffic, handles)| {
            let labels = TcpSeries {
                traffic,
                flag: NO_FLAG,
                reason: None,
            };
            (labels, field(handles).clone())
        });
        family(to, name, help, Counter::<u64>::TYPE, series)?;
    }
    Ok(())
}

/// The labels of a series of endings: whose, flag and reason.
type EndLabels<'a> = (&'a TrafficLabels, &'static str, &'static str);

fn ended_series<'a>((traffic, flag, reason): &EndLabels<'a>) -> TcpSeries<'a> {
    TcpSeries {
        traffic,
        flag,
        reason: Some(reason),
    }
}

fn ended_families(to: &mut DescriptorEncoder<'_>, connections: &Connections) -> fmt::Result {
    let mut ended = Vec::new();
    for (traffic, handles) in connections {
        for (reason, counts) in held(&handles.ended).iter() {
            let labels = (traffic, counts.flag, *reason);
            ended.push((labels, counts.clone()));
        }
    }
    let closed = ended
        .iter()
        .map(|(labels, counts)| (ended_series(labels), counts.closed.clone()));
    family(
        to,
        "istio_tcp_connections_closed",
        "Connections closed.",
        Counter::<u64>::TYPE,
        closed,
    )?;
    let failed = ended
        .iter()
        .filter(|(_, counts)| counts.failed.get() > 0)
        .map(|(labels, counts)| (ended_series(labels), counts.failed.clone()));
    family(
        to,
        "istio_tcp_connections_failed",
        "Connections that ended without being served.",
        Counter::<u64>::TYPE,
        failed,
    )
}

fn request_families(to: &mut DescriptorEncoder<'_>, requests: &Requests) -> fmt::Result {
    type Field = fn(&RequestHandles) -> &Histogram;
    let counts = requests
        .iter()
        .map(|(labels, handles)| (Borrowed(labels), handles.requests.clone()));
    family(
        to,
        "istio_requests",
        "Requests.",
        Counter::<u64>::TYPE,
        counts,
    )?;
    let families: [(&str, &str, Field); 3] = [
        (
            "istio_request_duration_milliseconds",
            "Time from a request's head to the end of its response.",
            |r| &r.duration_ms,
        ),
        ("istio_request_bytes", "Bytes of request bodies.", |r| {
            &r.request_bytes
        }),
        ("istio_response_bytes", "Bytes of response bodies.", |r| {
            &r.response_bytes
        }),
    ];
    for (name, help, field) in families {
        let series = requests
            .iter()
            .map(|(labels, handles)| (Borrowed(labels), field(handles).clone()));
        family(to, name, help, Histogram::TYPE, series)?;
    }
    Ok(())
}

fn message_families(to: &mut DescriptorEncoder<'_>, requests: &Requests) -> fmt::Result {
    type Field = fn(&RequestHandles) -> &Counter;
    let families: [(&str, &str, Field); 2] = [
        (
            "istio_request_messages",
            "gRPC messages sent by clients.",
            |r| &r.request_messages,
        ),
        (
            "istio_response_messages",
            "gRPC messages sent by servers.",
            |r| &r.response_messages,
        ),
    ];
    for (name, help, field) in families {
        let series = requests
            .iter()
            .filter(|(_, handles)| field(handles).get() > 0)
            .map(|(labels, handles)| (Borrowed(labels), field(handles).clone()));
        family(to, name, help, Counter::<u64>::TYPE, series)?;
    }
    Ok(())
}

struct Borrowed<'a>(&'a RequestLabels);

impl EncodeLabelSet for Borrowed<'_> {
    fn encode(&self, to: &mut prometheus_client::encoding::LabelSetEncoder<'_>) -> fmt::Result {
        self.0.encode(to)
    }
}
