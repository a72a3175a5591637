//! Our own workload, as the control plane describes it.
//!
//! It is known by namespace, name and service account, never by address (interop/xds-workload.md
//! section 7). One task looks it up in each new snapshot, so that a connection does not search.

use mesh_discovery::SnapshotReceiver;
use mesh_model::{Reason, Snapshot, Workload};
use mesh_plan::Refusal;
use mesh_proxy::WorkloadInfo;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a connection waits for our workload to become known.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Gives our workload, and notices of its changes.
pub(crate) type LocalReceiver = watch::Receiver<Option<Arc<Workload>>>;

/// Follows the snapshots until the task is ended.
pub(crate) async fn follow(
    info: WorkloadInfo,
    mut snapshots: SnapshotReceiver,
    local: watch::Sender<Option<Arc<Workload>>>,
) {
    loop {
        let next = look_up(&info, &snapshots.borrow_and_update().clone());
        local.send_if_modified(|current| {
            let differs = *current != next;
            if differs {
                *current = next;
            }
            differs
        });
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

fn look_up(info: &WorkloadInfo, snapshot: &Snapshot) -> Option<Arc<Workload>> {
    let ours = |w: &&Arc<Workload>| {
        w.name == info.name
            && w.namespace == info.namespace
            && w.service_account == info.service_account
    };
    // Of several (a pod of a stateful set that moved), always the same one.
    snapshot
        .workloads()
        .filter(ours)
        .min_by(|a, b| a.uid.cmp(&b.uid))
        .cloned()
}

/// Our workload, waiting up to 5 s for it to become known.
///
/// # Errors
/// [`Reason::UnknownWorkload`] when it stays unknown: the connection must fail (closed).
pub(crate) async fn known(
    local: &LocalReceiver,
    info: &WorkloadInfo,
) -> Result<Arc<Workload>, Refusal> {
    let now = local.borrow().clone();
    if let Some(known) = now {
        return Ok(known);
    }
    let mut local = local.clone();
    let waiting = tokio::time::timeout(KNOWN_TIMEOUT, local.wait_for(Option::is_some)).await;
    let found = waiting.ok().and_then(Result::ok).and_then(|w| w.clone());
    found.ok_or_else(|| {
        let (namespace, name) = (&info.namespace, &info.name);
        let detail = format!("the control plane does not know {namespace}/{name} (yet)");
        Refusal::new(Reason::UnknownWorkload, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::{Resource, SnapshotBuilder};

    #[test]
    fn only_the_workload_of_our_account_is_ours() {
        let mut builder = SnapshotBuilder::new();
        for account in ["a", "b"] {
            let mut workload = Workload::new(account, "demo", "web");
            workload.service_account = account.into();
            builder.upsert(Resource::Workload(Arc::new(workload)));
        }
        let mut info = WorkloadInfo {
            namespace: "demo".into(),
            name: "web".into(),
            service_account: "b".into(),
        };
        let snapshot = builder.snapshot();
        assert_eq!(&*look_up(&info, &snapshot).unwrap().uid.0, "b");
        info.service_account = "c".into();
        assert!(look_up(&info, &snapshot).is_none());
    }
}
