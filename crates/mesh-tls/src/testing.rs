//! A certificate authority for this crate's tests: it signs whatever it is asked to.

use crate::{
    Expected, Peer, PrivateKey, TlsError, TlsPolicy, WorkloadCertificate, accept_session,
    connect_session,
};
use mesh_model::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams,
    SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::time::{Duration, SystemTime};

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct TestCa {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A leaf to be signed; the default one is good.
pub(crate) struct Leaf {
    pub(crate) sans: Vec<SanType>,
    pub(crate) from: SystemTime,
    pub(crate) to: SystemTime,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
}

pub(crate) fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

impl Leaf {
    pub(crate) fn of(sans: Vec<SanType>) -> Self {
        Self {
            sans,
            from: SystemTime::now() - Duration::from_secs(120),
            to: SystemTime::now() + DAY,
            usages: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        }
    }
}

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        let pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&pair).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, pair),
        }
    }

    pub(crate) fn sign(&self, leaf: Leaf) -> (rcgen::Certificate, KeyPair) {
        let pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = leaf.sans;
        params.not_before = leaf.from.into();
        params.not_after = leaf.to.into();
        params.extended_key_usages = leaf.usages;
        (params.signed_by(&pair, &self.issuer).unwrap(), pair)
    }

    pub(crate) fn der(&self, leaf: Leaf) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let (certificate, pair) = self.sign(leaf);
        let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
        (certificate.der().clone(), key)
    }

    pub(crate) fn workload(&self, identity: &str) -> WorkloadCertificate {
        self.workload_with(identity, &TlsPolicy::default())
    }

    pub(crate) fn workload_with(&self, identity: &str, policy: &TlsPolicy) -> WorkloadCertificate {
        let (certificate, pair) = self.sign(Leaf::of(vec![uri(identity)]));
        self.take(identity, &certificate, &pair, policy)
    }

    pub(crate) fn workload_of(&self, identity: &str, leaf: Leaf) -> WorkloadCertificate {
        let (certificate, pair) = self.sign(leaf);
        self.take(identity, &certificate, &pair, &TlsPolicy::default())
    }

    fn take(
        &self,
        identity: &str,
        certificate: &rcgen::Certificate,
        pair: &KeyPair,
        policy: &TlsPolicy,
    ) -> WorkloadCertificate {
        let chain = [certificate.pem(), self.pem.clone()];
        let key = PrivateKey::of(pair);
        WorkloadCertificate::from_chain_with(&id(identity), key, &chain, policy).unwrap()
    }

    /// A list of serial numbers, in hex, PEM.
    pub(crate) fn crl(&self, serials: &[&str]) -> String {
        self.crl_until(serials, SystemTime::now() + DAY)
    }

    /// One that should have had a successor by now.
    pub(crate) fn old_crl(&self, serials: &[&str]) -> String {
        self.crl_until(serials, SystemTime::now() - DAY)
    }

    fn crl_until(&self, serials: &[&str], next_update: SystemTime) -> String {
        let revoked = |serial: &&str| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&bytes_of(serial)),
            revocation_time: (SystemTime::now() - 2 * DAY).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: (SystemTime::now() - 2 * DAY).into(),
            next_update: next_update.into(),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// The bytes of a number in hex.
fn bytes_of(hex: &str) -> Vec<u8> {
    let even = format!("{}{hex}", if hex.len() % 2 == 1 { "0" } else { "" });
    even.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Both outcomes of a handshake of two sessions.
pub(crate) async fn pair_of(
    server: &WorkloadCertificate,
    client: &WorkloadCertificate,
) -> (Result<Peer, TlsError>, Result<Peer, TlsError>) {
    let (down, up) = tokio::io::duplex(1 << 16);
    let (accepted, connected) = tokio::join!(
        accept_session(up, server),
        connect_session(down, client, &Expected::TrustDomain)
    );
    (accepted.map(|s| s.peer), connected.map(|s| s.peer))
}

/// The peers of a handshake that succeeds: whom the server sees, whom the client.
pub(crate) async fn handshake(
    server: &WorkloadCertificate,
    client: &WorkloadCertificate,
) -> (Peer, Peer) {
    let (accepted, connected) = pair_of(server, client).await;
    (accepted.unwrap(), connected.unwrap())
}
