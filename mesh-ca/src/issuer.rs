//! Signing what was granted (interop/ca.md, Server side, step 4).

use crate::csr::Csr;
use crate::grant::Grant;
use crate::roots::{Authority, BACK_DATED, RootsError, random_serial};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
};
use std::time::SystemTime;

/// Why a grant could not be signed: a fault of the authority, never of the caller.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    #[error("{0}")]
    Serial(#[from] RootsError),
    #[error("the signing certificate is about to end")]
    SignerOver,
    #[error("the certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate as it is answered.
#[derive(Debug)]
pub(crate) struct Issued {
    /// Leaf | intermediates | roots as one text; each PEM, each ending with a newline.
    pub(crate) chain: Vec<String>,
    /// Serial number, lower-case hex.
    pub(crate) serial: String,
    /// End of validity.
    pub(crate) not_after: SystemTime,
}

/// Signs: subject empty, so the SAN is critical; validity back-dated by two minutes for clocks
/// that lag, and never past the signer's own end.
///
/// # Errors
/// See [`IssueError`].
pub(crate) fn issue(
    authority: &Authority,
    grant: &Grant,
    csr: &Csr,
    now: SystemTime,
) -> Result<Issued, IssueError> {
    let not_after = (now + grant.ttl).min(authority.not_after);
    if not_after <= now {
        return Err(IssueError::SignerOver);
    }
    let serial = random_serial()?;
    let shown = serial.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(serial.into());
    params.not_before = (now - BACK_DATED).into();
    params.not_after = not_after.into();
    let uri = grant.identity.to_string().try_into()?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    for name in &grant.dns_names {
        let name = name.as_str().try_into()?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let leaf = params.signed_by(&csr.key, &authority.issuer)?;
    let mut chain = vec![leaf.pem().replace('\r', "")];
    chain.extend(authority.intermediates_pem.iter().cloned());
    chain.push(authority.roots_pem.clone());
    Ok(Issued {
        chain,
        serial: shown,
        not_after,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roots::RootAlgorithm;
    use mesh_model::SpiffeId;
    use std::time::Duration;
    use x509_parser::pem::Pem;
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

    const A: &str = "spiffe://cluster.local/ns/demo/sa/a";

    fn authority(folder: &tempfile::TempDir) -> Authority {
        let state = folder.path().join("state");
        Authority::open(&state, "cluster.local", RootAlgorithm::P256).unwrap()
    }

    fn grant(ttl: Duration) -> Grant {
        Grant {
            identity: A.parse::<SpiffeId>().unwrap(),
            dns_names: Vec::new(),
            ttl,
        }
    }

    fn csr() -> (Csr, mesh_tls::PrivateKey) {
        let (pem, key) = mesh_tls::new_csr(&A.parse().unwrap()).unwrap();
        (Csr::read(&pem).unwrap(), key)
    }

    fn unix_s(time: SystemTime) -> i64 {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        i64::try_from(since.as_secs()).unwrap()
    }

    #[test]
    fn a_leaf_has_the_extensions_that_peers_look_for() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let day = Duration::from_secs(86_400);
        let issued = issue(&authority(&folder), &grant(day), &csr().0, now).unwrap();
        let pem = Pem::iter_from_buffer(issued.chain[0].as_bytes())
            .next()
            .unwrap()
            .unwrap();
        let (_, leaf) = X509Certificate::from_der(&pem.contents).unwrap();
        assert_eq!(leaf.subject().iter().count(), 0);
        let san = leaf.subject_alternative_name().unwrap().unwrap();
        assert!(san.critical);
        assert!(matches!(san.value.general_names[..], [GeneralName::URI(A)]));
        let eku = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(eku.server_auth && eku.client_auth && !eku.any);
        let usage = leaf.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment());
        assert!(!usage.key_cert_sign() && !leaf.is_ca());
        let validity = leaf.validity();
        assert_eq!(validity.not_before.timestamp(), unix_s(now) - 120);
        assert_eq!(validity.not_after.timestamp(), unix_s(now) + 86_400);
        assert_eq!(leaf.serial.to_str_radix(16), issued.serial);
    }

    #[test]
    fn the_chain_is_what_a_proxy_takes_and_serials_differ() {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority(&folder);
        let (csr, key) = csr();
        let ttl = grant(Duration::from_secs(3600));
        let issued = issue(&authority, &ttl, &csr, SystemTime::now()).unwrap();
        assert_eq!(issued.chain.len(), 2);
        assert!(issued.chain.iter().all(|part| part.ends_with('\n')));
        assert_eq!(issued.chain[1], authority.roots_pem);
        let identity = A.parse().unwrap();
        let taken = mesh_tls::WorkloadCertificate::from_chain(&identity, key, &issued.chain);
        assert_eq!(taken.unwrap().serial(), issued.serial);
        let again = issue(&authority, &ttl, &csr, SystemTime::now()).unwrap();
        assert_ne!(again.serial, issued.serial);
    }

    #[test]
    fn no_leaf_outlives_its_signer() {
        let folder = tempfile::tempdir().unwrap();
        let mut authority = authority(&folder);
        let now = SystemTime::now();
        authority.not_after = now + Duration::from_secs(100);
        let long = grant(Duration::from_secs(86_400));
        let issued = issue(&authority, &long, &csr().0, now).unwrap();
        assert_eq!(issued.not_after, authority.not_after);
        authority.not_after = now;
        let over = issue(&authority, &long, &csr().0, now);
        assert!(matches!(over, Err(IssueError::SignerOver)));
    }
}
