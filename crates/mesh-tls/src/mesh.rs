//! The mutual TLS handshake between workloads.

use crate::certificate::ALPN_H2;
use crate::revocation::{Lists, PeerChain, PeerSide};
use crate::{Expected, TlsError, WorkloadCertificate, san};
use mesh_model::SpiffeId;
use rustls::{CipherSuite, CommonState, NamedGroup};
use rustls_pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName, UnixTime};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// How long a handshake may take, whichever side.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection whose peer is known.
pub type MeshStream<S> = TlsStream<S>;

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Peer {
    /// For a server the first workload identity of the client's certificate; for a client the
    /// first that was expected.
    pub identity: SpiffeId,
    /// When its certificate ends.
    pub not_after: SystemTime,
    /// IANA name of the key exchange agreed on, such as `X25519MLKEM768`.
    pub key_exchange: &'static str,
    /// IANA name of the cipher suite agreed on, such as `TLS_AES_256_GCM_SHA384`.
    pub cipher_suite: &'static str,
    /// What it proved itself with, where there are revocation lists.
    chain: Option<Arc<PeerChain>>,
}

impl Peer {
    /// Returns when a certificate of the peer's chain is on a later revocation list; counts it as
    /// rejected the first time. Never returns where there are no lists.
    pub async fn revoked(&self) {
        match &self.chain {
            Some(chain) => chain.revoked().await,
            None => std::future::pending().await,
        }
    }
}

/// Takes a connection: TLS 1.3, ALPN h2, a client certificate required, SPIFFE rules of
/// interop/hbone.md. SNI is ignored.
///
/// # Errors
/// Each way to fail has its own [`TlsError`].
pub async fn accept_mesh<S>(
    stream: S,
    certificate: &WorkloadCertificate,
) -> Result<(MeshStream<S>, Peer), TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let witness = Witness::of(certificate, PeerSide::Client);
    let acceptor = TlsAcceptor::from(certificate.server());
    let stream = within_timeout(acceptor.accept(stream)).await?;
    // The one it was let in by: of a certificate with several, not the first of whatever domain.
    let trust_domain = certificate.identity().trust_domain();
    let peer = peer_of(stream.get_ref().1, witness, |facts| {
        Expected::TrustDomain.select(facts.identities(), trust_domain)
    })?;
    Ok((TlsStream::Server(stream), peer))
}

/// Opens a connection: TLS 1.3, ALPN h2, no SNI; the peer must carry an identity of `expected`.
///
/// A server judges our certificate only after this returns: see [`TlsError::of_io`].
///
/// # Errors
/// Each way to fail has its own [`TlsError`].
pub async fn connect_mesh<S>(
    stream: S,
    certificate: &WorkloadCertificate,
    expected: &Expected,
) -> Result<(MeshStream<S>, Peer), TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let witness = Witness::of(certificate, PeerSide::Server);
    let connector = TlsConnector::from(certificate.client(expected)?);
    let stream = within_timeout(connector.connect(any_name(), stream)).await?;
    let trust_domain = certificate.identity().trust_domain();
    let peer = peer_of(stream.get_ref().1, witness, |facts| {
        expected.select(facts.identities(), trust_domain)
    })?;
    Ok((TlsStream::Client(stream), peer))
}

/// rustls wants a name; none is sent, and the verifier does not look at it.
pub(crate) fn any_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])))
}

pub(crate) async fn within_timeout<T>(
    handshake: impl Future<Output = io::Result<T>>,
) -> Result<T, TlsError> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(result) => result.map_err(TlsError::of_io),
        Err(_) => Err(TlsError::Timeout),
    }
}

/// Reads the peer off a finished handshake; the verifier has judged it already.
pub(crate) fn peer_of(
    state: &CommonState,
    witness: Witness<'_>,
    select: impl FnOnce(&san::Facts) -> Option<SpiffeId>,
) -> Result<Peer, TlsError> {
    // The server side of rustls lets a client without ALPN through.
    if state.alpn_protocol() != Some(ALPN_H2) {
        return Err(TlsError::NoAlpn);
    }
    let certificates = state.peer_certificates().unwrap_or_default();
    let leaf = certificates.first().ok_or(TlsError::NoPeerCertificate)?;
    let facts = san::Facts::read(leaf)?;
    let identity = select(&facts).ok_or_else(|| TlsError::NoIdentity {
        found: facts.shown(),
    })?;
    Ok(Peer {
        identity,
        not_after: facts.not_after,
        key_exchange: key_exchange_name(state),
        cipher_suite: cipher_suite_name(state),
        chain: witness.chain(certificates),
    })
}

/// What is noted before a handshake, for its peer to be judged anew by later revocation lists.
pub(crate) struct Witness<'a> {
    certificate: &'a WorkloadCertificate,
    side: PeerSide,
    changes: Option<watch::Receiver<Lists>>,
}

impl<'a> Witness<'a> {
    pub(crate) fn of(certificate: &'a WorkloadCertificate, side: PeerSide) -> Self {
        Self {
            certificate,
            side,
            changes: certificate.revocations().watch(),
        }
    }

    /// The peer known by a certificate that was judged without a handshake.
    pub(crate) fn peer(
        self,
        facts: &san::Facts,
        identity: SpiffeId,
        chain: &[CertificateDer<'_>],
    ) -> Peer {
        Peer {
            identity,
            not_after: facts.not_after,
            key_exchange: "unknown",
            cipher_suite: "unknown",
            chain: self.chain(chain),
        }
    }

    fn chain(self, certificates: &[CertificateDer<'_>]) -> Option<Arc<PeerChain>> {
        let changes = self.changes?;
        Some(Arc::new(PeerChain {
            certificates: certificates
                .iter()
                .map(|certificate| certificate.clone().into_owned())
                .collect(),
            roots: self.certificate.roots().clone(),
            side: self.side,
            established: UnixTime::now(),
            revocations: self.certificate.revocations().clone(),
            changes,
            judged: Mutex::default(),
        }))
    }
}

/// Judges two certificates of this process by each other's roots, lists and rules, as their handshake
/// would: first the client as the server sees it, then the server as the client does. The keys are
/// this process's own, so there is nothing to prove; what they agreed on reads `unknown`.
///
/// # Errors
/// What the handshake would fail with.
pub fn judge_both(
    client: &WorkloadCertificate,
    server: &WorkloadCertificate,
    expected: &Expected,
) -> Result<(Peer, Peer), TlsError> {
    let accepted = server.judge_held(client, PeerSide::Client, &Expected::TrustDomain)?;
    let connected = client.judge_held(server, PeerSide::Server, expected)?;
    Ok((accepted, connected))
}

pub(crate) fn key_exchange_name(state: &CommonState) -> &'static str {
    let group = state.negotiated_key_exchange_group();
    match group.map(rustls::crypto::SupportedKxGroup::name) {
        Some(NamedGroup::X25519MLKEM768) => "X25519MLKEM768",
        Some(NamedGroup::X25519) => "x25519",
        Some(NamedGroup::secp256r1) => "secp256r1",
        Some(NamedGroup::secp384r1) => "secp384r1",
        _ => "unknown",
    }
}

fn cipher_suite_name(state: &CommonState) -> &'static str {
    match state.negotiated_cipher_suite().map(|suite| suite.suite()) {
        Some(CipherSuite::TLS13_AES_256_GCM_SHA384) => "TLS_AES_256_GCM_SHA384",
        Some(CipherSuite::TLS13_AES_128_GCM_SHA256) => "TLS_AES_128_GCM_SHA256",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests;
