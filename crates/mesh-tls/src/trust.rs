//! Whether a live connection's peer would still be trusted.

use crate::{CertificateReceiver, Peer, WorkloadCertificate};
use mesh_model::Reason;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Longest sleep in one piece: the wall clock may jump, or stand still while the machine sleeps.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// What a connection's trust in its peer rests on. A renewed leaf of ours changes nothing; a root
/// that is no longer among ours may be the one the peer's certificate chained to, so the peer must
/// prove itself anew; and so must one whose certificate is revoked.
#[derive(Debug)]
pub struct PeerTrust {
    peer: Peer,
    made_under: Arc<WorkloadCertificate>,
    certificates: CertificateReceiver,
}

impl PeerTrust {
    /// The trust in `peer`, known by a handshake with `made_under`; `certificates` gives its
    /// successors.
    pub const fn new(
        peer: Peer,
        made_under: Arc<WorkloadCertificate>,
        certificates: CertificateReceiver,
    ) -> Self {
        Self {
            peer,
            made_under,
            certificates,
        }
    }

    /// The peer.
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Returns when the connection and all it carries must be cut:
    /// * [`Reason::CertRevoked`]: a certificate of the peer's chain is on a list;
    /// * [`Reason::PolicyRevoked`]: a root it may rest on is gone. A certificate of ours that ran out
    ///   without a successor says nothing about the peer: what lives stays, what is new fails.
    pub async fn lost(&self) -> Reason {
        tokio::select! {
            () = self.roots_withdrawn() => Reason::PolicyRevoked,
            () = self.peer.revoked() => Reason::CertRevoked,
        }
    }

    /// Returns when nothing new may be started on the connection: as [`Self::lost`], or the peer's
    /// certificate is over.
    pub async fn stale(&self) -> Reason {
        tokio::select! {
            reason = self.lost() => reason,
            () = passed(self.peer.not_after) => Reason::TlsFailure,
        }
    }

    async fn roots_withdrawn(&self) {
        let before = self.made_under.roots_pem();
        let mut certificates = self.certificates.clone();
        loop {
            let now = certificates.borrow_and_update().clone();
            if now.is_some_and(|now| !keeps_roots(before, now.roots_pem())) {
                return;
            }
            if certificates.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Returns when a moment of the wall clock is over.
async fn passed(at: SystemTime) {
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(SLEEP_MAX)).await;
    }
}

/// Whether every root of `before` is still among those of `after`.
fn keeps_roots(before: &str, after: &str) -> bool {
    before == after || roots(before).is_subset(&roots(after))
}

fn roots(pem: &str) -> BTreeSet<String> {
    pem.split("-----END CERTIFICATE-----")
        .map(|root| root.split_whitespace().collect::<String>())
        .filter(|root| !root.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(bodies: &[&str]) -> String {
        let one =
            |b: &&str| format!("-----BEGIN CERTIFICATE-----\n{b}\n-----END CERTIFICATE-----\n");
        bodies.iter().map(one).collect()
    }

    #[test]
    fn an_added_root_keeps_trust_and_a_removed_one_ends_it() {
        assert!(keeps_roots(&pem(&["A"]), &pem(&["B", "A"])));
        assert!(keeps_roots(
            &pem(&["A"]),
            &pem(&["A"]).replace('\n', "\r\n")
        ));
        assert!(!keeps_roots(&pem(&["A", "B"]), &pem(&["B"])));
    }
}
