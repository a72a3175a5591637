//! TLS of our own gRPC servers: one certificate at a time, replaced without a restart.

use crate::certificate::ALPN_H2;
use crate::edge::{EdgeStream, certified_key};
use crate::mesh::within_timeout;
use crate::{KeyExchange, PrivateKey, TlsError, pem, provider, san};
use arc_swap::ArcSwapOption;
use mesh_model::TlsCertificatePem;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

/// A certificate for serving, read and checked.
#[derive(Clone)]
pub struct ServingCertificate {
    certified: Arc<CertifiedKey>,
    not_before: SystemTime,
    not_after: SystemTime,
    names: Vec<String>,
}

impl fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServingCertificate")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl ServingCertificate {
    /// Takes what a certificate authority answered to [`crate::new_serving_csr`]: leaf |
    /// intermediates | roots last, each PEM.
    ///
    /// # Errors
    /// When a part cannot be read or the key is another's.
    pub fn from_chain(key: PrivateKey, chain_pem: &[String]) -> Result<Self, TlsError> {
        let mut chain = Vec::new();
        for part in chain_pem.split_last().map_or(&[][..], |(_, chain)| chain) {
            chain.extend(pem::certificates(part)?);
        }
        let Some(leaf) = chain.first() else {
            return Err(TlsError::Chain("no root certificate in the answer".into()));
        };
        let facts = san::Facts::read(leaf)?;
        let certified = CertifiedKey::from_der(chain, key.into_der(), provider::edge())
            .map_err(|e| TlsError::Key(e.to_string()))?;
        Ok(Self::new(Arc::new(certified), facts))
    }

    /// Takes a certificate and key from the user.
    ///
    /// # Errors
    /// When a part cannot be read or the key is another's.
    pub fn from_pem(pem: &TlsCertificatePem) -> Result<Self, TlsError> {
        let (certified, facts) = certified_key(pem)?;
        Ok(Self::new(certified, facts))
    }

    fn new(certified: Arc<CertifiedKey>, facts: san::Facts) -> Self {
        Self {
            certified,
            not_before: facts.not_before,
            not_after: facts.not_after,
            names: facts.dns,
        }
    }

    /// The DNS names it carries.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// End of its validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// When it is to be renewed: half way through its validity.
    pub fn renew_at(&self) -> SystemTime {
        let validity = self
            .not_after
            .duration_since(self.not_before)
            .unwrap_or_default();
        self.not_before + validity / 2
    }
}

#[derive(Default)]
struct Current(ArcSwapOption<CertifiedKey>);

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current(..)")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// TLS 1.3 with ALPN h2 for gRPC. Clones share the certificate.
#[derive(Clone)]
pub struct ServingTls {
    current: Arc<Current>,
    config: Arc<ServerConfig>,
}

impl fmt::Debug for ServingTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServingTls(..)")
    }
}

impl ServingTls {
    /// Without a certificate: until [`Self::set`], each handshake fails with
    /// [`TlsError::NoServingCertificate`].
    ///
    /// # Errors
    /// When the cryptography of this build lacks TLS 1.3.
    pub fn new() -> Result<Self, TlsError> {
        Self::with_key_exchange(KeyExchange::default())
    }

    /// As [`Self::new`], for clients with one of these key exchanges.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_key_exchange(key_exchange: KeyExchange) -> Result<Self, TlsError> {
        let current = Arc::new(Current::default());
        let provider = provider::of_key_exchange(key_exchange).clone();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| TlsError::Chain(e.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        Ok(Self {
            current,
            config: Arc::new(config),
        })
    }

    /// Uses this certificate from the next handshake on; open connections go on.
    pub fn set(&self, certificate: &ServingCertificate) {
        self.current.0.store(Some(certificate.certified.clone()));
    }

    /// Whether there is a certificate to serve with.
    pub fn is_set(&self) -> bool {
        self.current.0.load().is_some()
    }

    /// Takes a connection.
    ///
    /// # Errors
    /// When there is no certificate yet, or the handshake fails or takes over 10 s.
    pub async fn accept<S>(&self, stream: S) -> Result<EdgeStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if !self.is_set() {
            return Err(TlsError::NoServingCertificate);
        }
        within_timeout(TlsAcceptor::from(self.config.clone()).accept(stream)).await
    }
}
