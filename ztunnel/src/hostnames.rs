//! Workloads that are known by a host name and have no address, such as the endpoints of a
//! ServiceEntry resolved by DNS: each snapshot goes on with the addresses that their names stand for.
//!
//! One task of the control thread resolves them, through the servers of this process, and again when
//! an answer no longer holds; a connection never waits for it. What fails keeps its last addresses.
//!
//! Everybody in the process follows these snapshots and not those of discovery: who followed the
//! others would act on a state that the rest has not seen.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mesh_discovery::SnapshotReceiver;
use mesh_dns::{Forwarder, Resolved, UpstreamError};
use mesh_model::{Resource, Snapshot, SnapshotBuilder, Workload};
use mesh_runtime::{ReadyGate, Scope};
use mesh_telemetry::DnsMetrics;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Host names resolved; those past it, in order of name, stay without addresses.
const HOSTNAMES_MAX: usize = 1024;
/// Names resolved at once.
const AT_ONCE_MAX: usize = 16;
/// How long after a failure the next attempt is made.
const RETRY: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Known {
    addresses: Vec<IpAddr>,
    until: Instant,
    asking: bool,
}

/// What discovery gives.
pub(crate) struct Found {
    /// Its snapshots.
    pub(crate) snapshots: SnapshotReceiver,
    /// Opens when the first full state is among them.
    pub(crate) full: ReadyGate,
    /// Opens when that has been handed on: before, a connection would be decided without it.
    pub(crate) handed_on: ReadyGate,
}

/// The snapshots with addresses filled in. Ends with the scope.
pub(crate) fn resolved(
    scope: &Scope,
    found: Found,
    forwarder: Forwarder,
    ipv6: bool,
    metrics: DnsMetrics,
) -> SnapshotReceiver {
    let (sender, receiver) = watch::channel(found.snapshots.borrow().clone());
    let names = Names {
        forwarder,
        ipv6,
        metrics,
        known: BTreeMap::new(),
    };
    scope.spawn_local("host names", names.follow(found, sender));
    receiver
}

struct Names {
    forwarder: Forwarder,
    ipv6: bool,
    metrics: DnsMetrics,
    known: BTreeMap<Arc<str>, Known>,
}

impl Names {
    async fn follow(mut self, found: Found, sender: watch::Sender<Arc<Snapshot>>) {
        let Found {
            mut snapshots,
            full,
            handed_on,
        } = found;
        let forwarder = self.forwarder;
        let (known, ipv6) = (&mut self.known, self.ipv6);
        let mut asking = FuturesUnordered::new();
        // It may be newer than the one that the receiver was made with.
        let mut current = take_up(&mut snapshots, known, &sender);
        loop {
            let now = Instant::now();
            for (name, known) in known.iter_mut() {
                if asking.len() < AT_ONCE_MAX && !known.asking && known.until <= now {
                    known.asking = true;
                    self.metrics.looked_up(name);
                    let (name, forwarder) = (name.clone(), &forwarder);
                    asking.push(async move {
                        let result = forwarder.resolve(&name, ipv6).await;
                        (name, result)
                    });
                }
            }
            let due = known.values().filter(|k| !k.asking).map(|k| k.until).min();
            let busy = asking.len() >= AT_ONCE_MAX;
            tokio::select! {
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    current = take_up(&mut snapshots, known, &sender);
                }
                // The first full state was published before this gate opened.
                () = full.opened(), if !handed_on.is_open() => {
                    current = take_up(&mut snapshots, known, &sender);
                    handed_on.open();
                }
                Some((name, result)) = asking.next() => {
                    if learned(known, &name, result) {
                        sender.send_replace(filled(&current, known));
                    }
                }
                () = sleep_until(due.unwrap_or(now)), if due.is_some() && !busy => {}
            }
        }
    }
}

/// Takes up the newest snapshot and hands it on.
fn take_up(
    snapshots: &mut SnapshotReceiver,
    known: &mut BTreeMap<Arc<str>, Known>,
    sender: &watch::Sender<Arc<Snapshot>>,
) -> Arc<Snapshot> {
    let current = snapshots.borrow_and_update().clone();
    note(known, &current);
    sender.send_replace(filled(&current, known));
    current
}

fn needs_address(workload: &Workload) -> Option<&Arc<str>> {
    workload
        .hostname
        .as_ref()
        .filter(|_| workload.addresses.is_empty())
}

/// Takes up the names of a snapshot, and forgets those that are gone.
fn note(known: &mut BTreeMap<Arc<str>, Known>, snapshot: &Snapshot) {
    let wanted: BTreeSet<&Arc<str>> = snapshot
        .workloads()
        .filter_map(|w| needs_address(w))
        .collect();
    if wanted.len() > HOSTNAMES_MAX {
        let names = wanted.len();
        tracing::warn!(
            names,
            bound = HOSTNAMES_MAX,
            "too many host names: the rest is not resolved"
        );
    }
    let wanted: BTreeSet<&Arc<str>> = wanted.into_iter().take(HOSTNAMES_MAX).collect();
    known.retain(|name, _| wanted.contains(name));
    for name in wanted {
        known.entry(name.clone()).or_insert_with(|| Known {
            addresses: Vec::new(),
            until: Instant::now(),
            asking: false,
        });
    }
}

/// Takes up an answer; whether the addresses are others than before.
fn learned(
    known: &mut BTreeMap<Arc<str>, Known>,
    name: &Arc<str>,
    result: Result<Resolved, UpstreamError>,
) -> bool {
    let Some(known) = known.get_mut(name) else {
        return false;
    };
    known.asking = false;
    match result {
        Ok(resolved) => {
            known.until = Instant::now() + resolved.holds;
            let changed = known.addresses != resolved.addresses;
            known.addresses = resolved.addresses;
            changed
        }
        Err(error) => {
            tracing::warn!(%name, %error, "a workload's host name is not resolved");
            known.until = Instant::now() + RETRY;
            false
        }
    }
}

/// The snapshot with the addresses known so far.
fn filled(snapshot: &Arc<Snapshot>, known: &BTreeMap<Arc<str>, Known>) -> Arc<Snapshot> {
    if known.values().all(|k| k.addresses.is_empty()) {
        return snapshot.clone();
    }
    let mut builder = SnapshotBuilder::of(snapshot);
    for workload in snapshot.workloads() {
        let found = needs_address(workload).and_then(|name| known.get(name));
        if let Some(found) = found.filter(|k| !k.addresses.is_empty()) {
            let mut workload = Workload::clone(workload);
            workload.addresses = found.addresses.clone();
            builder.upsert(Resource::Workload(Arc::new(workload)));
        }
    }
    builder.snapshot()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(uid: &str, hostname: &str) -> Workload {
        let mut workload = Workload::new(uid, "demo", uid);
        workload.hostname = Some(hostname.into());
        workload
    }

    #[test]
    fn names_get_their_addresses_and_keep_them_through_a_failure() {
        let mut builder = SnapshotBuilder::new();
        builder.upsert(Resource::Workload(Arc::new(named("a", "a.example"))));
        let mut with_address = named("b", "b.example");
        with_address.addresses = vec![[10, 0, 0, 2].into()];
        builder.upsert(Resource::Workload(Arc::new(with_address)));
        let snapshot = builder.snapshot();
        let mut known = BTreeMap::new();
        note(&mut known, &snapshot);
        let name: Arc<str> = "a.example".into();
        assert_eq!(known.keys().collect::<Vec<_>>(), [&name]);
        assert!(Arc::ptr_eq(&filled(&snapshot, &known), &snapshot));

        let address = IpAddr::from([192, 0, 2, 1]);
        let found = || Resolved {
            addresses: vec![address],
            holds: Duration::from_secs(60),
        };
        assert!(learned(&mut known, &name, Ok(found())));
        assert!(!learned(&mut known, &name, Ok(found())));
        assert!(!learned(&mut known, &name, Err(UpstreamError::NoServer)));
        let full = filled(&snapshot, &known);
        let uid = mesh_model::WorkloadUid("a".into());
        assert_eq!(full.workload(&uid).unwrap().addresses, [address]);
        assert_eq!(
            snapshot.workload(&uid).unwrap().addresses,
            Vec::<IpAddr>::new()
        );

        builder.remove(&Resource::Workload(snapshot.workload(&uid).unwrap().clone()).key());
        note(&mut known, &builder.snapshot());
        assert!(known.is_empty());
        assert!(!learned(&mut known, &name, Ok(found())));
    }

    #[test]
    fn the_gate_opens_when_the_first_full_state_has_been_handed_on() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let scope = Scope::new();
            let readiness = mesh_runtime::Readiness::new();
            let (full, handed_on) = (readiness.gate("full"), readiness.gate("handed on"));
            let (sender, snapshots) = watch::channel(SnapshotBuilder::new().snapshot());
            let found = Found {
                snapshots,
                full: full.clone(),
                handed_on: handed_on.clone(),
            };
            let settings = mesh_dns::UpstreamSettings {
                servers: Vec::new(),
                connect: mesh_net::ConnectOptions::default(),
                timeout: mesh_dns::QUERY_TIMEOUT,
                cache: mesh_dns::CacheBounds::default(),
            };
            let forwarder = Forwarder::new(settings, mesh_dns::Outstanding::new(1));
            let metrics = DnsMetrics::new(&mesh_telemetry::Metrics::new("test"));
            let given = resolved(&scope, found, forwarder, false, metrics);
            let mut builder = SnapshotBuilder::new();
            builder.upsert(Resource::Workload(Arc::new(named("a", "a.example"))));
            sender.send_replace(builder.snapshot());
            full.open();
            assert!(!handed_on.is_open() && given.borrow().workloads().count() == 0);
            handed_on.opened().await;
            assert_eq!(given.borrow().workloads().count(), 1);
            scope.cancel();
        });
    }
}
