//! Certificates in the page.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mesh_identity::{CertificateState, CertificateStatus};
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
    /// Of the leaf; of others they are in the PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    serial_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_time: Option<String>,
}

impl CertificateDump {
    pub(super) fn of(status: CertificateStatus) -> Self {
        let mut cert_chain: Vec<CertDump> = status.chain_pem.iter().map(plain).collect();
        if let Some(leaf) = cert_chain.first_mut() {
            leaf.serial_number = status.serial;
            leaf.valid_from = status.not_before_unix_s.map(moment);
            leaf.expiration_time = status.not_after_unix_s.map(moment);
        }
        Self {
            identity: status.identity,
            state: match (status.state, &status.last_error) {
                (CertificateState::Available, _) => "Available".into(),
                (CertificateState::Initializing, None) => "Initializing".into(),
                (CertificateState::Initializing, Some(why)) => format!("Unavailable: {why}"),
                (CertificateState::Expired, _) => "Unavailable: expired".into(),
            },
            cert_chain,
            root_certs: status.roots_pem.iter().flat_map(|all| each(all)).collect(),
            next_fetch: status.next_fetch_unix_s.map(moment),
            failures: status.failures,
            last_error: status.last_error,
        }
    }
}

/// The certificates of one text, each for itself: the roots come as a bundle.
fn each(bundle: &str) -> impl Iterator<Item = CertDump> {
    const END: &str = "-----END CERTIFICATE-----";
    let pieces = bundle.split_inclusive(END).filter(|p| p.ends_with(END));
    pieces.map(|pem| plain(format!("{}\n", pem.trim_start())))
}

fn plain(pem: impl AsRef<[u8]>) -> CertDump {
    CertDump {
        pem: STANDARD.encode(pem),
        serial_number: None,
        valid_from: None,
        expiration_time: None,
    }
}

fn moment(unix_s: u64) -> String {
    mesh_telemetry::rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(unix_s))
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
