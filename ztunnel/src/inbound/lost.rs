//! Trust in the peer of a tunnel, lost: waited for once a tunnel, told to each of its streams.

use mesh_model::Reason;
use std::cell::Cell;
use tokio::sync::Notify;

/// What the streams of a tunnel wait for.
#[derive(Default)]
pub(super) struct Lost {
    reason: Cell<Option<Reason>>,
    told: Notify,
}

impl Lost {
    /// Ends all of them.
    pub(super) fn tell(&self, reason: Reason) {
        self.reason.set(Some(reason));
        self.told.notify_waiters();
    }

    /// Returns once it was told, to who comes later as well.
    pub(super) async fn told(&self) -> Reason {
        loop {
            let told = self.told.notified();
            if let Some(reason) = self.reason.get() {
                return reason;
            }
            told.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_and_who_comes_later_are_told() {
        let lost = Lost::default();
        let (waiting, ()) = tokio::join!(lost.told(), async {
            tokio::task::yield_now().await;
            lost.tell(Reason::CertRevoked);
        });
        assert_eq!(waiting, Reason::CertRevoked);
        assert_eq!(lost.told().await, Reason::CertRevoked);
    }
}
