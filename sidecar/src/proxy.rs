//! What all workers of the process share.

pub(crate) use mesh_proxy::limits::Permit;

use crate::local::LocalReceiver;
use crate::settings::Proxy;
use mesh_discovery::SnapshotReceiver;
use mesh_identity::{CertificateReceiver, Identities};
use mesh_l4::Ejector;
use mesh_model::{Reason, Workload};
use mesh_plan::Refusal;
use mesh_proxy::limits::Limit;
use mesh_runtime::{Context, Drain, Scope};
use mesh_telemetry::{Counter, LabelledCounter, Metrics, Tracer};
use mesh_tls::WorkloadCertificate;
use std::sync::Arc;

/// The process, shared by every worker.
pub(crate) struct Node {
    /// Settings of the data path.
    pub(crate) proxy: Proxy,
    /// The state of the mesh.
    pub(crate) snapshots: SnapshotReceiver,
    /// Our workload.
    pub(crate) local: LocalReceiver,
    /// Our certificate, the newest.
    pub(crate) certificate: CertificateReceiver,
    /// Certificates.
    pub(crate) identities: Identities,
    /// Metrics and records.
    pub(crate) metrics: Metrics,
    /// The endpoints it lately failed to reach.
    pub(crate) ejector: Ejector,
    /// Spans.
    pub(crate) tracer: Tracer,
    /// Runs listeners and pools.
    pub(crate) scope: Scope,
    /// Runs connections; waited for when the process goes down.
    pub(crate) connections: Scope,
    /// Tells that the process goes down.
    pub(crate) drain: Drain,
    /// Tunnels that trust in their peer ended, by reason.
    pub(crate) tunnels_retired: LabelledCounter,
    limit: Limit,
    refused: Counter,
}

/// What the process is built of.
pub(crate) struct Parts {
    pub(crate) snapshots: SnapshotReceiver,
    pub(crate) local: LocalReceiver,
    pub(crate) identities: Identities,
    pub(crate) metrics: Metrics,
    pub(crate) tracer: Tracer,
}

impl Node {
    /// Puts the parts together, and starts keeping our certificate.
    pub(crate) fn new(proxy: Proxy, parts: Parts, context: &Context) -> Self {
        Self {
            certificate: parts.identities.watch(&proxy.identity),
            identities: parts.identities,
            snapshots: parts.snapshots,
            local: parts.local,
            refused: parts.metrics.counter(
                "sidecar_connections_refused",
                "Connections refused because the bound was reached",
            ),
            tunnels_retired: mesh_proxy::tunnels_retired(&parts.metrics),
            ejector: Ejector::new(&parts.metrics),
            metrics: parts.metrics,
            tracer: parts.tracer,
            scope: context.scope.clone(),
            connections: context.connections.clone(),
            drain: context.drain.clone(),
            limit: Limit::new(proxy.connections_max),
            proxy,
        }
    }

    /// Our workload, waiting up to 5 s for it to become known.
    ///
    /// # Errors
    /// [`Reason::UnknownWorkload`].
    pub(crate) async fn workload(&self) -> Result<Arc<Workload>, Refusal> {
        crate::local::known(&self.local, &self.proxy.info).await
    }

    /// Our certificate, there and valid; waits up to 5 s for it.
    ///
    /// # Errors
    /// [`Reason::NoIdentity`]: the connection must fail (closed).
    pub(crate) async fn valid_certificate(&self) -> Result<Arc<WorkloadCertificate>, Refusal> {
        self.identities
            .certificate(&self.proxy.identity)
            .await
            .map_err(|e| Refusal::new(e.reason(), e.to_string()))
    }

    /// A place for one more connection.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] when the bound is reached; it is counted.
    pub(crate) fn admit(&self) -> Result<Permit, Refusal> {
        Permit::take(&[&self.limit]).map_err(|_| {
            self.refused.inc();
            let max = self.proxy.connections_max;
            let detail = format!("the bound of {max} connections is reached");
            Refusal::new(Reason::Overloaded, detail)
        })
    }

    /// Connections there are now.
    pub(crate) fn connections_used(&self) -> usize {
        self.limit.used()
    }
}
