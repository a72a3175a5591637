//! Whom a handshake accepts: a chain to our roots by webpki, then the SPIFFE rules.

use crate::{TlsError, provider, san};
use mesh_model::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;

/// Whom a client takes as its peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expected {
    /// A peer one of whose identities is exactly one of these. An empty list accepts nobody.
    AnyOf(Vec<SpiffeId>),
    /// Any workload of our own trust domain.
    TrustDomain,
}

impl Expected {
    /// The identity by which a peer is accepted: the first of its own that is expected.
    pub(crate) fn select(
        &self,
        peer: impl Iterator<Item = SpiffeId>,
        trust_domain: &str,
    ) -> Option<SpiffeId> {
        let mut peer = peer;
        match self {
            Self::AnyOf(wanted) => peer.find(|id| wanted.contains(id)),
            Self::TrustDomain => peer.find(|id| id.trust_domain() == trust_domain),
        }
    }
}

/// The server's judge of client certificates.
#[derive(Debug)]
pub(crate) struct ClientJudge {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: Arc<str>,
}

impl ClientJudge {
    pub(crate) fn new(roots: Arc<RootCertStore>, trust_domain: &str) -> Result<Self, TlsError> {
        let provider = provider::mesh().clone();
        // Every client has one certificate, so a list of acceptable issuers would be dead weight.
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider)
            .clear_root_hint_subjects()
            .build()
            .map_err(|e| TlsError::Chain(format!("roots: {e}")))?;
        Ok(Self {
            chain,
            trust_domain: trust_domain.into(),
        })
    }

    /// The identity rule of a server: at least one identity of our own trust domain.
    fn judge(&self, end_entity: &CertificateDer<'_>) -> Result<(), TlsError> {
        let facts = san::Facts::read(end_entity)?;
        let mut identities = facts.identities().peekable();
        if identities.peek().is_none() {
            return Err(TlsError::NoIdentity {
                found: facts.shown(),
            });
        }
        if identities.any(|id| id.trust_domain() == &*self.trust_domain) {
            return Ok(());
        }
        Err(TlsError::TrustDomain {
            found: facts.shown(),
            expected: self.trust_domain.to_string(),
        })
    }
}

impl ClientCertVerifier for ClientJudge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(|e| chain_error(&e, end_entity).into_rustls())?;
        self.judge(end_entity).map_err(TlsError::into_rustls)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// The client's judge of server certificates. Host names play no part.
#[derive(Debug)]
pub(crate) struct ServerJudge {
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) trust_domain: Arc<str>,
    pub(crate) expected: Expected,
}

impl ServerJudge {
    /// The identity rule of a client: one of the peer's identities is exactly one expected.
    fn judge(&self, end_entity: &CertificateDer<'_>) -> Result<(), TlsError> {
        let facts = san::Facts::read(end_entity)?;
        let found = || facts.shown();
        if facts.identities().next().is_none() {
            return Err(TlsError::NoIdentity { found: found() });
        }
        let selected = self.expected.select(facts.identities(), &self.trust_domain);
        match (selected, &self.expected) {
            (Some(_), _) => Ok(()),
            (None, Expected::TrustDomain) => Err(TlsError::TrustDomain {
                found: found(),
                expected: self.trust_domain.to_string(),
            }),
            (None, Expected::AnyOf(wanted)) => Err(TlsError::IdentityMismatch {
                found: found(),
                expected: san::shown(wanted),
            }),
        }
    }
}

impl ServerCertVerifier for ServerJudge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_chain(&self.roots, end_entity, intermediates, now)
            .map_err(|e| chain_error(&e, end_entity).into_rustls())?;
        self.judge(end_entity).map_err(TlsError::into_rustls)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider::mesh().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider::mesh().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider::mesh()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Checks a chain to the roots, for server use, at a moment.
pub(crate) fn verify_chain(
    roots: &RootCertStore,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let parsed = ParsedCertificate::try_from(end_entity)?;
    let algorithms = provider::mesh().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
}

/// What webpki's refusal means, with the identities of the certificate refused.
pub(crate) fn chain_error(error: &rustls::Error, end_entity: &CertificateDer<'_>) -> TlsError {
    let found = san::names_of(end_entity);
    let at = |time: &UnixTime| {
        let since = std::time::Duration::from_secs(time.as_secs());
        san::shown_time(std::time::SystemTime::UNIX_EPOCH + since)
    };
    let rustls::Error::InvalidCertificate(why) = error else {
        let why = error.to_string();
        return TlsError::BadCertificate { found, why };
    };
    match why {
        CertificateError::ExpiredContext { not_after, .. } => TlsError::Expired {
            found,
            not_after: at(not_after),
        },
        CertificateError::NotValidYetContext { not_before, .. } => TlsError::NotYetValid {
            found,
            not_before: at(not_before),
        },
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            TlsError::UnknownRoot { found }
        }
        other => TlsError::BadCertificate {
            found,
            why: format!("{other:?}").chars().take(200).collect(),
        },
    }
}
