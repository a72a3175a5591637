//! What is counted of the discovery stream, under the names of interop/telemetry.md section 3.

use crate::codec;
use mesh_proto::discovery::DeltaDiscoveryResponse;
use mesh_telemetry::{LabelledCounter, Metrics};

/// Stands for types that nobody asked for: the label must come from a bounded set.
const OTHER: &str = "other";

/// The counters of the stream; without a registry nothing is counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts(Option<Counters>);

#[derive(Debug, Clone)]
struct Counters {
    messages: LabelledCounter,
    bytes: LabelledCounter,
    terminations: LabelledCounter,
    refused: LabelledCounter,
}

impl Counts {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self(Some(Counters {
            messages: metrics.labelled_counter(
                "istio_xds_message",
                "Messages received from the control plane",
                "url",
            ),
            bytes: metrics.labelled_counter(
                "istio_xds_message_bytes",
                "Bytes of resources received from the control plane",
                "url",
            ),
            terminations: metrics.labelled_counter(
                "istio_xds_connection_terminations",
                "Streams to the control plane that ended",
                "reason",
            ),
            refused: metrics.labelled_counter(
                "strata_xds_resources_refused",
                "Resources received and refused",
                "url",
            ),
        }))
    }

    /// A response has come.
    pub(crate) fn received(&self, response: &DeltaDiscoveryResponse) {
        let Some(counters) = &self.0 else { return };
        let value =
            |r: &mesh_proto::discovery::Resource| r.resource.as_ref().map(|r| r.value.len());
        let bytes: usize = response.resources.iter().filter_map(value).sum();
        let url = bounded(&response.type_url);
        counters.messages.with(url).inc();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        counters.bytes.with(url).inc_by(bytes);
    }

    /// Resources of a response were refused.
    pub(crate) fn refused(&self, type_url: &str, count: usize) {
        if let (Some(counters), 1..) = (&self.0, count) {
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            counters.refused.with(bounded(type_url)).inc_by(count);
        }
    }

    /// A stream, or the attempt at one, has ended.
    pub(crate) fn ended(&self, reason: &'static str) {
        if let Some(counters) = &self.0 {
            counters.terminations.with(reason).inc();
        }
    }
}

fn bounded(type_url: &str) -> &'static str {
    let known = codec::TYPES_ALL.into_iter().find(|t| *t == type_url);
    known.unwrap_or(OTHER)
}
