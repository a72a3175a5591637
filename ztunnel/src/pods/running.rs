//! The pods that run, for connections that look for one, and for admin pages.

use super::Pod;
use mesh_model::Workload;
use mesh_proxy::WorkloadInfo;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, Weak};

type Table = HashMap<WorkloadInfo, Weak<Pod>>;

/// The pods that run, by what the control plane knows them by. Written when a pod starts or stops;
/// a connection that looks holds the lock as long as one look-up takes.
#[derive(Debug, Default)]
pub(crate) struct Running(RwLock<Table>);

impl Running {
    /// Replaces the table.
    pub(super) fn set<'a>(&self, pods: impl Iterator<Item = &'a Arc<Pod>>) {
        let table = pods.map(|pod| (pod.spec.info.clone(), Arc::downgrade(pod)));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = table.collect();
    }

    /// The pod that a workload is: of the same name and account, and known to the control plane as
    /// this very workload. Names alone are not enough, for another node may have a pod of that name.
    pub(crate) fn of(&self, workload: &Workload) -> Option<Arc<Pod>> {
        let info = WorkloadInfo {
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
            service_account: workload.service_account.clone(),
        };
        let pod = {
            let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
            table.get(&info)?.upgrade()?
        };
        let known = pod.local.borrow().clone()?;
        (known.workload.uid == workload.uid && !pod.drain.is_started()).then_some(pod)
    }

    /// All of them, by name.
    pub(crate) fn list(&self) -> Vec<Arc<Pod>> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut pods: Vec<Arc<Pod>> = table.values().filter_map(Weak::upgrade).collect();
        let name = |pod: &Arc<Pod>| (pod.spec.info.namespace.clone(), pod.spec.info.name.clone());
        pods.sort_by_key(name);
        pods
    }
}
