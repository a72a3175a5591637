//! What the control plane knows of its streams, for metrics and `/debug/config`.

use mesh_telemetry::Metrics;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Refusals remembered, newest per proxy and type.
const REFUSALS_MAX: usize = 256;

/// A refusal by a proxy.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ProxyRefusal {
    /// The node's id.
    pub(crate) node: String,
    /// The type.
    pub(crate) type_url: String,
    /// What it said.
    pub(crate) why: String,
}

/// The state of the streams.
pub(crate) struct StreamStatus {
    streams: mesh_telemetry::Gauge,
    pushed: mesh_telemetry::Counter,
    rejected: mesh_telemetry::Counter,
    refused: mesh_telemetry::Counter,
    refusals: Mutex<BTreeMap<(String, String), String>>,
}

impl StreamStatus {
    /// Registers the counts.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            streams: metrics.gauge("strata_discovery_streams", "Open discovery streams"),
            pushed: metrics.counter(
                "strata_discovery_pushed_resources",
                "Resources and removals sent to proxies",
            ),
            rejected: metrics.counter(
                "strata_discovery_rejections",
                "Responses of which a proxy refused something",
            ),
            refused: metrics.counter(
                "strata_discovery_unauthenticated",
                "Streams refused for want of a valid token",
            ),
            refusals: Mutex::default(),
        }
    }

    pub(crate) fn opened(&self) {
        self.streams.add(1);
    }

    pub(crate) fn closed(&self) {
        self.streams.add(-1);
    }

    pub(crate) fn pushed(&self, resources: usize) {
        self.pushed.inc_by(resources as u64);
    }

    pub(crate) fn refused(&self) {
        self.refused.inc();
    }

    pub(crate) fn rejected(&self, node: &str, type_url: &str, why: &str) {
        self.rejected.inc();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() >= REFUSALS_MAX {
            refusals.pop_first();
        }
        refusals.insert((node.into(), type_url.into()), why.into());
    }

    /// What proxies refused, newest per proxy and type.
    pub(crate) fn refusals(&self) -> Vec<ProxyRefusal> {
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let refusal = |((node, type_url), why): (&(String, String), &String)| ProxyRefusal {
            node: node.clone(),
            type_url: type_url.clone(),
            why: why.clone(),
        };
        refusals.iter().map(refusal).collect()
    }
}
