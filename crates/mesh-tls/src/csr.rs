//! Keys and certificate requests.

use crate::TlsError;
use mesh_model::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fmt;

/// A private key made in this process. Neither shown by `Debug` nor cloned.
pub struct PrivateKey(PrivatePkcs8KeyDer<'static>);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl PrivateKey {
    pub(crate) fn of(pair: &KeyPair) -> Self {
        Self(PrivatePkcs8KeyDer::from(pair.serialize_der()))
    }

    pub(crate) fn into_der(self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.0)
    }
}

/// Makes a P-256 key and a request for one identity: subject empty, one critical URI SAN
/// (interop/ca.md, Client side). The first value is PEM.
///
/// # Errors
/// When no key can be made.
pub fn new_csr(identity: &SpiffeId) -> Result<(String, PrivateKey), TlsError> {
    new_serving_csr(identity, &[])
}

/// As [`new_csr`], asking for DNS names too: the certificate of a gRPC server that is verified by
/// its host name.
///
/// # Errors
/// When no key can be made or a name is not ASCII.
pub fn new_serving_csr(
    identity: &SpiffeId,
    dns_names: &[String],
) -> Result<(String, PrivateKey), TlsError> {
    let bad = |e: rcgen::Error| TlsError::Request(e.to_string());
    let pair = KeyPair::generate().map_err(bad)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uri = identity.to_string().try_into().map_err(bad)?;
    params.subject_alt_names.push(SanType::URI(uri));
    for name in dns_names {
        let name = name.as_str().try_into().map_err(bad)?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    let request = params.serialize_request(&pair).map_err(bad)?;
    Ok((request.pem().map_err(bad)?, PrivateKey::of(&pair)))
}
