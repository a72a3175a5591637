//! Why no TLS connection, certificate or request came to be.

use crate::session::RecordFault;
use mesh_model::Reason;
use rustls::PeerIncompatible;
use std::io;
use std::sync::Arc;

/// Why a handshake failed or a certificate cannot be used.
///
/// `found` names the identities of the certificate the peer presented, `expected` the ones this
/// side would have taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsError {
    /// The handshake took longer than [`crate::HANDSHAKE_TIMEOUT`].
    #[error("the TLS handshake did not end within 10 s")]
    Timeout,
    /// The peer went away in the handshake.
    #[error("the peer closed the connection in the TLS handshake")]
    Closed,
    /// The socket failed in the handshake.
    #[error("the connection failed in the TLS handshake: {0}")]
    Io(Arc<io::Error>),
    /// The bytes are no TLS, or the two sides have no version, suite or protocol in common.
    #[error("TLS handshake: {0}")]
    Handshake(String),
    /// The peer refused us with a TLS alert.
    #[error("the peer refused the TLS handshake: alert {0}")]
    Alert(String),
    /// The peer presented no certificate.
    #[error("the peer presented no certificate")]
    NoPeerCertificate,
    /// The peer's certificate is over.
    #[error("the peer's certificate expired at {not_after}: found {found}")]
    Expired {
        /// Identities found.
        found: String,
        /// End of its validity.
        not_after: String,
    },
    /// The peer's certificate is not valid yet.
    #[error("the peer's certificate is valid only from {not_before}: found {found}")]
    NotYetValid {
        /// Identities found.
        found: String,
        /// Start of its validity.
        not_before: String,
    },
    /// A certificate of the peer's chain is on a revocation list.
    #[error("the peer's certificate is revoked: found {found}")]
    Revoked {
        /// Identities found.
        found: String,
    },
    /// The peer has no key exchange in common with us.
    #[error(
        "the peer offers no key exchange that is taken here: with COMPLIANCE_POLICY=pqc \
         X25519MLKEM768 is the only one"
    )]
    NoKeyExchange,
    /// The peer's certificate carries no SPIFFE identity.
    #[error("the peer's certificate has no URI SAN that is a workload identity: found {found}")]
    NoIdentity {
        /// Names found.
        found: String,
    },
    /// The peer belongs to another trust domain.
    #[error("the peer's trust domain is not ours: found {found}, expected spiffe://{expected}/..")]
    TrustDomain {
        /// Identities found.
        found: String,
        /// Our trust domain.
        expected: String,
    },
    /// The peer's certificate does not chain to our roots.
    #[error("the peer's certificate is not signed by a root of this mesh: found {found}")]
    UnknownRoot {
        /// Identities found.
        found: String,
    },
    /// The peer is a workload of this mesh, but not the one asked for.
    #[error("the peer is not the workload expected: found {found}, expected {expected}")]
    IdentityMismatch {
        /// Identities found.
        found: String,
        /// Identities that would do.
        expected: String,
    },
    /// The peer's certificate is malformed, wrongly signed or not meant for this use.
    #[error("the peer's certificate is not acceptable ({why}): found {found}")]
    BadCertificate {
        /// Identities found.
        found: String,
        /// What is wrong.
        why: String,
    },
    /// The peer did not agree to speak HTTP/2.
    #[error("the peer did not negotiate ALPN h2")]
    NoAlpn,
    /// A record of a connection in use cannot be taken or made.
    #[error("TLS record: {0}")]
    Record(#[from] RecordFault),
    /// A chain given to us cannot be used.
    #[error("certificate chain: {0}")]
    Chain(String),
    /// A chain given to us carries another identity than the one asked for.
    #[error("the certificate issued is for {found}, asked for {requested}")]
    IssuedForAnother {
        /// Identities found.
        found: String,
        /// Identity asked for.
        requested: String,
    },
    /// A private key cannot be used.
    #[error("private key: {0}")]
    Key(String),
    /// A request could not be made.
    #[error("certificate request: {0}")]
    Request(String),
    /// This server holds no certificate (yet).
    #[error("no serving certificate is held yet")]
    NoServingCertificate,
}

impl TlsError {
    /// The stable reason code of a connection that ends for this.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Timeout
            | Self::Closed
            | Self::Io(_)
            | Self::Handshake(_)
            | Self::Alert(_)
            | Self::NoPeerCertificate
            | Self::Expired { .. }
            | Self::NotYetValid { .. }
            | Self::NoIdentity { .. }
            | Self::TrustDomain { .. }
            | Self::UnknownRoot { .. }
            | Self::IdentityMismatch { .. }
            | Self::BadCertificate { .. }
            | Self::NoAlpn
            | Self::NoKeyExchange
            | Self::Record(_) => Reason::TlsFailure,
            Self::Revoked { .. } => Reason::CertRevoked,
            Self::Chain(_)
            | Self::IssuedForAnother { .. }
            | Self::Key(_)
            | Self::Request(_)
            | Self::NoServingCertificate => Reason::NoIdentity,
        }
    }

    /// Reads what a TLS stream's I/O error means. In TLS 1.3 a server judges the client's
    /// certificate after the client's handshake is over, so its refusal arrives as the error of a
    /// later read: [`Self::Alert`] here.
    pub fn of_io(error: io::Error) -> Self {
        let inner = error
            .get_ref()
            .and_then(|e| e.downcast_ref::<rustls::Error>());
        match inner {
            Some(tls) => Self::of_rustls(tls),
            None => match error.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe => Self::Closed,
                _ => Self::Io(Arc::new(error)),
            },
        }
    }

    pub(crate) fn of_rustls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => other
                .0
                .downcast_ref::<Self>()
                .cloned()
                .unwrap_or_else(|| Self::Handshake(error.to_string())),
            rustls::Error::NoCertificatesPresented => Self::NoPeerCertificate,
            rustls::Error::AlertReceived(alert) => Self::Alert(format!("{alert:?}")),
            rustls::Error::NoApplicationProtocol => Self::NoAlpn,
            rustls::Error::PeerIncompatible(
                PeerIncompatible::NoKxGroupsInCommon
                | PeerIncompatible::NamedGroupsExtensionRequired,
            ) => Self::NoKeyExchange,
            other => Self::Handshake(other.to_string()),
        }
    }

    /// Hands this through rustls, which gives it back in its own error.
    pub(crate) fn into_rustls(self) -> rustls::Error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(rustls::OtherError(
            Arc::new(self),
        )))
    }
}
