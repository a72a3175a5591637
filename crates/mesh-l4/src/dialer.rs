//! From a plan's target to a byte stream.

use crate::UpstreamStream;
use http::HeaderMap;
use mesh_hbone::{ConnectRequest, Dial, Pool, TunnelError, TunnelKey};
use mesh_model::Reason;
use mesh_net::{ConnectError, ConnectOptions};
use mesh_plan::{Target, Transport};
use mesh_tls::{CertificateReceiver, Expected};

/// What is needed to reach targets by HBONE.
#[derive(Clone)]
pub struct Tunnels {
    /// The worker's tunnels.
    pub pool: Pool,
    /// The certificate presented, the newest.
    pub certificate: CertificateReceiver,
}

/// Opens streams towards targets, on behalf of one identity. Clones share the pool.
#[derive(Clone)]
pub struct Dialer {
    /// Of plain connections and of the TCP connections under tunnels alike. Its source address, if
    /// any, keeps tunnels of different sources apart.
    pub connect: ConnectOptions,
    /// None: targets inside the mesh cannot be reached.
    pub tunnels: Option<Tunnels>,
}

/// Why a target was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The TCP connection failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No tunnel, or no stream in it.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The target is reached by HBONE only, and no certificate is held to prove who we are.
    #[error("no certificate is held, and {address} takes mutual TLS only")]
    NoIdentity {
        /// The target.
        address: std::net::SocketAddr,
    },
}

impl DialError {
    /// The reason code for record and answer.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Connect(ConnectError::Timeout { .. }) => Reason::ConnectTimeout,
            Self::Connect(ConnectError::Io { .. }) => Reason::ConnectFailed,
            Self::Tunnel(error) => error.reason(),
            Self::NoIdentity { .. } => Reason::NoIdentity,
        }
    }

    /// Whether the endpoint is to blame, so that it is better avoided for a while. A denial, a wrong
    /// address (400) and what stopped us before we asked are not its fault.
    pub(crate) fn blames_endpoint(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::NoIdentity { .. } => false,
            Self::Tunnel(error) => match error.reason() {
                Reason::TunnelRefused => matches!(error, TunnelError::Refused(500..)),
                Reason::ConnectFailed
                | Reason::ConnectTimeout
                | Reason::TlsFailure
                | Reason::TunnelFailure => true,
                _ => false,
            },
        }
    }

    /// Whether another endpoint may be tried: nothing of the session has reached this one.
    pub fn retry_is_safe(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::Tunnel(error) => error.retry_is_safe(),
            Self::NoIdentity { .. } => false,
        }
    }
}

impl Dialer {
    /// Connects to a target. `headers` go on the CONNECT when the target is tunnelled (baggage,
    /// forwarded, traceparent: interop/hbone.md).
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn open(
        &self,
        target: &Target,
        headers: HeaderMap,
    ) -> Result<UpstreamStream, DialError> {
        let (authority, expected) = match &target.transport {
            Transport::Plain => {
                let stream = mesh_net::connect(target.address, &self.connect).await?;
                return Ok(UpstreamStream::Plain(stream));
            }
            Transport::Hbone {
                authority,
                expected,
            } => (authority.clone(), Expected::AnyOf(expected.clone())),
        };
        let address = target.address;
        let no_identity = || DialError::NoIdentity { address };
        let tunnels = self.tunnels.as_ref().ok_or_else(no_identity)?;
        // Cloned out at once: the guard of a watch must not be held across an await.
        let certificate = tunnels.certificate.borrow().clone();
        let certificate = certificate.ok_or_else(no_identity)?;
        let key = TunnelKey {
            source: certificate.identity().clone(),
            expected,
            address,
            source_ip: self.connect.source,
        };
        let dial = Dial {
            options: self.connect.clone(),
            certificate,
            successors: tunnels.certificate.clone(),
        };
        let request = ConnectRequest { authority, headers };
        let stream = tunnels.pool.open(&key, dial, request).await?;
        Ok(UpstreamStream::Tunnel(Box::new(stream)))
    }
}

#[cfg(test)]
mod tests;
