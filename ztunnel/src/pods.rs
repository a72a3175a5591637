//! The pods of this node: each has listeners on every worker, in its own network namespace, and
//! all share the threads of the process.

mod agent;
mod folder;
mod running;
mod worker;

pub(crate) use agent::follow as follow_agent;
pub(crate) use folder::follow as follow_folder;
pub(crate) use running::Running;
pub(crate) use worker::{Worker, accept_each};

use crate::limits::{Limit, Permit};
use crate::local::LocalReceiver;
use crate::node::Node;
use mesh_l4::Ejector;
use mesh_model::{Reason, SpiffeId};
use mesh_net::Netns;
use mesh_plan::Refusal;
use mesh_proxy::WorkloadInfo;
use mesh_runtime::{Drain, Scope, Workers};
use mesh_telemetry::ConnectionFacts;
use mesh_zds::PODS_MAX;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long after a failed start the next attempt is made.
const RETRY: Duration = Duration::from_secs(5);
/// How long a stopped pod's sessions may take to write their records.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// One pod as it is described to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodSpec {
    /// Kubernetes' uid of the pod, or any text that is unique on the node.
    pub(crate) uid: String,
    /// Which workload it is.
    pub(crate) info: WorkloadInfo,
    /// Where its sockets are made.
    pub(crate) netns: PodNetns,
}

/// Where a pod's sockets are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PodNetns {
    /// In the network namespace of this process.
    Current,
    /// In the one a file stands for.
    File(PathBuf),
    /// In the one the node agent handed over.
    Held(Netns),
}

/// One running pod, shared by the workers.
#[derive(Debug)]
pub(crate) struct Pod {
    /// What it is.
    pub(crate) spec: PodSpec,
    /// Where its sockets are made; none: the current namespace.
    pub(crate) netns: Option<Netns>,
    /// The node.
    pub(crate) node: Arc<Node>,
    /// What the control plane says about it.
    pub(crate) local: LocalReceiver,
    /// Its sessions and inbound tunnels.
    pub(crate) connections: Scope,
    /// Going down: the process, or this pod alone.
    pub(crate) drain: Drain,
    /// The endpoints it lately failed to reach.
    pub(crate) ejector: Ejector,
    /// Its listeners and outbound tunnels.
    scope: Scope,
    limit: Limit,
    /// Its DNS questions that wait for an upstream server.
    pub(crate) dns: mesh_dns::Outstanding,
    source_warned: AtomicBool,
}

/// Why a pod could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The network namespace cannot be opened.
    #[error("network namespace {path}: {source}")]
    Netns {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A listener cannot be made.
    #[error("port {port}: {source}")]
    Listen {
        /// The port.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// The process is going down.
    #[error("the workers have stopped")]
    Stopped,
    /// Too many.
    #[error("{PODS_MAX} pods run already")]
    TooMany,
}

impl Pod {
    /// A pod without listeners yet.
    pub(crate) fn new(spec: PodSpec, node: &Arc<Node>) -> Result<Self, StartError> {
        let open = |path: &PathBuf| {
            Netns::open(path).map_err(|source| StartError::Netns {
                path: path.display().to_string(),
                source,
            })
        };
        let netns = match &spec.netns {
            PodNetns::Current => None,
            PodNetns::File(path) => Some(open(path)?),
            PodNetns::Held(netns) => Some(netns.clone()),
        };
        let local = node.locals.watch(&spec.info, &node.snapshots.borrow());
        Ok(Self {
            spec,
            netns,
            local,
            connections: node.connections.child(),
            drain: Drain::new(),
            ejector: Ejector::new(&node.metrics),
            scope: node.scope.child(),
            limit: Limit::new(node.limits.pod_connections_max),
            dns: crate::dns::outstanding(),
            source_warned: AtomicBool::new(false),
            node: node.clone(),
        })
    }

    /// A place for one more connection.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] when the pod's bound or the process's is reached; it is counted.
    pub(crate) fn admit(&self) -> Result<Permit, Refusal> {
        Permit::take(&[&self.limit, &self.node.limit]).map_err(|index| {
            let bound = if index == 0 { "pod" } else { "process" };
            self.node.counts.refused.with(bound).inc();
            let detail = format!("the {bound}'s bound on connections is reached");
            Refusal::new(Reason::Overloaded, detail)
        })
    }

    /// Notes a connection that was refused because the process or the machine has no descriptor left.
    fn refused_for_want(&self, facts: ConnectionFacts, why: &std::io::Error) {
        self.node.counts.refused.with("descriptors").inc();
        let record = self.node.metrics.connection(facts);
        record.end(Reason::Overloaded, Some(why.to_string()));
    }

    /// Lets connections that are still being made when our listeners close go to those of the next
    /// proxy on the node, where the kernel can do that.
    fn prepare_hand_over(&self) {
        if let Some(netns) = &self.netns
            && let Err(error) = netns.migrate_handshakes()
        {
            tracing::debug!(pod = %self.spec.info.name, %error, "connections being made when this proxy ends will be reset");
        }
    }

    /// Says once a pod that applications do not see their clients' addresses; each time is counted.
    pub(crate) fn warn_source_not_kept(&self, error: &mesh_net::ConnectError) {
        if !self.source_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(pod = %self.spec.info.name, %error, "connections to the application do not come from their clients' addresses");
        }
    }

    /// The identities it may need: as it was described, and as the control plane knows it.
    fn identities(&self) -> impl Iterator<Item = SpiffeId> {
        let info = &self.spec.info;
        let trust_domain = &self.node.proxy.trust_domain;
        let described = SpiffeId::new(trust_domain, &info.namespace, &info.service_account).ok();
        let known = self.local.borrow().as_ref().map(|k| k.workload.clone());
        described
            .into_iter()
            .chain(known.and_then(|w| w.identity()))
    }

    /// Cuts everything: listeners close at once, sessions write their records. Tunnels say GOAWAY,
    /// which the peers hear if the network namespace still lives.
    fn stop(&self) {
        self.drain.force();
        let (connections, scope) = (self.connections.clone(), self.scope.clone());
        self.node.scope.spawn("pod stop", async move {
            if tokio::time::timeout(STOP_TIMEOUT, connections.finished())
                .await
                .is_err()
            {
                connections.cancel();
            }
            // Last: the tunnels that the sessions end on are in it.
            scope.cancel();
        });
    }
}

/// A pod that could not be started.
struct Pending {
    spec: PodSpec,
    retry_at: Instant,
}

/// The pods that run, and those that could not be started yet. Whoever tells which pods there are,
/// the node agent or a folder of files, holds it.
pub(crate) struct Pods {
    node: Arc<Node>,
    workers: Workers,
    running: BTreeMap<String, Arc<Pod>>,
    pending: BTreeMap<String, Pending>,
}

impl Pods {
    /// None yet.
    pub(crate) fn new(node: Arc<Node>, workers: Workers) -> Self {
        Self {
            node,
            workers,
            running: BTreeMap::new(),
            pending: BTreeMap::new(),
        }
    }

    /// Sees that a pod runs as described: one that does is left alone, one that runs otherwise (in
    /// another network namespace, as another workload) is replaced.
    ///
    /// # Errors
    /// See [`StartError`]; [`Self::retry`] will try again, except when there are too many.
    pub(crate) async fn run(&mut self, spec: PodSpec) -> Result<(), StartError> {
        if let Some(running) = self.running.get(&spec.uid) {
            if running.spec == spec {
                return Ok(());
            }
            self.stop(&spec.uid);
        }
        let others = self.pending.keys().filter(|uid| **uid != spec.uid).count();
        if self.running.len() + others >= PODS_MAX {
            return Err(StartError::TooMany);
        }
        let started = self.start(spec.clone()).await;
        match &started {
            Ok(()) => {
                self.pending.remove(&spec.uid);
            }
            Err(error) => {
                let (namespace, name) = (&spec.info.namespace, &spec.info.name);
                tracing::error!(%namespace, %name, uid = spec.uid, %error, "pod not started");
                let retry_at = Instant::now() + RETRY;
                self.pending
                    .insert(spec.uid.clone(), Pending { spec, retry_at });
            }
        }
        self.changed();
        started
    }

    /// Tries again to start what is due.
    pub(crate) async fn retry(&mut self) {
        let now = Instant::now();
        let due = self.pending.values().filter(|p| p.retry_at <= now);
        let due: Vec<PodSpec> = due.map(|p| p.spec.clone()).collect();
        for spec in due {
            // A failure is logged, and noted as pending again.
            self.run(spec).await.ok();
        }
    }

    /// When the next attempt is due; none when nothing is pending.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.pending.values().map(|p| p.retry_at).min()
    }

    /// Whether a pod runs, or is pending, as described.
    fn is_known(&self, spec: &PodSpec) -> bool {
        let running = self.running.get(&spec.uid).map(|pod| &pod.spec);
        let pending = self.pending.get(&spec.uid).map(|p| &p.spec);
        running == Some(spec) || pending == Some(spec)
    }

    /// Tries no longer to start a pod.
    fn forget(&mut self, uid: &str) {
        if self.pending.remove(uid).is_some() {
            self.changed();
        }
    }

    /// Stops every pod but these.
    fn only(&mut self, uids: &BTreeSet<String>) {
        let known = self.running.keys().chain(self.pending.keys());
        let gone: Vec<String> = known.filter(|uid| !uids.contains(*uid)).cloned().collect();
        for uid in gone {
            self.stop(&uid);
        }
    }

    /// Starts a pod: its listeners on every worker. Nothing is left of one that fails.
    async fn start(&mut self, spec: PodSpec) -> Result<(), StartError> {
        let pod = Arc::new(Pod::new(spec, &self.node)?);
        // Asked for before the first connection needs it.
        for identity in pod.identities() {
            drop(self.node.identities.watch(&identity));
        }
        self.follow_drain(&pod);
        let mut started = Vec::new();
        for sockets in worker::sockets(&pod, self.workers.count())?
            .into_iter()
            .zip(self.workers.handles())
        {
            let (sockets, handle) = sockets;
            let (done, result) = oneshot::channel();
            let pod = pod.clone();
            handle.run(move || async move { worker::start(&pod, sockets, done) });
            started.push(result);
        }
        for result in started {
            if let Err(error) = result.await.unwrap_or(Err(StartError::Stopped)) {
                pod.stop();
                return Err(error);
            }
        }
        let info = &pod.spec.info;
        tracing::info!(namespace = %info.namespace, name = %info.name, uid = pod.spec.uid, "pod started");
        self.node.counts.pods_started.inc();
        self.running.insert(pod.spec.uid.clone(), pod);
        Ok(())
    }

    /// Stops a pod; nothing happens when it does not run.
    fn stop(&mut self, uid: &str) {
        self.forget(uid);
        if let Some(pod) = self.running.remove(uid) {
            pod.stop();
            let info = &pod.spec.info;
            tracing::info!(namespace = %info.namespace, name = %info.name, uid, "pod stopped");
            self.node.counts.pods_stopped.inc();
            self.changed();
        }
    }

    /// The process's drain is also each pod's.
    fn follow_drain(&self, pod: &Arc<Pod>) {
        let (of_pod, of_process) = (pod.drain.clone(), self.node.drain.clone());
        pod.scope.spawn("pod drain", async move {
            of_process.started().await;
            of_pod.start();
            of_process.forced().await;
            of_pod.force();
        });
    }

    fn changed(&self) {
        let count = i64::try_from(self.running.len()).unwrap_or(i64::MAX);
        self.node.counts.pods_active.set(count);
        let count = i64::try_from(self.pending.len()).unwrap_or(i64::MAX);
        self.node.counts.pods_pending.set(count);
        self.node.running.set(self.running.values());
        let wanted: BTreeSet<SpiffeId> =
            self.running.values().flat_map(|p| p.identities()).collect();
        self.node.identities.retain(&wanted);
    }
}
