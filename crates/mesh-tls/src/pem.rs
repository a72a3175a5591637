//! PEM in, DER out, within bounds.

use crate::TlsError;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Most bytes of one PEM text: room for a bundle of some hundred roots.
const PEM_BYTES_MAX: usize = 1 << 20;
/// Most certificates of one PEM text.
const CERTIFICATES_MAX: usize = 256;

/// Every certificate of a PEM text, in order; other kinds of sections are skipped.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    if pem.len() > PEM_BYTES_MAX {
        return Err(TlsError::Chain(format!(
            "{} bytes of PEM, at most {PEM_BYTES_MAX} are read",
            pem.len()
        )));
    }
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .take(CERTIFICATES_MAX + 1)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| TlsError::Chain(format!("not PEM: {e}")))?;
    if certificates.len() > CERTIFICATES_MAX {
        return Err(TlsError::Chain(format!(
            "over {CERTIFICATES_MAX} certificates"
        )));
    }
    Ok(certificates)
}

/// The first private key of a PEM text.
pub(crate) fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| TlsError::Key(format!("not PEM: {e}")))
}
