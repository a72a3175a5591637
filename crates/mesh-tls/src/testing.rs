//! A certificate authority for this crate's tests: it signs whatever it is asked to.

use crate::{PrivateKey, WorkloadCertificate};
use mesh_model::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
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
        let (certificate, pair) = self.sign(Leaf::of(vec![uri(identity)]));
        let chain = [certificate.pem(), self.pem.clone()];
        WorkloadCertificate::from_chain(&id(identity), PrivateKey::of(&pair), &chain).unwrap()
    }
}
