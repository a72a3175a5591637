//! One certificate an identity: fetched, kept, renewed, forgotten.

use crate::client::{CaClient, FetchError};
use crate::queue::{Priority, Queue, Turn};
use crate::schedule::{self, Backoff};
use crate::status::{CertificateStatus, Notes};
use mesh_grpc::ChannelSettings;
use mesh_model::{Dice, Reason, SpiffeId};
use mesh_runtime::Scope;
use mesh_tls::{CertificateReceiver, PrivateKey, TlsPolicy, WorkloadCertificate, new_csr};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};

/// Most requests under way at once (interop/ca.md, Client side).
const FETCHES_MAX: usize = 8;
/// Most identities kept: far above the pods of one node.
const IDENTITIES_MAX: usize = 4096;
/// How long [`Identities::certificate`] waits for the first certificate.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest sleep in one piece: the wall clock may jump, or stand still while the machine sleeps.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Where certificates come from.
#[derive(Debug, Clone)]
pub enum CertificateSource {
    /// A certificate authority.
    Ca {
        /// Where it is and as whom we call.
        channel: ChannelSettings,
        /// Ask in the name of each identity (node proxies), not in the caller's own.
        impersonate: bool,
        /// Lifetime asked for (`SECRET_TTL`).
        ttl: Duration,
    },
    /// This process signs them itself (`FAKE_CA`, for tests and trials).
    SelfSigned,
}

/// Why there is no certificate.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IdentityFetchError {
    /// None came in time.
    #[error("no certificate for {identity} within 5 s: {last}")]
    NotYet {
        /// For whom.
        identity: SpiffeId,
        /// The last failure.
        last: String,
    },
    /// The identity was forgotten, or the process keeps too many.
    #[error("no certificate is kept for {0}")]
    NotKept(SpiffeId),
}

impl IdentityFetchError {
    /// The stable reason code.
    pub const fn reason(&self) -> Reason {
        Reason::NoIdentity
    }
}

/// The certificates of a process. Clones are the same.
///
/// Requests run as tasks of the scope and runtime it was started on; [`Self::watch`] and
/// [`Self::certificate`] may be called on any thread.
#[derive(Clone)]
pub struct Identities(Arc<Shared>);

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities")
            .field("kept", &self.0.table().kept.len())
            .finish()
    }
}

struct Shared {
    issuer: Issuer,
    policy: TlsPolicy,
    fetches: Queue,
    table: Mutex<Table>,
    added: Notify,
}

enum Issuer {
    Ca {
        client: Box<CaClient>,
        impersonate: bool,
    },
    SelfSigned,
}

#[derive(Default)]
struct Table {
    kept: BTreeMap<SpiffeId, Arc<Entry>>,
    /// Added and not yet given a task.
    pending: Vec<Arc<Entry>>,
}

struct Entry {
    identity: SpiffeId,
    sender: watch::Sender<Option<Arc<WorkloadCertificate>>>,
    notes: Mutex<Notes>,
    forgotten: Notify,
    /// A connection waits for the first certificate.
    urgent: Notify,
}

impl Identities {
    /// Starts keeping certificates; none yet.
    pub fn start(source: CertificateSource, scope: &Scope) -> Self {
        Self::start_with(source, TlsPolicy::default(), scope)
    }

    /// As [`Self::start`], the certificates to be used with `policy`.
    pub fn start_with(source: CertificateSource, policy: TlsPolicy, scope: &Scope) -> Self {
        let issuer = match source {
            CertificateSource::SelfSigned => Issuer::SelfSigned,
            CertificateSource::Ca {
                channel,
                impersonate,
                ttl,
            } => Issuer::Ca {
                client: Box::new(CaClient::new(channel, ttl)),
                impersonate,
            },
        };
        let shared = Arc::new(Shared {
            issuer,
            policy,
            fetches: Queue::new(FETCHES_MAX),
            table: Mutex::default(),
            added: Notify::new(),
        });
        scope.spawn("certificates", supervise(shared.clone(), scope.clone()));
        Self(shared)
    }

    /// The certificate of an identity as it is renewed; the first call starts keeping it, without
    /// haste: who needs it now asks [`Self::certificate`]. The receiver's sender is gone when the identity is not kept.
    pub fn watch(&self, identity: &SpiffeId) -> CertificateReceiver {
        self.entry(identity)
            .map_or_else(|| watch::channel(None).1, |e| e.sender.subscribe())
    }

    fn entry(&self, identity: &SpiffeId) -> Option<Arc<Entry>> {
        let mut table = self.0.table();
        if let Some(entry) = table.kept.get(identity) {
            return Some(entry.clone());
        }
        if table.kept.len() >= IDENTITIES_MAX {
            tracing::error!(%identity, limit = IDENTITIES_MAX, "too many identities");
            return None;
        }
        let entry = Arc::new(Entry {
            identity: identity.clone(),
            sender: watch::Sender::new(None),
            notes: Mutex::default(),
            forgotten: Notify::new(),
            urgent: Notify::new(),
        });
        table.kept.insert(identity.clone(), entry.clone());
        table.pending.push(entry.clone());
        self.0.added.notify_one();
        Some(entry)
    }

    /// The certificate of an identity; waits up to 5 s for the first.
    ///
    /// # Errors
    /// When none came, or the one there was is over: the connection must fail (closed).
    pub async fn certificate(
        &self,
        identity: &SpiffeId,
    ) -> Result<Arc<WorkloadCertificate>, IdentityFetchError> {
        let not_kept = || IdentityFetchError::NotKept(identity.clone());
        let entry = self.entry(identity).ok_or_else(not_kept)?;
        let mut receiver = entry.sender.subscribe();
        if receiver.borrow().is_none() {
            entry.urgent.notify_one();
        }
        let usable = |c: &Option<Arc<WorkloadCertificate>>| {
            c.as_ref()
                .is_some_and(|c| SystemTime::now() < c.not_after())
        };
        match tokio::time::timeout(WAIT_MAX, receiver.wait_for(usable)).await {
            Ok(found) => found
                .ok()
                .and_then(|c| c.as_ref().cloned())
                .ok_or_else(not_kept),
            Err(_) => Err(IdentityFetchError::NotYet {
                identity: identity.clone(),
                last: entry
                    .notes()
                    .last_error
                    .clone()
                    .unwrap_or_else(|| "no answer yet".into()),
            }),
        }
    }

    /// Forgets every other identity: its certificate is withdrawn and no longer renewed.
    pub fn retain(&self, wanted: &BTreeSet<SpiffeId>) {
        let mut table = self.0.table();
        table.pending.retain(|e| wanted.contains(&e.identity));
        table.kept.retain(|identity, entry| {
            let keep = wanted.contains(identity);
            if !keep {
                entry.forget();
            }
            keep
        });
    }

    /// Every identity kept and the state of its certificate, in order.
    pub fn list(&self) -> Vec<CertificateStatus> {
        let table = self.0.table();
        table.kept.values().map(|e| e.status()).collect()
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change of the table is one insert or removal: nothing can be left half-done.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self, entry: &Entry) -> Result<WorkloadCertificate, FetchError> {
        let identity = &entry.identity;
        let Issuer::Ca {
            client,
            impersonate,
        } = &self.issuer
        else {
            let policy = &self.policy;
            return Ok(WorkloadCertificate::self_signed_with(identity, policy)?);
        };
        let _turn = self.turn(entry).await;
        let (csr, key) = request(identity).await?;
        let chain = client.sign(csr, impersonate.then_some(identity)).await?;
        let policy = &self.policy;
        Ok(WorkloadCertificate::from_chain_with(
            identity, key, &chain, policy,
        )?)
    }

    /// Waits for a turn to ask. What a connection begins to wait for meanwhile becomes urgent.
    async fn turn(&self, entry: &Entry) -> Turn {
        let priority = if entry.sender.borrow().is_some() {
            Priority::Background
        } else {
            Priority::Warmup
        };
        tokio::select! {
            turn = self.fetches.turn(priority) => turn,
            () = entry.urgent.notified() => self.fetches.turn(Priority::RealTime).await,
        }
    }
}

/// A new key and the request for its certificate, made off the control runtime: the first key of a
/// process waits some 25 ms for entropy, and readiness and configuration should not wait with it.
async fn request(identity: &SpiffeId) -> Result<(String, PrivateKey), FetchError> {
    let identity = identity.clone();
    let made = tokio::task::spawn_blocking(move || new_csr(&identity)).await;
    Ok(made.map_err(|_| FetchError::NoKey)??)
}

impl Entry {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, certificate: Option<Arc<WorkloadCertificate>>) {
        let mut notes = self.notes();
        if notes.forgotten {
            return;
        }
        if certificate.is_some() {
            notes.issued_once = true;
            notes.failures = 0;
            notes.last_error = None;
        }
        self.sender.send_replace(certificate);
    }

    fn forget(&self) {
        let mut notes = self.notes();
        notes.forgotten = true;
        self.sender.send_replace(None);
        self.forgotten.notify_one();
    }

    fn held_until(&self) -> Option<SystemTime> {
        self.sender.borrow().as_ref().map(|c| c.not_after())
    }

    fn status(&self) -> CertificateStatus {
        let held = self.sender.borrow().clone();
        CertificateStatus::of(self.identity.to_string(), held.as_deref(), &self.notes())
    }
}

/// Gives each identity added its task, here on the control runtime: `watch` is called on workers.
async fn supervise(shared: Arc<Shared>, scope: Scope) {
    loop {
        shared.added.notified().await;
        let pending = std::mem::take(&mut shared.table().pending);
        for entry in pending {
            let shared = shared.clone();
            scope.spawn("certificate", async move {
                tokio::select! {
                    () = keep(&shared, &entry) => {}
                    () = entry.forgotten.notified() => {}
                }
            });
        }
    }
}

async fn keep(shared: &Shared, entry: &Entry) {
    let mut dice = Dice::seeded(RandomState::new().hash_one(&entry.identity));
    let mut backoff = Backoff::default();
    loop {
        let result = shared.fetch(entry).await;
        let now = SystemTime::now();
        let next = match result {
            Ok(certificate) => issued(entry, certificate, now, &mut backoff, &mut dice),
            Err(error) => failed(entry, &error, now, &mut backoff, &mut dice),
        };
        entry.notes().next_fetch = Some(next);
        sleep_until(next).await;
    }
}

fn issued(
    entry: &Entry,
    certificate: WorkloadCertificate,
    now: SystemTime,
    backoff: &mut Backoff,
    dice: &mut Dice,
) -> SystemTime {
    let (from, to) = (certificate.not_before(), certificate.not_after());
    tracing::info!(
        identity = %entry.identity,
        serial = certificate.serial(),
        valid_s = to.duration_since(now).unwrap_or_default().as_secs(),
        "certificate issued"
    );
    entry.publish(Some(Arc::new(certificate)));
    let due = schedule::renew_at(from, to, now, dice);
    if due > now {
        backoff.reset();
        return due;
    }
    // Due already when issued (clocks differ, or the signer is about to end): ask again, but not
    // in a tight loop.
    schedule::retry_at(now, backoff.delay(dice), Some(to))
}

fn failed(
    entry: &Entry,
    error: &FetchError,
    now: SystemTime,
    backoff: &mut Backoff,
    dice: &mut Dice,
) -> SystemTime {
    let held_until = entry.held_until();
    let story = error.story();
    if held_until.is_some_and(|end| end <= now) {
        tracing::error!(identity = %entry.identity, "the certificate is over and has no successor");
        entry.publish(None);
    }
    let next = schedule::retry_at(now, backoff.delay(dice), held_until);
    tracing::warn!(
        identity = %entry.identity,
        error = story,
        retry_ms = next.duration_since(now).unwrap_or_default().as_millis(),
        "no certificate"
    );
    let mut notes = entry.notes();
    notes.failures = notes.failures.saturating_add(1);
    notes.last_error = Some(story);
    next
}

/// Sleeps until a moment of the wall clock, which may jump or stand still.
async fn sleep_until(at: SystemTime) {
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(SLEEP_MAX)).await;
    }
}

#[cfg(test)]
mod tests;
