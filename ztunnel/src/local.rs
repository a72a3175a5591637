//! The workloads of this node, as the control plane describes them.
//!
//! A pod is known by namespace, name and service account among the workloads of its node, never by
//! address (interop/xds-workload.md section 7). One task looks all of them up in each new snapshot,
//! so that a connection finds its workload and policies without a search, and so that only a
//! change that concerns a pod wakes that pod's connections.

use mesh_discovery::SnapshotReceiver;
use mesh_model::{PolicySet, Reason, Snapshot, Workload};
use mesh_plan::Refusal;
use mesh_proxy::WorkloadInfo;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long a connection waits for its workload to become known.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// What is known of a local workload.
#[derive(Debug)]
pub(crate) struct Local {
    /// The workload.
    pub(crate) workload: Arc<Workload>,
    /// The policies that apply to it.
    pub(crate) policies: PolicySet,
}

impl PartialEq for Local {
    fn eq(&self, other: &Self) -> bool {
        self.workload == other.workload
            && self.policies.policies == other.policies.policies
            && self.policies.missing == other.policies.missing
    }
}

/// Gives what is known of a local workload, and notices of each change of it.
pub(crate) type LocalReceiver = watch::Receiver<Option<Arc<Local>>>;

type Sender = watch::Sender<Option<Arc<Local>>>;

/// The workloads looked up.
#[derive(Debug)]
pub(crate) struct Locals {
    node_name: Arc<str>,
    senders: Mutex<HashMap<WorkloadInfo, Sender>>,
}

impl Locals {
    /// None yet. Workloads of other nodes are not found; an empty name takes those of any.
    pub(crate) fn new(node_name: Arc<str>) -> Self {
        Self {
            node_name,
            senders: Mutex::default(),
        }
    }

    /// Looks a workload up, now and in each snapshot that follows.
    pub(crate) fn watch(&self, info: &WorkloadInfo, snapshot: &Snapshot) -> LocalReceiver {
        let mut senders = self.senders();
        if let Some(sender) = senders.get(info) {
            return sender.subscribe();
        }
        let index = self.index(snapshot);
        let (sender, receiver) = watch::channel(look_up(&index, info, snapshot));
        senders.insert(info.clone(), sender);
        receiver
    }

    /// The workloads looked up, and whether each is known.
    pub(crate) fn list(&self) -> Vec<(WorkloadInfo, bool)> {
        let known =
            |(info, sender): (&WorkloadInfo, &Sender)| (info.clone(), sender.borrow().is_some());
        self.senders().iter().map(known).collect()
    }

    /// Follows the snapshots until the task is ended.
    pub(crate) async fn follow(self: Arc<Self>, mut snapshots: SnapshotReceiver) {
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            self.update(&snapshot);
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    }

    fn update(&self, snapshot: &Snapshot) {
        let index = self.index(snapshot);
        let mut senders = self.senders();
        // A pod that was stopped no longer listens.
        senders.retain(|_, sender| sender.receiver_count() > 0);
        for (info, sender) in senders.iter() {
            let next = look_up(&index, info, snapshot);
            sender.send_if_modified(|current| {
                let differs = *current != next;
                if differs {
                    *current = next;
                }
                differs
            });
        }
    }

    fn index<'a>(&self, snapshot: &'a Snapshot) -> Index<'a> {
        snapshot
            .workloads_on(&self.node_name)
            .map(|w| ((&*w.namespace, &*w.name, &*w.service_account), w))
            .collect()
    }

    fn senders(&self) -> MutexGuard<'_, HashMap<WorkloadInfo, Sender>> {
        // The table is whole after every statement.
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Index<'a> = HashMap<(&'a str, &'a str, &'a str), &'a Arc<Workload>>;

fn look_up(index: &Index<'_>, info: &WorkloadInfo, snapshot: &Snapshot) -> Option<Arc<Local>> {
    let key = (&*info.namespace, &*info.name, &*info.service_account);
    index.get(&key).map(|workload| {
        Arc::new(Local {
            workload: (*workload).clone(),
            policies: snapshot.policies_for(workload),
        })
    })
}

/// What is known of the workload, waiting up to 5 s for it to become known. What changes after
/// this is a change in the eyes of the receiver.
///
/// # Errors
/// [`Reason::UnknownWorkload`] when it stays unknown: the connection must fail (closed).
pub(crate) async fn known(
    local: &mut LocalReceiver,
    info: &WorkloadInfo,
) -> Result<Arc<Local>, Refusal> {
    let now = local.borrow_and_update().clone();
    if let Some(known) = now {
        return Ok(known);
    }
    let waiting = tokio::time::timeout(KNOWN_TIMEOUT, local.wait_for(Option::is_some)).await;
    let found = waiting
        .ok()
        .and_then(Result::ok)
        .and_then(|known| known.clone());
    found.ok_or_else(|| {
        let (namespace, name) = (&info.namespace, &info.name);
        let detail =
            format!("the control plane does not know {namespace}/{name} on this node (yet)");
        Refusal::new(Reason::UnknownWorkload, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::{Resource, SnapshotBuilder};

    fn info(account: &str) -> WorkloadInfo {
        format!("demo/web/{account}").parse().unwrap()
    }

    fn workload(node: &str, account: &str) -> Workload {
        let mut workload = Workload::new(&format!("{node}-{account}"), "demo", "web");
        workload.node = node.into();
        workload.service_account = account.into();
        workload
    }

    #[test]
    fn only_the_nodes_own_workload_of_the_same_account_is_found() {
        let mut builder = SnapshotBuilder::new();
        for (node, account) in [("n1", "a"), ("n2", "b")] {
            builder.upsert(Resource::Workload(Arc::new(workload(node, account))));
        }
        let locals = Locals::new("n1".into());
        let snapshot = builder.snapshot();
        assert!(locals.watch(&info("a"), &snapshot).borrow().is_some());
        assert!(locals.watch(&info("b"), &snapshot).borrow().is_none());
        let anywhere = Locals::new("".into());
        assert!(anywhere.watch(&info("b"), &snapshot).borrow().is_some());
    }

    #[test]
    fn only_what_concerns_a_pod_is_a_change() {
        let mut builder = SnapshotBuilder::new();
        builder.upsert(Resource::Workload(Arc::new(workload("n1", "a"))));
        let locals = Locals::new("n1".into());
        let mut local = locals.watch(&info("a"), &builder.snapshot());
        local.mark_unchanged();
        builder.upsert(Resource::Workload(Arc::new(workload("n2", "b"))));
        locals.update(&builder.snapshot());
        assert!(!local.has_changed().unwrap());
        let mut changed = workload("n1", "a");
        changed.authorization_policies = vec!["demo/p".parse().unwrap()];
        builder.upsert(Resource::Workload(Arc::new(changed)));
        locals.update(&builder.snapshot());
        assert!(local.has_changed().unwrap());
        let missing = local.borrow().as_ref().unwrap().policies.missing.clone();
        assert_eq!(missing, ["demo/p".parse().unwrap()]);
    }
}
