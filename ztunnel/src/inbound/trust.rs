//! Whether a tunnel's peer would still be trusted.

use mesh_model::Reason;
use mesh_tls::{CertificateReceiver, WorkloadCertificate};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The trust a tunnel was made under. A renewed leaf changes nothing; a root that is no longer
/// among ours may be the one the peer's certificate chained to, so the peer must prove itself anew.
pub(super) struct Trust {
    made_under: Option<Arc<WorkloadCertificate>>,
    certificates: CertificateReceiver,
}

impl Trust {
    pub(super) fn of(mut certificates: CertificateReceiver) -> Self {
        let made_under = certificates.borrow_and_update().clone();
        Self {
            made_under,
            certificates,
        }
    }

    /// The certificate to present.
    pub(super) fn certificate(&self) -> Option<Arc<WorkloadCertificate>> {
        self.made_under.clone()
    }

    /// Returns when a root the tunnel may rest on is gone. A certificate that ran out without a
    /// successor says nothing about the peer: live sessions stay, new ones fail.
    pub(super) async fn lost(&self) -> Reason {
        let Some(made_under) = &self.made_under else {
            return Reason::NoIdentity;
        };
        let mut certificates = self.certificates.clone();
        while certificates.changed().await.is_ok() {
            let now = certificates.borrow_and_update().clone();
            if now.is_some_and(|now| !keeps_roots(made_under.roots_pem(), now.roots_pem())) {
                return Reason::PolicyRevoked;
            }
        }
        std::future::pending().await
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
