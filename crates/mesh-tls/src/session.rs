//! TLS without I/O: the handshake over a stream, then records that the owner of the socket seals and
//! opens where they lie.
//!
//! [`crate::accept_mesh`] wraps a stream; a [`Session`] instead hands over stream, keys and what was
//! read too far, so that a data path moves bytes between socket, record and frame without a copy,
//! and so that a connection can be written down and taken up elsewhere ([`Records::into_snapshot`]).

mod handshake;
mod keys;
mod messages;
mod records;
mod secrets;
mod snapshot;
mod writer;

pub use records::{Opened, RECORD_PLAIN_MAX, RECORD_WIRE_MAX, RecordFault, Records};
pub(crate) use secrets::SecretsToOwner;
pub use snapshot::{HalfSnapshot, RecordsSnapshot};
pub use writer::Writer;

use crate::mesh::{HANDSHAKE_TIMEOUT, Witness, any_name, peer_of};
use crate::revocation::PeerSide;
use crate::{Expected, Peer, TlsError, WorkloadCertificate};
use bytes::BytesMut;
use handshake::Handshake;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use std::fmt;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection whose peer is known and whose records are ours.
pub struct Session<S> {
    /// The socket, with nothing pending to be written.
    pub stream: S,
    /// Seals and opens.
    pub records: Records,
    /// What was read behind the handshake, still sealed: the first bytes for [`Records::open`].
    pub early: BytesMut,
    /// Who is at the other end.
    pub peer: Peer,
}

impl<S> fmt::Debug for Session<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Takes a connection by the rules of [`crate::accept_mesh`].
///
/// # Errors
/// Each way to fail has its own [`TlsError`].
pub async fn accept_session<S>(
    stream: S,
    certificate: &WorkloadCertificate,
) -> Result<Session<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let witness = Witness::of(certificate, PeerSide::Client);
    let connection = UnbufferedServerConnection::new(certificate.server())
        .map_err(|e| TlsError::of_rustls(&e))?;
    let (stream, connection, handshake) = shake(stream, connection).await?;
    // The one it was let in by: of a certificate with several, not the first of whatever domain.
    let trust_domain = certificate.identity().trust_domain();
    let peer = peer_of(&connection, witness, |facts| {
        Expected::TrustDomain.select(facts.identities(), trust_domain)
    })?;
    let (extracted, kernel) = connection
        .dangerous_into_kernel_connection()
        .map_err(|e| TlsError::of_rustls(&e))?;
    let suite = kernel.negotiated_cipher_suite();
    let (sending, receiving) = (handshake.secrets.server, handshake.secrets.client);
    let library = certificate.aead();
    let records = Records::of_handshake(library, true, suite, &extracted, sending, receiving)?;
    Ok(Session {
        stream,
        records,
        early: handshake.incoming,
        peer,
    })
}

/// Opens a connection by the rules of [`crate::connect_mesh`].
///
/// A server judges our certificate only after this returns: its refusal is the error of a later
/// [`Records::open`], [`TlsError::Alert`].
///
/// # Errors
/// Each way to fail has its own [`TlsError`].
pub async fn connect_session<S>(
    stream: S,
    certificate: &WorkloadCertificate,
    expected: &Expected,
) -> Result<Session<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let witness = Witness::of(certificate, PeerSide::Server);
    let config = certificate.client(expected)?;
    let connection =
        UnbufferedClientConnection::new(config, any_name()).map_err(|e| TlsError::of_rustls(&e))?;
    let (stream, connection, handshake) = shake(stream, connection).await?;
    let trust_domain = certificate.identity().trust_domain();
    let peer = peer_of(&connection, witness, |facts| {
        expected.select(facts.identities(), trust_domain)
    })?;
    let (extracted, kernel) = connection
        .dangerous_into_kernel_connection()
        .map_err(|e| TlsError::of_rustls(&e))?;
    let suite = kernel.negotiated_cipher_suite();
    let (sending, receiving) = (handshake.secrets.client, handshake.secrets.server);
    let library = certificate.aead();
    let records = Records::of_handshake(library, false, suite, &extracted, sending, receiving)?;
    Ok(Session {
        stream,
        records,
        early: handshake.incoming,
        peer,
    })
}

/// Drives a handshake to its end within [`HANDSHAKE_TIMEOUT`].
async fn shake<S, C>(mut stream: S, mut connection: C) -> Result<(S, C, Handshake), TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: handshake::Steps,
{
    let mut handshake = Handshake::default();
    let run = handshake.run(&mut stream, &mut connection);
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, run).await {
        Ok(result) => result?,
        Err(_) => return Err(TlsError::Timeout),
    }
    Ok((stream, connection, handshake))
}

#[cfg(test)]
mod tests;
