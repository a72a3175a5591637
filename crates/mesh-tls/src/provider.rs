//! The cryptography in use: aws-lc-rs, narrowed for the mesh, with the faster AEAD.

use crate::aead::{self, AeadChoice, AeadLibrary};
use crate::{Revocations, TlsError};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::version::{TLS12, TLS13};
use rustls::{NamedGroup, SupportedProtocolVersion};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

/// Which key exchanges connections may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KeyExchange {
    /// X25519MLKEM768 first, then X25519 and the NIST curves for peers without it.
    #[default]
    PostQuantumFirst,
    /// X25519MLKEM768 only (`COMPLIANCE_POLICY=pqc`).
    PostQuantumOnly,
}

impl FromStr for KeyExchange {
    type Err = String;

    /// Reads the value of `COMPLIANCE_POLICY`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::PostQuantumFirst),
            "pqc" => Ok(Self::PostQuantumOnly),
            other => Err(format!("{other:?} is not pqc, nor empty")),
        }
    }
}

/// What the mesh's connections are made with; once a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Cryptography {
    /// Which library seals and opens records.
    pub aead: AeadChoice,
    /// Which key exchanges are offered and taken.
    pub key_exchange: KeyExchange,
}

/// The cryptography of mesh connections: AES-256-GCM and AES-128-GCM only (interop/hbone.md,
/// Transport).
#[derive(Clone)]
pub(crate) struct Provider {
    pub(crate) rustls: Arc<CryptoProvider>,
    pub(crate) aead: AeadLibrary,
}

/// What the certificates of a process are used with. The default: the process's cryptography, and
/// no revocation lists.
#[derive(Debug, Clone, Default)]
pub struct TlsPolicy {
    provider: Option<Provider>,
    pub(crate) revocations: Revocations,
}

impl TlsPolicy {
    /// The cryptography of the process, with these lists.
    pub const fn new(revocations: Revocations) -> Self {
        Self {
            provider: None,
            revocations,
        }
    }

    /// With other cryptography than the process's.
    #[must_use]
    pub fn with_cryptography(self, cryptography: Cryptography) -> Self {
        let provider = Some(Provider::new(cryptography));
        Self { provider, ..self }
    }

    /// With a provider that no setting asks for, to play a peer.
    #[cfg(test)]
    pub(crate) fn with_provider(self, rustls: CryptoProvider) -> Self {
        let aead = AeadLibrary::AwsLc;
        let rustls = Arc::new(rustls);
        let provider = Some(Provider { rustls, aead });
        Self { provider, ..self }
    }

    pub(crate) fn provider(&self) -> &Provider {
        self.provider
            .as_ref()
            .unwrap_or_else(|| Provider::of_process())
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("aead", &self.aead)
            .finish()
    }
}

static MESH: OnceLock<Provider> = OnceLock::new();

impl Provider {
    pub(crate) fn new(cryptography: Cryptography) -> Self {
        let aead = cryptography.aead.decide();
        let rustls = Arc::new(CryptoProvider {
            cipher_suites: aead::suites(aead),
            ..CryptoProvider::clone(of_key_exchange(cryptography.key_exchange))
        });
        Self { rustls, aead }
    }

    /// The process's own: as [`set_cryptography`] said, else the defaults.
    pub(crate) fn of_process() -> &'static Self {
        MESH.get_or_init(|| Self::new(Cryptography::default()))
    }
}

/// Sets what mesh connections of this process are made with, before the first certificate is
/// taken. Says in the log which AEAD library was chosen and why.
///
/// # Errors
/// When it was set or used before.
pub fn set_cryptography(cryptography: Cryptography) -> Result<(), TlsError> {
    let again = || TlsError::Chain("the cryptography of this process is in use already".into());
    if MESH.get().is_some() {
        return Err(again());
    }
    MESH.set(Provider::new(cryptography)).map_err(|_| again())
}

/// The provider of the edge: the library's defaults, for clients we do not choose.
pub(crate) fn edge() -> &'static Arc<CryptoProvider> {
    static EDGE: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    EDGE.get_or_init(|| Arc::new(aws_lc_rs::default_provider()))
}

/// The library's defaults, with these key exchanges.
pub(crate) fn of_key_exchange(key_exchange: KeyExchange) -> &'static Arc<CryptoProvider> {
    static POST_QUANTUM: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    match key_exchange {
        KeyExchange::PostQuantumFirst => edge(),
        KeyExchange::PostQuantumOnly => POST_QUANTUM.get_or_init(|| {
            let mut provider = aws_lc_rs::default_provider();
            let only = NamedGroup::X25519MLKEM768;
            provider.kx_groups.retain(|group| group.name() == only);
            Arc::new(provider)
        }),
    }
}

/// The versions that go with these key exchanges: the post-quantum one is of TLS 1.3.
pub(crate) fn versions(key_exchange: KeyExchange) -> &'static [&'static SupportedProtocolVersion] {
    static NEWEST_FIRST: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match key_exchange {
        KeyExchange::PostQuantumFirst => &NEWEST_FIRST,
        KeyExchange::PostQuantumOnly => NEWEST_FIRST.split_at(1).0,
    }
}

/// Makes aws-lc-rs the provider of every TLS user in this process that asks for the default one,
/// such as gRPC channels. Does nothing when there is one already.
pub fn install_provider() {
    install_provider_with(KeyExchange::default());
}

/// As [`install_provider`], with these key exchanges alone.
pub fn install_provider_with(key_exchange: KeyExchange) {
    if CryptoProvider::get_default().is_none() {
        let provider = CryptoProvider::clone(of_key_exchange(key_exchange));
        // Lost to another thread: then that one's provider stands, which is as good.
        drop(provider.install_default());
    }
}

/// Fills a buffer with random bytes fit for secrets and serial numbers.
///
/// # Errors
/// When the system gives none.
pub fn fill_random(bytes: &mut [u8]) -> Result<(), TlsError> {
    edge()
        .secure_random
        .fill(bytes)
        .map_err(|_| TlsError::Key("the system gives no random bytes".into()))
}
