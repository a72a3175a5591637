//! What admin pages show of a certificate.

use mesh_tls::WorkloadCertificate;
use serde::Serialize;
use std::time::SystemTime;

/// Whether there is a certificate to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateState {
    /// The first is still to come.
    Initializing,
    /// There is one, within its validity.
    Available,
    /// The last one is over, without a successor.
    Expired,
}

/// One identity and its certificate, as of now.
#[derive(Debug, Clone, Serialize)]
pub struct CertificateStatus {
    /// The identity.
    pub identity: String,
    /// Whether it can be used.
    pub state: CertificateState,
    /// Serial number, hex.
    pub serial: Option<String>,
    /// Start of validity, seconds since 1970.
    pub not_before_unix_s: Option<u64>,
    /// End of validity, seconds since 1970.
    pub not_after_unix_s: Option<u64>,
    /// The next renewal or retry, seconds since 1970.
    pub next_fetch_unix_s: Option<u64>,
    /// Failures since the last success.
    pub failures: u32,
    /// The last failure, when there was one since the last success.
    pub last_error: Option<String>,
    /// Leaf and intermediates, PEM.
    pub chain_pem: Vec<String>,
    /// Roots that peers must chain to, PEM.
    pub roots_pem: Option<String>,
}

/// What a keeper notes beside the certificate.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) next_fetch: Option<SystemTime>,
    pub(crate) failures: u32,
    pub(crate) last_error: Option<String>,
    pub(crate) issued_once: bool,
    /// The identity is no longer kept: nothing is published any more.
    pub(crate) forgotten: bool,
}

impl CertificateStatus {
    pub(crate) fn of(
        identity: String,
        certificate: Option<&WorkloadCertificate>,
        notes: &Notes,
    ) -> Self {
        let usable = certificate.is_some_and(|c| SystemTime::now() < c.not_after());
        Self {
            identity,
            state: match (usable, notes.issued_once) {
                (true, _) => CertificateState::Available,
                (false, true) => CertificateState::Expired,
                (false, false) => CertificateState::Initializing,
            },
            serial: certificate.map(|c| c.serial().to_owned()),
            not_before_unix_s: certificate.map(|c| unix_s(c.not_before())),
            not_after_unix_s: certificate.map(|c| unix_s(c.not_after())),
            next_fetch_unix_s: notes.next_fetch.map(unix_s),
            failures: notes.failures,
            last_error: notes.last_error.clone(),
            chain_pem: certificate.map_or_else(Vec::new, |c| c.chain_pem().to_vec()),
            roots_pem: certificate.map(|c| c.roots_pem().to_owned()),
        }
    }
}

fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
