//! Whom a handshake accepts: a chain to our roots by webpki, then the SPIFFE rules.

use crate::revocation::{Lists, PeerSide, RevocationEvent, Revocations};
use crate::{TlsError, provider, san};
use mesh_model::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

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

/// Judges the certificates of peers on one side: the chain, the lists, then the identities.
#[derive(Debug)]
pub(crate) struct Judge {
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) trust_domain: Arc<str>,
    pub(crate) revocations: Revocations,
}

impl Judge {
    /// The chain and the identities of a client's or server's certificate; whom it is accepted as.
    pub(crate) fn accept(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        side: PeerSide,
        expected: &Expected,
    ) -> Result<(san::Facts, SpiffeId), TlsError> {
        let facts = self.chain(end_entity, intermediates, now, side)?;
        match expected.select(facts.identities(), &self.trust_domain) {
            Some(identity) => Ok((facts, identity)),
            None => Err(self.unexpected(&facts, expected)),
        }
    }

    fn unexpected(&self, facts: &san::Facts, expected: &Expected) -> TlsError {
        match expected {
            Expected::TrustDomain => TlsError::TrustDomain {
                found: facts.shown(),
                expected: self.trust_domain.to_string(),
            },
            Expected::AnyOf(wanted) => TlsError::IdentityMismatch {
                found: facts.shown(),
                expected: san::shown(wanted),
            },
        }
    }

    fn chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        side: PeerSide,
    ) -> Result<san::Facts, TlsError> {
        let lists = self.revocations.lists();
        chain(&self.roots, end_entity, intermediates, now, side, &lists).map_err(|error| {
            if error == webpki::Error::CertRevoked {
                self.revocations.count(RevocationEvent::Rejected, side);
            }
            chain_error(&error, end_entity)
        })?;
        let facts = san::Facts::read(end_entity)?;
        if facts.identities().next().is_none() {
            let found = facts.shown();
            return Err(TlsError::NoIdentity { found });
        }
        Ok(facts)
    }
}

/// The server's judge of client certificates: at least one identity of our own trust domain.
#[derive(Debug)]
pub(crate) struct ClientJudge(pub(crate) Judge);

impl ClientCertVerifier for ClientJudge {
    // Every client has one certificate, so a list of acceptable issuers would be dead weight.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let (side, expected) = (PeerSide::Client, Expected::TrustDomain);
        self.0
            .accept(end_entity, intermediates, now, side, &expected)
            .map(|_| ClientCertVerified::assertion())
            .map_err(TlsError::into_rustls)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider::edge().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider::edge().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        supported_schemes()
    }
}

/// The client's judge of server certificates: one of the peer's identities is exactly one expected.
/// Host names play no part.
#[derive(Debug)]
pub(crate) struct ServerJudge {
    pub(crate) judge: Judge,
    pub(crate) expected: Expected,
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
        let (side, expected) = (PeerSide::Server, &self.expected);
        self.judge
            .accept(end_entity, intermediates, now, side, expected)
            .map(|_| ServerCertVerified::assertion())
            .map_err(TlsError::into_rustls)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider::edge().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider::edge().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        supported_schemes()
    }
}

fn supported_schemes() -> Vec<SignatureScheme> {
    provider::edge()
        .signature_verification_algorithms
        .supported_schemes()
}

/// Checks the chain of a peer to the roots and against the lists, at a moment.
pub(crate) fn chain(
    roots: &RootCertStore,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    side: PeerSide,
    lists: &Lists,
) -> Result<(), webpki::Error> {
    let usage = match side {
        PeerSide::Client => KeyUsage::client_auth(),
        PeerSide::Server => KeyUsage::server_auth(),
    };
    let lists: Vec<&CertRevocationList<'_>> = lists.iter().map(AsRef::as_ref).collect();
    // It has no options without a list.
    let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
        options
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Allow)
            .with_expiration_policy(ExpirationPolicy::Ignore)
            .build()
    });
    let algorithms = provider::edge().signature_verification_algorithms.all;
    let (anchors, none) = (&roots.roots, None);
    EndEntityCert::try_from(end_entity)?
        .verify_for_usage(
            algorithms,
            anchors,
            intermediates,
            now,
            usage,
            revocation,
            none,
        )
        .map(drop)
}

/// What webpki's refusal means, with the identities of the certificate refused.
pub(crate) fn chain_error(error: &webpki::Error, end_entity: &CertificateDer<'_>) -> TlsError {
    let found = san::names_of(end_entity);
    let at = |time: &UnixTime| {
        let since = std::time::Duration::from_secs(time.as_secs());
        san::shown_time(std::time::SystemTime::UNIX_EPOCH + since)
    };
    match error {
        webpki::Error::CertExpired { not_after, .. } => TlsError::Expired {
            found,
            not_after: at(not_after),
        },
        webpki::Error::CertNotValidYet { not_before, .. } => TlsError::NotYetValid {
            found,
            not_before: at(not_before),
        },
        webpki::Error::CertRevoked => TlsError::Revoked { found },
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            TlsError::UnknownRoot { found }
        }
        other => TlsError::BadCertificate {
            found,
            why: format!("{other:?}").chars().take(200).collect(),
        },
    }
}
