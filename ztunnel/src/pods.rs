//! The pods of this node: each has listeners on every worker, in its own network namespace, and
//! all share the threads of the process.

mod folder;
mod worker;

pub(crate) use folder::follow;
pub(crate) use worker::{Worker, accept_each};

use crate::limits::{Limit, Permit};
use crate::local::LocalReceiver;
use crate::node::Node;
use mesh_model::{Reason, SpiffeId};
use mesh_net::Netns;
use mesh_plan::Refusal;
use mesh_proxy::WorkloadInfo;
use mesh_runtime::{Drain, Scope, Workers};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// Pods of one node; Kubernetes stays well below.
pub(crate) const PODS_MAX: usize = 1024;
/// How long a stopped pod's sessions may take to write their records.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// One pod as it is described to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodSpec {
    /// Kubernetes' uid of the pod, or any text that is unique on the node.
    pub(crate) uid: String,
    /// Which workload it is.
    pub(crate) info: WorkloadInfo,
    /// The file of its network namespace; none: the current one.
    pub(crate) netns: Option<PathBuf>,
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
    /// Its listeners and outbound tunnels.
    scope: Scope,
    limit: Limit,
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
        let netns = spec.netns.as_ref().map(open).transpose()?;
        let local = node.locals.watch(&spec.info, &node.snapshots.borrow());
        Ok(Self {
            spec,
            netns,
            local,
            connections: node.connections.child(),
            drain: Drain::new(),
            scope: node.scope.child(),
            limit: Limit::new(node.limits.pod_connections_max),
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

    /// Cuts everything. The peers may not hear of it: the namespace may be gone already.
    fn stop(&self) {
        self.drain.force();
        self.scope.cancel();
        let connections = self.connections.clone();
        self.node.scope.spawn("pod stop", async move {
            if tokio::time::timeout(STOP_TIMEOUT, connections.finished())
                .await
                .is_err()
            {
                connections.cancel();
            }
        });
    }
}

/// The pods that run.
pub(crate) struct Pods {
    node: Arc<Node>,
    workers: Workers,
    running: BTreeMap<String, Arc<Pod>>,
}

impl Pods {
    /// None yet.
    pub(crate) fn new(node: Arc<Node>, workers: Workers) -> Self {
        Self {
            node,
            workers,
            running: BTreeMap::new(),
        }
    }

    /// Starts a pod: its listeners on every worker. Nothing is left of one that fails.
    ///
    /// # Errors
    /// See [`StartError`].
    pub(crate) async fn start(&mut self, spec: PodSpec) -> Result<(), StartError> {
        if self.running.len() >= PODS_MAX {
            return Err(StartError::TooMany);
        }
        let pod = Arc::new(Pod::new(spec, &self.node)?);
        // Asked for before the first connection needs it.
        for identity in pod.identities() {
            drop(self.node.identities.watch(&identity));
        }
        self.follow_drain(&pod);
        let mut started = Vec::new();
        for handle in self.workers.handles() {
            let (done, result) = oneshot::channel();
            let pod = pod.clone();
            handle.run(move || async move { worker::start(&pod, done) });
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
        self.changed();
        Ok(())
    }

    /// Stops a pod; nothing happens when it does not run.
    pub(crate) fn stop(&mut self, uid: &str) {
        if let Some(pod) = self.running.remove(uid) {
            pod.stop();
            let info = &pod.spec.info;
            tracing::info!(namespace = %info.namespace, name = %info.name, uid, "pod stopped");
            self.node.counts.pods_stopped.inc();
            self.changed();
        }
    }

    /// The pod that runs under a uid.
    pub(crate) fn get(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.running.get(uid)
    }

    /// The uids that run.
    pub(crate) fn uids(&self) -> Vec<String> {
        self.running.keys().cloned().collect()
    }

    /// Notes how many pods could not be started yet.
    pub(crate) fn set_pending(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.node.counts.pods_pending.set(count);
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
        let wanted: BTreeSet<SpiffeId> =
            self.running.values().flat_map(|p| p.identities()).collect();
        self.node.identities.retain(&wanted);
    }
}
