//! A certificate authority in memory: a root that signs good and bad certificates alike.

use mesh_model::{SpiffeId, TlsCertificatePem};
use mesh_tls::{RevocationFiles, Revocations, TlsPolicy, WorkloadCertificate, new_csr};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use std::time::{Duration, SystemTime};

/// A day.
pub const DAY: Duration = Duration::from_secs(24 * 3600);
/// How far the start of a certificate is back-dated, against clocks that differ.
const BACK_DATED: Duration = Duration::from_secs(120);

/// A root of its own. Two of them do not trust each other's certificates.
pub struct TestCa {
    root_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for TestCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TestCa(..)")
    }
}

impl Default for TestCa {
    fn default() -> Self {
        Self::new()
    }
}

/// A certificate to be signed. [`Leaf::new`] is a good one for a day, without any name.
#[derive(Debug, Clone)]
pub struct Leaf {
    uris: Vec<String>,
    dns: Vec<String>,
    not_before: SystemTime,
    not_after: SystemTime,
    usages: Vec<ExtendedKeyUsagePurpose>,
}

impl Default for Leaf {
    fn default() -> Self {
        Self::new()
    }
}

impl Leaf {
    /// Valid from now for a day, for servers and clients, with no name at all.
    pub fn new() -> Self {
        let now = SystemTime::now();
        Self {
            uris: Vec::new(),
            dns: Vec::new(),
            not_before: now - BACK_DATED,
            not_after: now + DAY,
            usages: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        }
    }

    /// Adds a URI name, such as a SPIFFE identity, or a text that is none.
    #[must_use]
    pub fn uri(mut self, uri: &str) -> Self {
        self.uris.push(uri.into());
        self
    }

    /// Adds a DNS name.
    #[must_use]
    pub fn dns(mut self, name: &str) -> Self {
        self.dns.push(name.into());
        self
    }

    /// Over since yesterday.
    #[must_use]
    pub fn expired(mut self) -> Self {
        self.not_before = SystemTime::now() - 2 * DAY;
        self.not_after = SystemTime::now() - DAY;
        self
    }

    /// Valid from tomorrow.
    #[must_use]
    pub fn not_yet_valid(mut self) -> Self {
        self.not_before = SystemTime::now() + DAY;
        self.not_after = SystemTime::now() + 2 * DAY;
        self
    }

    /// Valid for this long from now.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.not_after = SystemTime::now() + lifetime;
        self
    }

    /// Not meant for clients.
    #[must_use]
    pub fn server_only(mut self) -> Self {
        self.usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self
    }

    fn into_params(self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = (self.uris.iter())
            .map(|u| SanType::URI(u.as_str().try_into().unwrap()))
            .chain(
                self.dns
                    .iter()
                    .map(|d| SanType::DnsName(d.as_str().try_into().unwrap())),
            )
            .collect();
        params.not_before = self.not_before.into();
        params.not_after = self.not_after.into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.usages;
        params
    }
}

impl TestCa {
    /// A new root.
    pub fn new() -> Self {
        let pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "test root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (SystemTime::now() - 30 * DAY).into();
        params.not_after = (SystemTime::now() + 365 * DAY).into();
        let root_pem = params.self_signed(&pair).unwrap().pem();
        Self {
            root_pem,
            issuer: Issuer::new(params, pair),
        }
    }

    /// The root, PEM.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// A good workload certificate for a day.
    pub fn workload(&self, identity: &SpiffeId) -> WorkloadCertificate {
        self.workload_for(identity, DAY)
    }

    /// A good workload certificate with a lifetime of its own.
    pub fn workload_for(&self, identity: &SpiffeId, lifetime: Duration) -> WorkloadCertificate {
        let (request, key) = new_csr(identity).unwrap();
        let chain = self.sign_csr(&request, lifetime);
        WorkloadCertificate::from_chain(identity, key, &chain).unwrap()
    }

    /// A good workload certificate that comes with other roots than its own alone (PEM, any number), for
    /// handshakes of a policy. Its own root must be among them.
    pub fn workload_with(
        &self,
        identity: &SpiffeId,
        roots_pem: &str,
        lifetime: Duration,
        policy: &TlsPolicy,
    ) -> WorkloadCertificate {
        let (request, key) = new_csr(identity).unwrap();
        let mut chain = self.sign_csr(&request, lifetime);
        chain.pop();
        chain.push(roots_pem.into());
        WorkloadCertificate::from_chain_with(identity, key, &chain, policy).unwrap()
    }

    /// Puts a revocation list of this root into use: certificates by serial number, in hex.
    pub fn revoke(&self, lists: &Revocations, serials: &[&str]) {
        let now = SystemTime::now();
        let revoked = |serial: &&str| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&bytes_of(serial)),
            revocation_time: (now - DAY).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: (now - DAY).into(),
            next_update: (now + DAY).into(),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).unwrap().pem().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("crl.pem");
        std::fs::write(&file, list).unwrap();
        let mut files = RevocationFiles::new(file);
        assert_eq!(files.refresh().broken, []);
        lists.replace(&files);
    }

    /// Signs a request as it is and answers as a mesh authority does: leaf, then root, PEM.
    pub fn sign_csr(&self, csr_pem: &str, lifetime: Duration) -> Vec<String> {
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        let good = Leaf::new().lifetime(lifetime).into_params();
        request.params.not_before = good.not_before;
        request.params.not_after = good.not_after;
        request.params.key_usages = good.key_usages;
        request.params.extended_key_usages = good.extended_key_usages;
        let leaf = request.signed_by(&self.issuer).unwrap();
        vec![leaf.pem(), self.root_pem.clone()]
    }

    /// Signs any certificate, bad ones too, and gives chain and key as PEM: for the servers of the
    /// edge, and for clients through [`mesh_tls::EdgeConnector`].
    pub fn issue(&self, leaf: Leaf) -> TlsCertificatePem {
        let (certificate, pair) = self.sign(leaf);
        TlsCertificatePem {
            chain_pem: certificate.pem().into(),
            key_pem: pair.serialize_pem().into(),
        }
    }

    fn sign(&self, leaf: Leaf) -> (Certificate, KeyPair) {
        let pair = KeyPair::generate().unwrap();
        let certificate = leaf.into_params().signed_by(&pair, &self.issuer).unwrap();
        (certificate, pair)
    }
}

/// The bytes of a number in hex.
fn bytes_of(hex: &str) -> Vec<u8> {
    let even = format!("{}{hex}", if hex.len() % 2 == 1 { "0" } else { "" });
    let digits: Vec<char> = even.chars().collect();
    let pairs = digits.chunks(2).map(|pair| pair.iter().collect::<String>());
    pairs
        .map(|pair| u8::from_str_radix(&pair, 16).unwrap())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_tls::{
        EdgeClientSettings, EdgeConnector, Expected, ServerCheck, TlsError, accept_mesh,
        connect_mesh,
    };

    fn id(account: &str) -> SpiffeId {
        SpiffeId::new("cluster.local", "demo", account).unwrap()
    }

    #[tokio::test]
    async fn workloads_of_one_root_know_each_other() {
        let ca = TestCa::new();
        let (client, server) = (ca.workload(&id("shop")), ca.workload(&id("reviews")));
        let (near, far) = tokio::io::duplex(4096);
        let expected = Expected::AnyOf(vec![id("reviews")]);
        let (connected, accepted) = tokio::join!(
            connect_mesh(near, &client, &expected),
            accept_mesh(far, &server)
        );
        assert_eq!(connected.unwrap().1.identity, id("reviews"));
        assert_eq!(accepted.unwrap().1.identity, id("shop"));
    }

    /// What a mesh server makes of a client that shows the certificate given.
    async fn refusal_of(ca: &TestCa, certificate: TlsCertificatePem) -> TlsError {
        let server = ca.workload(&id("reviews"));
        let client = EdgeConnector::new(&EdgeClientSettings {
            root_pem: ca.root_pem().into(),
            server: ServerCheck::Workload {
                trust_domain: "cluster.local".into(),
                expected: Expected::AnyOf(vec![id("reviews")]),
            },
            alpn: vec!["h2".into()],
            certificate: Some(certificate),
        })
        .unwrap();
        let (near, far) = tokio::io::duplex(4096);
        let (_, accepted) = tokio::join!(client.connect(near), accept_mesh(far, &server));
        accepted.unwrap_err()
    }

    #[tokio::test]
    async fn each_bad_certificate_is_refused_for_what_is_bad_about_it() {
        let ca = TestCa::new();
        let shop = "spiffe://cluster.local/ns/demo/sa/shop";
        let of = |leaf: Leaf| refusal_of(&ca, ca.issue(leaf));
        let expired = of(Leaf::new().uri(shop).expired()).await;
        assert!(matches!(expired, TlsError::Expired { .. }), "{expired}");
        let early = of(Leaf::new().uri(shop).not_yet_valid()).await;
        assert!(matches!(early, TlsError::NotYetValid { .. }), "{early}");
        let nameless = of(Leaf::new().dns("shop.example")).await;
        assert!(
            matches!(nameless, TlsError::NoIdentity { .. }),
            "{nameless}"
        );
        let foreign = of(Leaf::new().uri("spiffe://other.example/ns/demo/sa/shop")).await;
        assert!(matches!(foreign, TlsError::TrustDomain { .. }), "{foreign}");
        let server_only = of(Leaf::new().uri(shop).server_only()).await;
        assert!(
            matches!(server_only, TlsError::BadCertificate { .. }),
            "{server_only}"
        );
        let other_root = TestCa::new().issue(Leaf::new().uri(shop));
        let unknown = refusal_of(&ca, other_root).await;
        assert!(matches!(unknown, TlsError::UnknownRoot { .. }), "{unknown}");
    }

    #[test]
    fn a_leaf_is_what_was_asked_for() {
        let ca = TestCa::new();
        let pem = ca.issue(Leaf::new().dns("shop.example").expired());
        assert!(pem.chain_pem.contains("BEGIN CERTIFICATE"));
        assert!(pem.key_pem.contains("PRIVATE KEY"));
    }
}
