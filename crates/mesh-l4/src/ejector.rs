//! The endpoints that a client fails to reach, kept for all workers: clock, lock and metric around
//! [`mesh_balance::Ejections`].

use crate::DialError;
use mesh_balance::{Avoided, Ejected, Ejections};
use mesh_model::Dice;
use mesh_telemetry::{Counter, Metrics};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What one source workload has learned of its endpoints, shared by the workers of the process: a
/// failure costs one connection, not one a worker. Not shared between workloads: a network policy may
/// keep one from where another may go. Clones are the same.
///
/// As long as nothing fails, a connection reads one number here and takes no lock.
#[derive(Debug, Clone)]
pub struct Ejector(Arc<Shared>);

/// One endpoint that is avoided, as admin pages show it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Avoidance {
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// Failures in a row.
    pub failures: u32,
    /// How long it is still avoided.
    pub left_ms: u64,
}

impl Avoidance {
    fn of(ejected: Ejected) -> Self {
        Self {
            endpoint: ejected.endpoint,
            failures: ejected.failures,
            left_ms: u64::try_from(ejected.left.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

#[derive(Debug)]
struct Shared {
    /// Endpoints kept in mind.
    tracked: AtomicUsize,
    state: Mutex<State>,
    started: Instant,
    ejections: Counter,
}

#[derive(Debug)]
struct State {
    ejections: Ejections,
    dice: Dice,
    /// As last computed, and until when that holds.
    avoided: Arc<Avoided>,
    holds: Option<Duration>,
}

impl Ejector {
    /// Knows of no failure. Ejections are counted as `strata_endpoint_ejections_total`.
    pub fn new(metrics: &Metrics) -> Self {
        let state = State {
            ejections: Ejections::default(),
            dice: Dice::seeded(RandomState::new().hash_one("ejector")),
            avoided: Arc::default(),
            holds: None,
        };
        Self(Arc::new(Shared {
            tracked: AtomicUsize::new(0),
            state: Mutex::new(state),
            started: Instant::now(),
            ejections: metrics.counter(
                "strata_endpoint_ejections",
                "Endpoints put aside for a while because they could not be reached",
            ),
        }))
    }

    /// The endpoints to avoid now; None when there are none.
    pub fn avoided(&self) -> Option<Arc<Avoided>> {
        if self.0.tracked.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let now = self.0.started.elapsed();
        let mut state = self.state();
        if state.holds.is_none_or(|until| now >= until) {
            let (avoided, until) = state.ejections.avoided(now);
            (state.avoided, state.holds) = (Arc::new(avoided), until);
            self.track(&state);
        }
        (!state.avoided.is_empty()).then(|| state.avoided.clone())
    }

    /// Notes how an attempt at an endpoint went.
    pub(crate) fn note(&self, endpoint: SocketAddr, failure: Option<&DialError>) {
        match failure {
            None if self.0.tracked.load(Ordering::Relaxed) == 0 => {}
            None => {
                let mut state = self.state();
                state.ejections.succeeded(endpoint);
                state.holds = None;
                self.track(&state);
            }
            Some(error) if error.blames_endpoint() => self.failed(endpoint, error),
            Some(_) => {}
        }
    }

    fn failed(&self, endpoint: SocketAddr, error: &DialError) {
        let now = self.0.started.elapsed();
        let mut state = self.state();
        let State {
            ejections, dice, ..
        } = &mut *state;
        if let Some(time) = ejections.failed(endpoint, now, dice) {
            self.0.ejections.inc();
            let avoided_ms = time.as_millis();
            tracing::info!(%endpoint, %error, avoided_ms, "endpoint avoided for a while");
        }
        state.holds = None;
        self.track(&state);
    }

    /// The endpoints avoided now, for admin pages.
    pub fn list(&self) -> Vec<Avoidance> {
        let now = self.0.started.elapsed();
        let list = self.state().ejections.list(now);
        list.into_iter().map(Avoidance::of).collect()
    }

    fn track(&self, state: &State) {
        let count = state.ejections.len();
        self.0.tracked.store(count, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // It is whole after every statement.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_hbone::TunnelError;

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_avoided_for_its_time_and_a_denial_is_none() {
        let metrics = Metrics::new("test");
        let ejector = Ejector::new(&metrics);
        let endpoint: SocketAddr = "10.0.0.1:80".parse().unwrap();
        ejector.note(endpoint, Some(&TunnelError::Refused(401).into()));
        assert_eq!(ejector.avoided(), None);
        ejector.note(endpoint, Some(&TunnelError::Refused(503).into()));
        assert!(ejector.avoided().unwrap().contains(&endpoint));
        let shown = ejector.list();
        assert_eq!((shown[0].endpoint, shown[0].failures), (endpoint, 1));
        tokio::time::advance(mesh_balance::AVOID_MIN).await;
        assert_eq!(ejector.avoided(), None);
        // Soon after, it counts as the second in a row; a success ends the row.
        ejector.note(endpoint, Some(&TunnelError::ResponseTimeout.into()));
        assert_eq!(ejector.list()[0].failures, 2);
        ejector.note(endpoint, None);
        assert!(ejector.list().is_empty() && ejector.avoided().is_none());
        let text = metrics.encode();
        assert!(text.contains("strata_endpoint_ejections_total 2"), "{text}");
    }
}
