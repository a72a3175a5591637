//! What all pods of the process share.

use crate::hostnames::Found;
use crate::limits::Limit;
use crate::local::Locals;
use crate::pods::Running;
use crate::settings::{Limits, Proxy};
use mesh_discovery::SnapshotReceiver;
use mesh_identity::Identities;
use mesh_runtime::{Context, Scope};
use mesh_telemetry::{Counter, Gauge, LabelledCounter, Metrics};
use std::sync::Arc;

/// The node: one a process, shared by every pod and worker.
#[derive(Debug)]
pub(crate) struct Node {
    /// Settings of the data path.
    pub(crate) proxy: Proxy,
    /// Bounds on connections.
    pub(crate) limits: Limits,
    /// Places of the whole process.
    pub(crate) limit: Limit,
    /// The state of the mesh.
    pub(crate) snapshots: SnapshotReceiver,
    /// Certificates.
    pub(crate) identities: Identities,
    /// Local workloads.
    pub(crate) locals: Arc<Locals>,
    /// The pods that run.
    pub(crate) running: Running,
    /// Metrics and records.
    pub(crate) metrics: Metrics,
    /// Counters of our own.
    pub(crate) counts: Counts,
    /// Those of DNS.
    pub(crate) dns: mesh_telemetry::DnsMetrics,
    /// Runs listeners and tunnels.
    pub(crate) scope: Scope,
    /// Runs sessions; waited for when the process goes down.
    pub(crate) connections: Scope,
    /// Tells that the process goes down.
    pub(crate) drain: mesh_runtime::Drain,
}

/// Counters of our own; the `workload_manager` names are those of interop/telemetry.md section 3.
#[derive(Debug)]
pub(crate) struct Counts {
    /// Connections refused at a bound, by bound.
    pub(crate) refused: LabelledCounter,
    /// Tunnels that trust in their peer ended, by reason.
    pub(crate) tunnels_retired: LabelledCounter,
    /// Connections to applications that could not come from the client's address.
    pub(crate) source_not_kept: Counter,
    /// What authorization meets.
    pub(crate) policies: PolicyCounts,
    /// Pods running.
    pub(crate) pods_active: Gauge,
    /// Pods that could not be started yet.
    pub(crate) pods_pending: Gauge,
    /// Pods started so far.
    pub(crate) pods_started: Counter,
    /// Pods stopped so far.
    pub(crate) pods_stopped: Counter,
}

impl Counts {
    fn new(metrics: &Metrics) -> Self {
        Self {
            refused: metrics.labelled_counter(
                "ztunnel_connections_refused",
                "Connections refused because a bound was reached",
                "bound",
            ),
            tunnels_retired: mesh_proxy::tunnels_retired(metrics),
            source_not_kept: metrics.counter(
                "ztunnel_source_address_not_kept",
                "Connections to applications made from the pod's own address for want of a privilege",
            ),
            policies: PolicyCounts::new(metrics),
            pods_active: metrics.gauge(
                "workload_manager_active_proxy_count",
                "Pods whose connections are carried",
            ),
            pods_pending: metrics.gauge(
                "workload_manager_pending_proxy_count",
                "Pods that could not be started yet",
            ),
            pods_started: metrics.counter("workload_manager_proxies_started", "Pods started"),
            pods_stopped: metrics.counter("workload_manager_proxies_stopped", "Pods stopped"),
        }
    }
}

/// What authorization meets that an operator should know of (docs/policy.md).
#[derive(Debug)]
pub(crate) struct PolicyCounts {
    /// Connections denied because of a policy that could not be evaluated, by cause.
    pub(crate) unavailable: LabelledCounter,
    /// Connections let in past a policy that could not be evaluated as written, by cause.
    pub(crate) passed_over: LabelledCounter,
    /// Connections that a policy in dry run would deny.
    pub(crate) dry_run: Counter,
}

impl PolicyCounts {
    fn new(metrics: &Metrics) -> Self {
        Self {
            unavailable: metrics.labelled_counter(
                "strata_policy_unavailable",
                "Connections denied because a policy that applies could not be evaluated",
                "cause",
            ),
            passed_over: metrics.labelled_counter(
                "strata_policy_passed_over",
                "Connections let in although a policy that applies could not be evaluated as written",
                "cause",
            ),
            dry_run: metrics.counter(
                "strata_policy_dry_run_denied",
                "Connections that a policy in dry run would deny",
            ),
        }
    }
}

impl Node {
    /// Puts the parts together.
    pub(crate) fn new(
        proxy: Proxy,
        limits: Limits,
        metrics: Metrics,
        found: Found,
        identities: Identities,
        context: &Context,
    ) -> Self {
        let dns = mesh_telemetry::DnsMetrics::new(&metrics);
        let snapshots = crate::hostnames::resolved(
            &context.scope,
            found,
            crate::dns::own_forwarder(&proxy),
            proxy.dns.zone.ipv6,
            dns.clone(),
        );
        Self {
            locals: Arc::new(Locals::new(proxy.node_name.clone())),
            proxy,
            running: Running::default(),
            limits,
            limit: Limit::new(limits.connections_max),
            snapshots,
            identities,
            counts: Counts::new(&metrics),
            dns,
            metrics,
            scope: context.scope.clone(),
            connections: context.connections.clone(),
            drain: context.drain.clone(),
        }
    }
}
