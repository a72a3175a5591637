//! The mutual TLS handshake between workloads.

use crate::certificate::ALPN_H2;
use crate::{Expected, TlsError, WorkloadCertificate, san};
use mesh_model::SpiffeId;
use rustls::CommonState;
use rustls_pki_types::{IpAddr, Ipv4Addr, ServerName};
use std::io;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// How long a handshake may take, whichever side.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection whose peer is known.
pub type MeshStream<S> = TlsStream<S>;

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// For a server the first workload identity of the client's certificate; for a client the
    /// first that was expected.
    pub identity: SpiffeId,
    /// When its certificate ends.
    pub not_after: SystemTime,
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
    let acceptor = TlsAcceptor::from(certificate.server());
    let stream = within_timeout(acceptor.accept(stream)).await?;
    let peer = peer_of(stream.get_ref().1, |facts| facts.identities().next())?;
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
    let connector = TlsConnector::from(certificate.client(expected)?);
    // rustls wants a name; none is sent, and the verifier does not look at it.
    let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])));
    let stream = within_timeout(connector.connect(name, stream)).await?;
    let trust_domain = certificate.identity().trust_domain();
    let peer = peer_of(stream.get_ref().1, |facts| {
        expected.select(facts.identities(), trust_domain)
    })?;
    Ok((TlsStream::Client(stream), peer))
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
fn peer_of(
    state: &CommonState,
    select: impl FnOnce(&san::Facts) -> Option<SpiffeId>,
) -> Result<Peer, TlsError> {
    // The server side of rustls lets a client without ALPN through.
    if state.alpn_protocol() != Some(ALPN_H2) {
        return Err(TlsError::NoAlpn);
    }
    let leaf = state
        .peer_certificates()
        .and_then(<[_]>::first)
        .ok_or(TlsError::NoPeerCertificate)?;
    let facts = san::Facts::read(leaf)?;
    let identity = select(&facts).ok_or_else(|| TlsError::NoIdentity {
        found: facts.shown(),
    })?;
    Ok(Peer {
        identity,
        not_after: facts.not_after,
    })
}

#[cfg(test)]
mod tests;
