//! The state being built, and the notices of it: changes within a short time come as one.

use crate::{Discovery, SnapshotReceiver};
use mesh_model::{PolicyCompatibility, Resource, ResourceKey, Snapshot, SnapshotBuilder};
use mesh_runtime::ReadyGate;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// A resource that was refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// Its type.
    pub type_url: String,
    /// Its name, or the file's path.
    pub name: String,
    /// Why, naming the field.
    pub why: String,
}

/// How discovery fares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DiscoveryStatus {
    /// A stream is open, or the file was read.
    pub connected: bool,
    /// Streams opened so far, or times the file was read.
    pub sessions: u64,
    /// Why the last stream ended, or the file could not be used.
    pub last_error: Option<String>,
    /// The resources refused and not yet replaced by good ones.
    pub rejected: Vec<Rejected>,
}

/// Gives the status, and notices of each change.
pub type StatusReceiver = watch::Receiver<Arc<DiscoveryStatus>>;

/// Takes changes in and hands snapshots out.
pub(crate) struct Hub {
    builder: SnapshotBuilder,
    compatibility: PolicyCompatibility,
    snapshots: watch::Sender<Arc<Snapshot>>,
    status: watch::Sender<Arc<DiscoveryStatus>>,
    rejected: BTreeMap<(String, String), String>,
    gate: ReadyGate,
    changed: bool,
    /// The first full state was there: before, what is known may lack the policies of it.
    complete: bool,
}

impl Hub {
    pub(crate) fn new(gate: ReadyGate, compatibility: PolicyCompatibility) -> (Self, Discovery) {
        let builder = SnapshotBuilder::with_compatibility(compatibility);
        let (snapshots, receiver) = watch::channel(builder.snapshot());
        let (status, status_receiver) = watch::channel(Arc::default());
        let hub = Self {
            builder,
            compatibility,
            snapshots,
            status,
            rejected: BTreeMap::new(),
            gate,
            changed: false,
            complete: false,
        };
        let discovery = Discovery {
            snapshots: receiver as SnapshotReceiver,
            status: status_receiver,
        };
        (hub, discovery)
    }

    /// What becomes of policies that cannot be read.
    pub(crate) fn compatibility(&self) -> PolicyCompatibility {
        self.compatibility
    }

    /// Takes a good resource in.
    pub(crate) fn upsert(&mut self, resource: Resource) {
        self.builder.upsert(resource);
        self.changed = true;
    }

    /// Forgets a resource.
    pub(crate) fn remove(&mut self, key: &ResourceKey) {
        self.builder.remove(key);
        self.changed = true;
    }

    /// Notes that a resource was refused.
    pub(crate) fn reject(&mut self, type_url: &str, name: &str, why: String) {
        self.rejected.insert((type_url.into(), name.into()), why);
    }

    /// Forgets that a resource was refused: it is good now, or gone.
    pub(crate) fn clear_rejection(&mut self, type_url: &str, name: &str) {
        self.rejected
            .remove(&(type_url.to_owned(), name.to_owned()));
    }

    /// Hands out what has changed since the last call. Nothing before the first full state: a
    /// workload without the policies that come in another message would be open to everybody.
    pub(crate) fn publish(&mut self) {
        if self.changed && self.complete {
            self.changed = false;
            self.snapshots.send_replace(self.builder.snapshot());
        }
    }

    /// Whether changes wait to be published.
    pub(crate) fn is_changed(&self) -> bool {
        self.changed
    }

    /// The first full state is there.
    pub(crate) fn open_gate(&mut self) {
        self.complete = true;
        self.publish();
        self.gate.open();
    }

    /// Changes the status and hands it out if it differs.
    pub(crate) fn set_status(&mut self, change: impl FnOnce(&mut DiscoveryStatus)) {
        let mut next = (**self.status.borrow()).clone();
        change(&mut next);
        next.rejected = self
            .rejected
            .iter()
            .map(|((type_url, name), why)| Rejected {
                type_url: type_url.clone(),
                name: name.clone(),
                why: why.clone(),
            })
            .collect();
        self.status.send_if_modified(|current| {
            let differs = **current != next;
            if differs {
                *current = Arc::new(next);
            }
            differs
        });
    }
}
