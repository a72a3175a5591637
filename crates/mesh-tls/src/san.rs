//! Reading the names and dates of a certificate. Trust is not decided here.

use crate::TlsError;
use mesh_model::SpiffeId;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::time::ASN1Time;

/// Most names shown in a message, and most bytes of each.
const SHOWN_MAX: (usize, usize) = (4, 160);

/// What is read from a leaf.
#[derive(Debug)]
pub(crate) struct Facts {
    /// URI SANs, as they are.
    pub(crate) uris: Vec<String>,
    /// DNS SANs, lower case.
    pub(crate) dns: Vec<String>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// Serial number, lower-case hex.
    pub(crate) serial: String,
}

impl Facts {
    /// Reads a certificate; trailing bytes and a doubled SAN extension are errors.
    pub(crate) fn read(der: &[u8]) -> Result<Self, TlsError> {
        let bad = |e: &dyn std::fmt::Display| TlsError::Chain(format!("not a certificate: {e}"));
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|e| bad(&e))?;
        if !rest.is_empty() {
            return Err(bad(&"bytes follow it"));
        }
        let mut uris = Vec::new();
        let mut dns = Vec::new();
        let names = certificate
            .subject_alternative_name()
            .map_err(|e| bad(&e))?;
        for name in names.iter().flat_map(|n| &n.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => dns.push(name.to_ascii_lowercase()),
                _ => {}
            }
        }
        let validity = certificate.validity();
        Ok(Self {
            uris,
            dns,
            not_before: time(validity.not_before),
            not_after: time(validity.not_after),
            serial: certificate.serial.to_str_radix(16),
        })
    }

    /// The URI SANs that are workload identities, in order; the others are skipped
    /// (interop/hbone.md, Certificates and identity matching).
    pub(crate) fn identities(&self) -> impl Iterator<Item = SpiffeId> + '_ {
        self.uris.iter().filter_map(|uri| uri.parse().ok())
    }

    /// The names as a message shows them.
    pub(crate) fn shown(&self) -> String {
        shown(self.uris.iter().chain(&self.dns))
    }
}

/// What tools show of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownCertificate {
    /// Serial number, decimal.
    pub serial: String,
    /// Start of its validity.
    pub not_before: SystemTime,
    /// End of its validity.
    pub not_after: SystemTime,
}

impl ShownCertificate {
    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn of_pem(pem: &str) -> Result<Self, TlsError> {
        let first = crate::pem::certificates(pem)?.into_iter().next();
        let der = first.ok_or_else(|| TlsError::Chain("no certificate in the PEM text".into()))?;
        let (_, certificate) = X509Certificate::from_der(&der)
            .map_err(|e| TlsError::Chain(format!("not a certificate: {e}")))?;
        let validity = certificate.validity();
        Ok(Self {
            serial: certificate.serial.to_str_radix(10),
            not_before: time(validity.not_before),
            not_after: time(validity.not_after),
        })
    }
}

/// The names of a certificate as a message shows them, whatever it is.
pub(crate) fn names_of(der: &[u8]) -> String {
    match Facts::read(der) {
        Ok(facts) => facts.shown(),
        Err(_) => "an unreadable certificate".into(),
    }
}

/// A bounded list for a message.
pub(crate) fn shown<T: ToString>(names: impl IntoIterator<Item = T>) -> String {
    let (count_max, length_max) = SHOWN_MAX;
    let mut names = names.into_iter();
    let mut text: Vec<String> = names
        .by_ref()
        .take(count_max)
        .map(|n| {
            let printable = |c: char| if c.is_control() { '?' } else { c };
            n.to_string()
                .chars()
                .take(length_max)
                .map(printable)
                .collect()
        })
        .collect();
    let left = names.count();
    if left > 0 {
        text.push(format!("and {left} more"));
    }
    if text.is_empty() {
        "no name".into()
    } else {
        text.join(", ")
    }
}

/// A time as a message shows it.
pub(crate) fn shown_time(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX));
    ASN1Time::from_timestamp(seconds).map_or_else(|_| format!("{seconds} s"), |t| t.to_string())
}

fn time(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    match u64::try_from(seconds) {
        Ok(seconds) => SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        // Before 1970: long over either way.
        Err(_) => SystemTime::UNIX_EPOCH,
    }
}
