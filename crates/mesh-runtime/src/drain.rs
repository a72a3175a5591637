//! Going down in two steps: finish what is under way, then cut what is left.

use tokio_util::sync::CancellationToken;

/// Tells every part of a process that it is going down. Clones are the same drain.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    started: CancellationToken,
    forced: CancellationToken,
}

impl Drain {
    /// A drain not started.
    pub fn new() -> Self {
        Self::default()
    }

    /// First step: listeners close, tunnels say GOAWAY, sessions run on.
    pub fn start(&self) {
        self.started.cancel();
    }

    /// Second step: what still runs is cut. Starts the drain when nobody has.
    pub fn force(&self) {
        self.started.cancel();
        self.forced.cancel();
    }

    /// Whether the first step was taken.
    pub fn is_started(&self) -> bool {
        self.started.is_cancelled()
    }

    /// Waits for the first step.
    pub async fn started(&self) {
        self.started.cancelled().await;
    }

    /// Waits for the second step.
    pub async fn forced(&self) {
        self.forced.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn forcing_starts_and_starting_does_not_force() {
        let drain = Drain::new();
        drain.start();
        assert!(drain.is_started());
        assert!(drain.forced().now_or_never().is_none());
        drain.clone().force();
        drain.forced().await;

        let drain = Drain::new();
        drain.force();
        drain.started().await;
    }
}
