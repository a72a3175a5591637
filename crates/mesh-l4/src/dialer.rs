//! From a plan's target to a byte stream.

use crate::UpstreamStream;
use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_hbone::{ConnectRequest, Dial, Pool, TunnelError, TunnelKey};
use mesh_model::{Reason, SpiffeId};
use mesh_net::{ConnectError, ConnectOptions};
use mesh_plan::{Target, Transport};
use mesh_tls::{CertificateReceiver, Expected};
use std::net::SocketAddr;

/// Tells the far end of an inner tunnel which network its client is on.
const FORWARDED_NETWORK: HeaderName = HeaderName::from_static("x-forwarded-network");

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
    /// No stream to the gateway of another network.
    #[error("gateway {gateway}: {error}")]
    Gateway {
        /// The gateway.
        gateway: SocketAddr,
        /// What failed.
        error: TunnelError,
    },
    /// The gateway was reached, and no stream came about with what is behind it.
    #[error("through gateway {gateway}: {error}")]
    Within {
        /// The gateway.
        gateway: SocketAddr,
        /// What failed.
        error: TunnelError,
    },
    /// The target is reached by HBONE only, and no certificate is held to prove who we are.
    #[error("no certificate is held, and {address} takes mutual TLS only")]
    NoIdentity {
        /// The target.
        address: SocketAddr,
    },
}

impl DialError {
    /// The reason code for record and answer.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Connect(ConnectError::Timeout { .. }) => Reason::ConnectTimeout,
            Self::Connect(ConnectError::Io { .. }) => Reason::ConnectFailed,
            Self::Tunnel(error) | Self::Gateway { error, .. } | Self::Within { error, .. } => {
                error.reason()
            }
            Self::NoIdentity { .. } => Reason::NoIdentity,
        }
    }

    /// Whether the endpoint is to blame, so that it is better avoided for a while. A denial, a wrong
    /// address (400) and what stopped us before we asked are not its fault.
    pub(crate) fn blames_endpoint(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            // What is behind a gateway is not the gateway's fault, nor that there is nothing.
            Self::NoIdentity { .. } | Self::Within { .. } => false,
            Self::Gateway {
                error: TunnelError::Refused(_),
                ..
            } => false,
            Self::Tunnel(error) | Self::Gateway { error, .. } => match error.reason() {
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
            Self::Tunnel(error) | Self::Gateway { error, .. } | Self::Within { error, .. } => {
                error.retry_is_safe()
            }
            Self::NoIdentity { .. } => false,
        }
    }
}

/// A stream through the gateway of another network.
pub struct Crossed {
    /// The stream of the inner tunnel.
    pub stream: UpstreamStream,
    /// Whom its far end has proven to be.
    pub peer: SpiffeId,
    /// The headers of its 200, which tell of the workload there.
    pub answer: HeaderMap,
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
            // Boxed: few connections cross networks, and all had room for what it takes.
            Transport::DoubleHbone { .. } => {
                let crossed = Box::pin(self.open_across(target, headers)).await?;
                return Ok(crossed.stream);
            }
            Transport::Hbone {
                authority,
                expected,
            } => (authority.clone(), expected),
        };
        let (tunnels, dial) = self.dial(target.address)?;
        let key = self.key(&dial, target.address, expected);
        let request = ConnectRequest { authority, headers };
        let stream = tunnels.pool.open(&key, dial, request).await?;
        Ok(UpstreamStream::Tunnel(Box::new(stream)))
    }

    /// Connects to a target on another network: an outer tunnel to the gateway, pooled as any other,
    /// and in a stream of it an inner one, of this connection alone, since the gateway chooses the far
    /// end for each stream anew (interop/hbone.md, "Double HBONE"). Both CONNECTs ask for the same.
    ///
    /// # Errors
    /// See [`DialError`]; a target that no gateway leads to is refused as [`TunnelError::Closed`].
    pub async fn open_across(
        &self,
        target: &Target,
        headers: HeaderMap,
    ) -> Result<Crossed, DialError> {
        let Transport::DoubleHbone {
            authority,
            gateway,
            expected,
            from,
        } = &target.transport
        else {
            return Err(TunnelError::Closed.into());
        };
        let at = target.address;
        let (tunnels, dial) = self.dial(at)?;
        let key = self.key(&dial, at, gateway);
        let mut request = ConnectRequest {
            authority: authority.clone(),
            headers,
        };
        let outer = tunnels.pool.open(&key, dial.clone(), request.clone()).await;
        let outer = outer.map_err(|error| DialError::Gateway { gateway: at, error })?;
        if let Ok(network) = HeaderValue::from_str(from)
            && !network.is_empty()
        {
            request.headers.insert(FORWARDED_NETWORK, network);
        }
        let expected = Expected::AnyOf(expected.clone());
        let inner = tunnels.pool.open_within(outer, &dial, &expected, &request);
        let (stream, peer) = inner
            .await
            .map_err(|error| DialError::Within { gateway: at, error })?;
        Ok(Crossed {
            answer: stream.response_headers(),
            stream: UpstreamStream::Tunnel(Box::new(stream)),
            peer,
        })
    }

    /// The pool, and what a tunnel to an address takes.
    fn dial(&self, address: SocketAddr) -> Result<(&Tunnels, Dial), DialError> {
        let no_identity = || DialError::NoIdentity { address };
        let tunnels = self.tunnels.as_ref().ok_or_else(no_identity)?;
        // Cloned out at once: the guard of a watch must not be held across an await.
        let certificate = tunnels.certificate.borrow().clone();
        let dial = Dial {
            options: self.connect.clone(),
            certificate: certificate.ok_or_else(no_identity)?,
            successors: tunnels.certificate.clone(),
        };
        Ok((tunnels, dial))
    }

    fn key(&self, dial: &Dial, address: SocketAddr, expected: &[SpiffeId]) -> TunnelKey {
        TunnelKey {
            source: dial.certificate.identity().clone(),
            expected: Expected::AnyOf(expected.to_vec()),
            address,
            source_ip: self.connect.source,
        }
    }
}

#[cfg(test)]
mod tests;
