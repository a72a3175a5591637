//! The pods of this node, each brought as far as it goes: network namespace, rules, proxy
//! (interop/zds-cni.md section 4).

use crate::rules::Rules;
use mesh_net::Netns;
use mesh_telemetry::{Counter, Gauge, Metrics};
use mesh_zds::{Hub, PodFile, PodFiles};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How often the folder is looked at.
const POLL: Duration = Duration::from_millis(250);
/// Pause before the first further attempt at what may pass.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest pause; each is twice the one before.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How far a pod has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "why")]
pub(crate) enum Progress {
    /// The proxy carries its traffic.
    Carried,
    /// Not yet, and tried again.
    Pending(String),
    /// The rules cannot be put in place: not tried again.
    Failed(String),
}

/// What the admin pages show, by uid. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown(Arc<Mutex<BTreeMap<String, Progress>>>);

impl Shown {
    /// All pods as they are now.
    pub(crate) fn all(&self) -> BTreeMap<String, Progress> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, uid: &str, progress: Option<&Progress>) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match progress {
            Some(progress) => shown.insert(uid.to_owned(), progress.clone()),
            None => shown.remove(uid),
        };
    }
}

#[derive(Debug)]
struct Entry {
    file: PodFile,
    netns: Option<Netns>,
    rules_stand: bool,
    progress: Progress,
    pause: Duration,
    retry_at: Instant,
}

/// The pods and what becomes of them.
pub(crate) struct Pods {
    hub: Hub,
    rules: Rules,
    shown: Shown,
    entries: BTreeMap<String, Entry>,
    pending: Gauge,
    failed: Counter,
}

impl Pods {
    /// None yet.
    pub(crate) fn new(hub: Hub, rules: Rules, shown: Shown, metrics: &Metrics) -> Self {
        Self {
            hub,
            rules,
            shown,
            entries: BTreeMap::new(),
            pending: metrics.gauge(
                "node_agent_pods_pending",
                "Pods whose traffic the proxy does not carry yet",
            ),
            failed: metrics.counter(
                "node_agent_rules_failed",
                "Pods whose redirection could not be put in place",
            ),
        }
    }

    /// Takes up the pods that there are when the agent starts: proxies keep those that they have,
    /// until each was looked at. Without it a proxy that connects meanwhile would end them.
    pub(crate) fn keep(&mut self, wanted: BTreeMap<String, PodFile>) {
        for (uid, file) in wanted {
            self.note(uid, file);
        }
    }

    /// Follows the folder until the task is ended.
    pub(crate) async fn follow(mut self, mut files: PodFiles) {
        let mut last_error = None;
        loop {
            match files.look().await {
                Ok(wanted) => {
                    self.reconcile(wanted).await;
                    last_error = None;
                }
                Err(error) => {
                    let error = error.to_string();
                    if last_error.as_ref() != Some(&error) {
                        tracing::error!(folder = %files.folder().display(), error, "the pods cannot be read; all stay as they are");
                    }
                    last_error = Some(error);
                }
            }
            self.advance_all().await;
            sleep_until(self.wake_at()).await;
        }
    }

    /// Lets go of what is gone or described otherwise, and takes note of what is new.
    async fn reconcile(&mut self, wanted: BTreeMap<String, PodFile>) {
        let gone = |(uid, entry): &(&String, &Entry)| wanted.get(*uid) != Some(&entry.file);
        let gone: Vec<String> = self
            .entries
            .iter()
            .filter(gone)
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in gone {
            self.release(&uid).await;
        }
        for (uid, file) in wanted {
            if !self.entries.contains_key(&uid) {
                self.note(uid, file);
            }
        }
    }

    fn note(&mut self, uid: String, file: PodFile) {
        if let Err(error) = self.hub.keep(file.pod.clone()) {
            tracing::error!(uid, %error, "pod not taken up");
            return;
        }
        let progress = Progress::Pending("not looked at yet".into());
        self.shown.set(&uid, Some(&progress));
        let entry = Entry {
            file,
            netns: None,
            rules_stand: false,
            progress,
            pause: PAUSE_MIN,
            retry_at: Instant::now(),
        };
        self.entries.insert(uid, entry);
    }

    /// A pod that is gone, or that is to be left alone from now on. Its rules go first, while its
    /// proxy still carries what they send there.
    async fn release(&mut self, uid: &str) {
        let Some(entry) = self.entries.remove(uid) else {
            return;
        };
        let lives = Netns::open(&entry.file.netns).ok();
        if let Some(netns) = entry.netns
            && lives.as_ref() == Some(&netns)
            && let Err(error) = self.rules.remove(&netns).await
        {
            tracing::warn!(uid, %error, "the rules of a released pod were not taken away");
        }
        self.hub.del(uid);
        self.shown.set(uid, None);
        tracing::info!(uid, "pod released");
    }

    async fn advance_all(&mut self) {
        let now = Instant::now();
        let due =
            |entry: &Entry| matches!(entry.progress, Progress::Pending(_)) && entry.retry_at <= now;
        for (uid, entry) in self.entries.iter_mut().filter(|(_, entry)| due(entry)) {
            let progress = advance(&self.hub, &self.rules, entry).await;
            if matches!(progress, Progress::Failed(_)) {
                self.failed.inc();
            }
            if progress != entry.progress {
                tracing::info!(uid, ?progress, "pod");
            }
            entry.retry_at = Instant::now() + entry.pause;
            entry.pause = (entry.pause * 2).min(PAUSE_MAX);
            self.shown.set(uid, Some(&progress));
            entry.progress = progress;
        }
        let pending = |entry: &&Entry| entry.progress != Progress::Carried;
        let count = self.entries.values().filter(pending).count();
        self.pending.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn wake_at(&self) -> Instant {
        let pending = |entry: &&Entry| matches!(entry.progress, Progress::Pending(_));
        let retries = self.entries.values().filter(pending).map(|e| e.retry_at);
        let look = Instant::now() + POLL;
        retries.min().map_or(look, |retry| retry.min(look))
    }
}

/// Takes a pod as far as it goes now.
async fn advance(hub: &Hub, rules: &Rules, entry: &mut Entry) -> Progress {
    let netns = match &entry.netns {
        Some(netns) => netns.clone(),
        None => match Netns::open(&entry.file.netns) {
            Ok(netns) => entry.netns.insert(netns).clone(),
            Err(error) => {
                let path = entry.file.netns.display();
                return Progress::Pending(format!("network namespace {path}: {error}"));
            }
        },
    };
    if !entry.rules_stand {
        if let Err(error) = rules.apply(&netns).await {
            // What cannot be captured must not be carried in part either.
            return Progress::Failed(error.to_string());
        }
        // A proxy that replaces another would lose connections without it; it tries too.
        if let Err(error) = netns.migrate_handshakes() {
            tracing::debug!(pod = entry.file.pod.uid, %error, "connections being made when a proxy is replaced will be reset");
        }
        entry.rules_stand = true;
    }
    match hub.add(entry.file.pod.clone(), netns).await {
        Ok(()) => Progress::Carried,
        Err(error) => Progress::Pending(error.to_string()),
    }
}
