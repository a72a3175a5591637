//! Certificate requests, as mesh-ca reads them.

use crate::ca::csr::Csr;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use std::sync::OnceLock;

/// Of the subject alternative name extension (RFC 5280 section 4.2.1.6).
const OID_SUBJECT_ALT_NAME: [u64; 4] = [2, 5, 29, 17];
/// What the reader promises.
const NAMES_MAX: usize = 32;

/// A request as text, as DER in PEM, or well signed with any names: by the first byte. What is read
/// asks for a bounded number of names.
pub fn csr(data: &[u8]) {
    let Some((form, rest)) = data.split_first() else {
        return;
    };
    let read = match form % 3 {
        0 => match std::str::from_utf8(rest) {
            Ok(text) => Csr::read(text),
            Err(_) => return,
        },
        1 => Csr::read(&pem(rest)),
        _ => match signed(rest) {
            Some(text) => Csr::read(&text),
            None => return,
        },
    };
    match read {
        Ok(csr) => {
            assert!(csr.uris.len() + csr.dns_names.len() <= NAMES_MAX);
            for name in &csr.dns_names {
                assert_eq!(*name, name.to_ascii_lowercase());
            }
            assert!(!format!("{:?}", csr.key).is_empty());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn pem(der: &[u8]) -> String {
    let label = "CERTIFICATE REQUEST";
    let text = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// A request of a key of ours for names that are these bytes.
fn signed(names: &[u8]) -> Option<String> {
    static KEY: OnceLock<Option<KeyPair>> = OnceLock::new();
    let key = KEY.get_or_init(|| KeyPair::generate().ok()).as_ref()?;
    let mut params = CertificateParams::default();
    let extension = CustomExtension::from_oid_content(&OID_SUBJECT_ALT_NAME, names.to_vec());
    params.custom_extensions.push(extension);
    params.serialize_request(key).ok()?.pem().ok()
}
