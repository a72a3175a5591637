//! The table of open connections, for `/debug/connections`.

use crate::connection::ByteCounts;
use crate::facts::{ConnectionFacts, Party};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Number of locks the table is split over, so that worker threads rarely meet at one.
const SHARDS: u64 = 16;

/// One open connection as the admin interface shows it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LiveConnection {
    /// Unique within the process.
    pub id: u64,
    /// `inbound` or `outbound`.
    pub direction: &'static str,
    /// `source`, `destination` or `waypoint`.
    pub reporter: &'static str,
    /// Who connected.
    pub source: LiveParty,
    /// Who is connected to.
    pub destination: LiveParty,
    /// Host name of the service asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Authority of the tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hbone_address: Option<String>,
    /// `mutual_tls` or `unknown`.
    pub security: &'static str,
    /// The policy that allowed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// `tcp`, `hbone`, `double_hbone` or `node` (both ends are pods of this process).
    pub transport: &'static str,
    /// Key exchange group of the TLS under it, when known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_group: Option<&'static str>,
    /// Bytes from the server to the client.
    pub bytes_sent: u64,
    /// Bytes from the client to the server.
    pub bytes_received: u64,
    /// Time since it was accepted, in milliseconds.
    pub age_ms: u64,
}

/// One end of an open connection.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LiveParty {
    /// `namespace/name` of the workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl LiveParty {
    fn of(facts: &ConnectionFacts, party: &Party) -> Self {
        Self {
            workload: party.workload.as_ref().map(|w| w.object_name().to_string()),
            identity: facts.proven(party).map(ToString::to_string),
            address: party.address.map(|a| a.to_string()),
        }
    }
}

#[derive(Debug)]
pub(crate) struct LiveEntry {
    id: u64,
    since: Instant,
    /// None only while they are changed.
    facts: Mutex<Option<Arc<ConnectionFacts>>>,
    counts: Arc<ByteCounts>,
}

impl LiveEntry {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Changes the facts, which are the record's and are shown here. What is shown is given up
    /// meanwhile, so that they are changed in place: they are copied only when a page is just being made.
    pub(crate) fn change(
        &self,
        facts: &mut Arc<ConnectionFacts>,
        change: impl FnOnce(&mut ConnectionFacts),
    ) {
        let mut shown = held(&self.facts);
        *shown = None;
        change(Arc::make_mut(facts));
        *shown = Some(facts.clone());
    }

    fn show(&self) -> Option<LiveConnection> {
        let facts = held(&self.facts).clone()?;
        Some(LiveConnection {
            id: self.id,
            direction: facts.direction.as_str(),
            reporter: facts.reporter.as_str(),
            source: LiveParty::of(&facts, &facts.source),
            destination: LiveParty::of(&facts, &facts.destination),
            service: facts.service.as_ref().map(|s| s.name.hostname.to_string()),
            hbone_address: facts.hbone_address.clone(),
            security: facts.security.as_str(),
            policy: facts.policy.clone(),
            transport: facts.transport.as_str(),
            tls_group: facts.tls_group,
            bytes_sent: self.counts.sent(),
            bytes_received: self.counts.received(),
            age_ms: u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX),
        })
    }
}

type Shard = Mutex<HashMap<u64, Arc<LiveEntry>>>;

/// Bounded by the connection limits of the proxy that opens the records.
#[derive(Debug)]
pub(crate) struct LiveTable {
    shards: Vec<Shard>,
    next: AtomicU64,
}

impl LiveTable {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            next: AtomicU64::new(1),
        }
    }

    pub(crate) fn open(
        &self,
        facts: Arc<ConnectionFacts>,
        counts: Arc<ByteCounts>,
    ) -> Arc<LiveEntry> {
        let entry = Arc::new(LiveEntry {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            since: Instant::now(),
            facts: Mutex::new(Some(facts)),
            counts,
        });
        if let Some(shard) = self.shard(entry.id) {
            held(shard).insert(entry.id, entry.clone());
        }
        entry
    }

    pub(crate) fn close(&self, entry: &LiveEntry) {
        if let Some(shard) = self.shard(entry.id) {
            held(shard).remove(&entry.id);
        }
    }

    /// Every open connection, oldest first.
    pub(crate) fn list(&self) -> Vec<LiveConnection> {
        let mut entries: Vec<Arc<LiveEntry>> = Vec::new();
        for shard in &self.shards {
            entries.extend(held(shard).values().cloned());
        }
        entries.sort_by_key(|e| e.id);
        entries.iter().filter_map(|e| e.show()).collect()
    }

    fn shard(&self, id: u64) -> Option<&Shard> {
        self.shards.get(usize::try_from(id % SHARDS).ok()?)
    }
}

/// The lock, also after a panic elsewhere: the data under it is whole after every statement.
pub(crate) fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
