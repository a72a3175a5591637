//! One workload certificate with everything a handshake needs, built once.

use crate::aead::AeadLibrary;
use crate::mesh::Witness;
use crate::provider::{Provider, TlsPolicy};
use crate::revocation::{Lists, PeerSide, Revocations};
use crate::session::SecretsToOwner;
use crate::verify::{self, ClientJudge, Expected, Judge, ServerJudge};
use crate::{Peer, PrivateKey, TlsError, pem, san};
use arc_swap::ArcSwap;
use mesh_model::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// Most strings of a chain: leaf, intermediates, roots.
const CHAIN_PARTS_MAX: usize = 16;
/// Most client configurations kept of one certificate, one a set of expected identities.
const CLIENT_CONFIGS_MAX: usize = 1024;
/// Lifetime of a self-signed certificate and how far its start is back-dated.
const SELF_SIGNED: (Duration, Duration) =
    (Duration::from_secs(24 * 3600), Duration::from_secs(120));
/// The only protocol of the mesh.
pub(crate) const ALPN_H2: &[u8] = b"h2";

/// Gives the certificate of one identity as it is renewed; `None` until the first is there, and
/// again when it expired without a successor.
pub type CertificateReceiver = watch::Receiver<Option<Arc<WorkloadCertificate>>>;

/// A workload's certificate, key and trust, ready for handshakes of either side.
pub struct WorkloadCertificate {
    identity: SpiffeId,
    not_before: SystemTime,
    not_after: SystemTime,
    serial: String,
    chain_pem: Vec<String>,
    roots_pem: String,
    policy: TlsPolicy,
    server: Arc<ServerConfig>,
    roots: Arc<RootCertStore>,
    certificates: Arc<dyn ResolvesClientCert>,
    /// Read without a lock by every worker; a new set of identities is rare.
    clients: ArcSwap<HashMap<Expected, Arc<ClientConfig>>>,
}

impl fmt::Debug for WorkloadCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadCertificate")
            .field("identity", &self.identity)
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

impl WorkloadCertificate {
    /// Takes what a certificate authority answered: leaf | intermediates | roots last, each PEM
    /// (interop/ca.md, Client side).
    ///
    /// # Errors
    /// When there is no root, a part cannot be read, the leaf's identity is not the one asked
    /// for, the key is another's, or the leaf does not chain to the roots that came with it.
    pub fn from_chain(
        requested: &SpiffeId,
        key: PrivateKey,
        chain_pem: &[String],
    ) -> Result<Self, TlsError> {
        Self::from_chain_with(requested, key, chain_pem, &TlsPolicy::default())
    }

    /// As [`Self::from_chain`], for handshakes of this policy.
    ///
    /// # Errors
    /// As [`Self::from_chain`].
    pub fn from_chain_with(
        requested: &SpiffeId,
        key: PrivateKey,
        chain_pem: &[String],
        policy: &TlsPolicy,
    ) -> Result<Self, TlsError> {
        let (roots_pem, chain_pem) = match chain_pem.split_last() {
            Some((roots, chain)) if !chain.is_empty() => (roots, chain),
            _ => return Err(TlsError::Chain("no root certificate in the answer".into())),
        };
        if chain_pem.len() >= CHAIN_PARTS_MAX {
            return Err(TlsError::Chain(format!("over {CHAIN_PARTS_MAX} parts")));
        }
        let mut chain = Vec::new();
        for part in chain_pem {
            chain.extend(pem::certificates(part)?);
        }
        let Some(leaf) = chain.first() else {
            return Err(TlsError::Chain("no leaf certificate in the answer".into()));
        };
        let facts = san::Facts::read(leaf)?;
        // The leaf must be for this identity and no other: the first one is what peers will see.
        if facts.identities().next().as_ref() != Some(requested) || facts.uris.len() != 1 {
            return Err(TlsError::IssuedForAnother {
                found: facts.shown(),
                requested: requested.to_string(),
            });
        }
        let roots = Arc::new(root_store(roots_pem)?);
        check_own_chain(&roots, &chain, facts.not_before)?;
        let certified = certified_key(chain, key, policy.provider())?;
        let judge = judge(&roots, requested, policy);
        Ok(Self {
            server: server_config(judge, &certified, policy.provider())?,
            policy: policy.clone(),
            identity: requested.clone(),
            not_before: facts.not_before,
            not_after: facts.not_after,
            serial: facts.serial,
            chain_pem: chain_pem.to_vec(),
            roots_pem: roots_pem.clone(),
            roots,
            certificates: certified,
            clients: ArcSwap::default(),
        })
    }

    /// A certificate of this process's own throw-away root, for tests and trials without a CA
    /// (`FAKE_CA=true`): only workloads of the same process trust each other.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn self_signed(identity: &SpiffeId) -> Result<Self, TlsError> {
        Self::self_signed_with(identity, &TlsPolicy::default())
    }

    /// The same with an end of its own, to the second.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn self_signed_until(identity: &SpiffeId, not_after: SystemTime) -> Result<Self, TlsError> {
        Self::sign_itself(identity, not_after, &TlsPolicy::default())
    }

    /// As [`Self::self_signed`], for handshakes of this policy.
    ///
    /// # Errors
    /// As [`Self::self_signed`].
    pub fn self_signed_with(identity: &SpiffeId, policy: &TlsPolicy) -> Result<Self, TlsError> {
        Self::sign_itself(identity, SystemTime::now() + SELF_SIGNED.0, policy)
    }

    fn sign_itself(
        identity: &SpiffeId,
        not_after: SystemTime,
        policy: &TlsPolicy,
    ) -> Result<Self, TlsError> {
        let bad = |e: rcgen::Error| TlsError::Chain(e.to_string());
        let (root_pem, issuer) = throw_away_root()?;
        let pair = KeyPair::generate().map_err(bad)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = identity.to_string().try_into().map_err(bad)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let now = SystemTime::now();
        params.not_before = (now - SELF_SIGNED.1).into();
        params.not_after = not_after.into();
        let leaf = params.signed_by(&pair, issuer).map_err(bad)?;
        let chain = [leaf.pem(), root_pem.clone()];
        Self::from_chain_with(identity, PrivateKey::of(&pair), &chain, policy)
    }

    /// The identity it carries.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// Start of its validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of its validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Its serial number, lower-case hex.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The leaf and the intermediates, PEM, for the admin page.
    pub fn chain_pem(&self) -> &[String] {
        &self.chain_pem
    }

    /// The roots that peers must chain to, PEM.
    pub fn roots_pem(&self) -> &str {
        &self.roots_pem
    }

    /// When it is to be renewed: half way through the validity issued (interop/ca.md, Rotation).
    pub fn renew_at(&self) -> SystemTime {
        let validity = self
            .not_after
            .duration_since(self.not_before)
            .unwrap_or_default();
        self.not_before + validity / 2
    }

    /// The library that seals and opens its connections' records.
    pub(crate) fn aead(&self) -> AeadLibrary {
        self.policy.provider().aead
    }

    pub(crate) fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    pub(crate) fn revocations(&self) -> &Revocations {
        &self.policy.revocations
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// Judges another certificate of this process, as the peer of a connection of this one.
    pub(crate) fn judge_held(
        &self,
        peer: &Self,
        side: PeerSide,
        expected: &Expected,
    ) -> Result<Peer, TlsError> {
        // Before the chain: a list that comes meanwhile is seen.
        let witness = Witness::of(self, side);
        let held = peer.certificates.resolve(&[], &[]);
        let held = held.ok_or(TlsError::NoPeerCertificate)?;
        let judge = judge(&self.roots, &self.identity, &self.policy);
        let (leaf, intermediates) = held.cert.split_first().ok_or(TlsError::NoPeerCertificate)?;
        let now = UnixTime::now();
        let (facts, identity) = judge.accept(leaf, intermediates, now, side, expected)?;
        Ok(witness.peer(&facts, identity, &held.cert))
    }

    /// The client configuration for a set of expected identities, built at its first use.
    pub(crate) fn client(&self, expected: &Expected) -> Result<Arc<ClientConfig>, TlsError> {
        if let Some(config) = self.clients.load().get(expected) {
            return Ok(config.clone());
        }
        let config = self.new_client(expected)?;
        self.clients.rcu(|configs| {
            let full = configs.len() >= CLIENT_CONFIGS_MAX;
            let mut next = if full {
                HashMap::new()
            } else {
                (**configs).clone()
            };
            next.insert(expected.clone(), config.clone());
            next
        });
        Ok(config)
    }

    fn new_client(&self, expected: &Expected) -> Result<Arc<ClientConfig>, TlsError> {
        let judge = ServerJudge {
            judge: judge(&self.roots, &self.identity, &self.policy),
            expected: expected.clone(),
        };
        let provider = self.policy.provider().rustls.clone();
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| TlsError::Chain(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(judge))
            .with_client_cert_resolver(self.certificates.clone());
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        config.enable_secret_extraction = true;
        config.key_log = Arc::new(SecretsToOwner);
        Ok(Arc::new(config))
    }
}

fn root_store(pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in pem::certificates(pem)? {
        roots
            .add(root)
            .map_err(|e| TlsError::Chain(format!("root: {e}")))?;
    }
    if roots.is_empty() {
        return Err(TlsError::Chain("no root certificate in the answer".into()));
    }
    Ok(roots)
}

/// A chain that its own roots do not vouch for would fail at every peer: refuse it here, by name.
fn check_own_chain(
    roots: &RootCertStore,
    chain: &[CertificateDer<'static>],
    not_before: SystemTime,
) -> Result<(), TlsError> {
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(TlsError::Chain("no leaf certificate in the answer".into()));
    };
    let at = SystemTime::now().max(not_before);
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let now = UnixTime::since_unix_epoch(since);
    let (side, lists) = (PeerSide::Server, Lists::default());
    verify::chain(roots, leaf, intermediates, now, side, &lists).map_err(|e| {
        TlsError::Chain(format!(
            "the certificate issued for {} does not hold: {e}",
            san::names_of(leaf)
        ))
    })
}

fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    provider: &Provider,
) -> Result<Arc<SingleCertAndKey>, TlsError> {
    let certified = CertifiedKey::from_der(chain, key.into_der(), &provider.rustls)
        .map_err(|e| TlsError::Key(e.to_string()))?;
    Ok(Arc::new(SingleCertAndKey::from(certified)))
}

fn judge(roots: &Arc<RootCertStore>, identity: &SpiffeId, policy: &TlsPolicy) -> Judge {
    Judge {
        roots: roots.clone(),
        trust_domain: identity.trust_domain().into(),
        revocations: policy.revocations.clone(),
    }
}

fn server_config(
    judge: Judge,
    certificates: &Arc<SingleCertAndKey>,
    provider: &Provider,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider.rustls.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| TlsError::Chain(e.to_string()))?
        .with_client_cert_verifier(Arc::new(ClientJudge(judge)))
        .with_cert_resolver(certificates.clone());
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    // Clients of the mesh never resume (interop/hbone.md), so a ticket would only be bytes.
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(SecretsToOwner);
    Ok(Arc::new(config))
}

type ThrowAwayRoot = (String, Issuer<'static, KeyPair>);

fn throw_away_root() -> Result<&'static ThrowAwayRoot, TlsError> {
    static ROOT: OnceLock<ThrowAwayRoot> = OnceLock::new();
    if let Some(root) = ROOT.get() {
        return Ok(root);
    }
    let bad = |e: rcgen::Error| TlsError::Chain(e.to_string());
    let pair = KeyPair::generate().map_err(bad)?;
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "throw-away test root");
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    params.not_before = (now - SELF_SIGNED.1).into();
    params.not_after = (now + SELF_SIGNED.0 * 30).into();
    let certificate = params.self_signed(&pair).map_err(bad)?;
    let root = (certificate.pem(), Issuer::new(params, pair));
    Ok(ROOT.get_or_init(|| root))
}
