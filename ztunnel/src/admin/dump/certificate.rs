//! Certificates in the page.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mesh_identity::{CertificateState, CertificateStatus};
use mesh_tls::ShownCertificate;
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// The certificate of an identity under the names that `istioctl` reads, and what we know beside.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CertificateDump {
    identity: String,
    /// `Initializing`, `Available` or `Unavailable: ` and why.
    state: String,
    /// Leaf first.
    cert_chain: Vec<CertDump>,
    root_certs: Vec<CertDump>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_fetch: Option<String>,
    failures: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CertDump {
    /// PEM, in base64.
    pem: String,
    /// Decimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    serial_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_time: Option<String>,
}

impl CertificateDump {
    pub(super) fn of(status: CertificateStatus) -> Self {
        let chain = status.chain_pem.iter();
        Self {
            identity: status.identity,
            state: match (status.state, &status.last_error) {
                (CertificateState::Available, _) => "Available".into(),
                (CertificateState::Initializing, None) => "Initializing".into(),
                (CertificateState::Initializing, Some(why)) => format!("Unavailable: {why}"),
                (CertificateState::Expired, _) => "Unavailable: expired".into(),
            },
            cert_chain: chain.map(|pem| CertDump::of(pem)).collect(),
            root_certs: status.roots_pem.iter().flat_map(|all| each(all)).collect(),
            next_fetch: status.next_fetch_unix_s.map(|at| {
                mesh_telemetry::rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(at))
            }),
            failures: status.failures,
            last_error: status.last_error,
        }
    }
}

/// The certificates of one text, each for itself: the roots come as a bundle.
fn each(bundle: &str) -> impl Iterator<Item = CertDump> {
    const END: &str = "-----END CERTIFICATE-----";
    let pieces = bundle.split_inclusive(END).filter(|p| p.ends_with(END));
    pieces.map(|pem| CertDump::of(&format!("{}\n", pem.trim_start())))
}

impl CertDump {
    fn of(pem: &str) -> Self {
        let read = ShownCertificate::of_pem(pem).ok();
        let moment = |at: fn(&ShownCertificate) -> SystemTime| {
            read.as_ref().map(|read| mesh_telemetry::rfc3339(at(read)))
        };
        Self {
            pem: STANDARD.encode(pem),
            valid_from: moment(|read| read.not_before),
            expiration_time: moment(|read| read.not_after),
            serial_number: read.map(|read| read.serial),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_root_of_a_bundle_is_an_entry() {
        let one = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
        let other = one.replace("MA", "MQ");
        let entries = |bundle: &str| each(bundle).map(|e| e.pem).collect::<Vec<_>>();
        let wanted = [STANDARD.encode(one), STANDARD.encode(&other)];
        assert_eq!(entries(&format!("{one}{other}")), wanted);
        assert_eq!(entries(&format!("{one}\n{}", other.trim_end())), wanted);
        assert!(entries("").is_empty());
    }
}
