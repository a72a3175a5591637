//! Readiness: open when every part that must be up says so.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The readiness of the process. Clones are the same readiness. Without gates it is ready.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<Vec<ReadyGate>>>);

/// One condition of readiness; closed at first. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct ReadyGate {
    name: &'static str,
    open: Arc<watch::Sender<bool>>,
}

impl Readiness {
    /// Readiness without conditions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition, closed. Its name is shown while it is.
    pub fn gate(&self, name: &'static str) -> ReadyGate {
        let gate = ReadyGate {
            name,
            open: Arc::new(watch::Sender::new(false)),
        };
        self.gates().push(gate.clone());
        gate
    }

    /// Whether every gate is open.
    pub fn is_ready(&self) -> bool {
        self.pending().is_empty()
    }

    /// The names of the closed gates, in the order they were made.
    pub fn pending(&self) -> Vec<&'static str> {
        let gates = self.gates();
        gates
            .iter()
            .filter(|g| !g.is_open())
            .map(|g| g.name)
            .collect()
    }

    fn gates(&self) -> std::sync::MutexGuard<'_, Vec<ReadyGate>> {
        // A list of flags cannot be left half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadyGate {
    /// The condition holds.
    pub fn open(&self) {
        if !self.open.send_replace(true) {
            tracing::info!(gate = self.name, "ready");
        }
    }

    /// The condition no longer holds.
    pub fn close(&self) {
        if self.open.send_replace(false) {
            tracing::info!(gate = self.name, "no longer ready");
        }
    }

    /// Whether the condition holds.
    pub fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// Waits until the condition holds; at once when it does.
    pub async fn opened(&self) {
        // Cannot fail: this gate itself keeps the sender.
        self.open.subscribe().wait_for(|open| *open).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gate_can_be_waited_for() {
        let gate = Readiness::new().gate("config");
        tokio::join!(gate.opened(), async { gate.open() });
        gate.opened().await;
    }

    #[test]
    fn the_closed_gates_are_named() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let (config, certificate) = (readiness.gate("config"), readiness.gate("certificate"));
        config.open();
        assert_eq!(readiness.pending(), ["certificate"]);
        let same = certificate.clone();
        same.open();
        assert!(certificate.is_open());
        assert!(readiness.is_ready());
        config.close();
        assert_eq!(readiness.pending(), ["config"]);
    }
}
