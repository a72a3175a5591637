//! Why no tunnel stream was opened, or a tunnel ended.

use mesh_model::Reason;
use mesh_net::ConnectError;
use mesh_tls::TlsError;
use std::io;
use std::sync::Arc;

/// Why a stream could not be opened or a tunnel ended. Cloned to all who waited for one dial.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TunnelError {
    /// The TCP connection failed.
    #[error("connect: {0}")]
    Connect(Arc<ConnectError>),
    /// The TLS handshake failed.
    #[error("TLS: {0}")]
    Tls(Arc<TlsError>),
    /// The HTTP/2 handshake failed or took too long.
    #[error("HTTP/2 handshake: {0}")]
    Handshake(String),
    /// The tunnel failed after the request was sent. Never retried: it may have been acted on.
    #[error("tunnel failed: {0}")]
    Failed(String),
    /// The far proxy answered with another status than 200.
    #[error("the far proxy refused with status {0}")]
    Refused(u16),
    /// The far proxy did not answer the CONNECT in time.
    #[error("the far proxy did not answer in time")]
    ResponseTimeout,
    /// The peer did not answer a PING in time.
    #[error("the peer did not answer a PING in time")]
    KeepAlive,
    /// The authority cannot be put in a request.
    #[error("'{0}' is not an authority")]
    Authority(String),
    /// A limit of the pool was reached.
    #[error("the pool's limit of {0} was reached")]
    Overloaded(&'static str),
    /// What the peer proved itself with holds no longer, for this reason.
    #[error("the peer is trusted no longer: {0}")]
    Untrusted(Reason),
    /// The pool is being closed.
    #[error("the pool is closed")]
    Closed,
}

impl TunnelError {
    /// The reason code for log, metric and answer.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Connect(error) => match **error {
                ConnectError::Timeout { .. } => Reason::ConnectTimeout,
                ConnectError::Io { .. } => Reason::ConnectFailed,
            },
            Self::Tls(error) => error.reason(),
            Self::Handshake(_) | Self::Failed(_) | Self::KeepAlive => Reason::TunnelFailure,
            Self::Refused(_) => Reason::TunnelRefused,
            Self::ResponseTimeout => Reason::ConnectTimeout,
            Self::Authority(_) => Reason::BadRequest,
            Self::Overloaded(_) => Reason::Overloaded,
            Self::Untrusted(reason) => *reason,
            Self::Closed => Reason::Drained,
        }
    }

    /// The reason an I/O error of a stream has because its tunnel's peer is trusted no longer; none
    /// of any other error.
    pub fn distrust(error: &io::Error) -> Option<Reason> {
        match error.get_ref()?.downcast_ref()? {
            Self::Untrusted(reason) => Some(*reason),
            _ => None,
        }
    }

    /// Whether no request was sent, so that another endpoint may be tried.
    pub fn retry_is_safe(&self) -> bool {
        match self {
            Self::Tls(error) => !matches!(**error, TlsError::Alert(_)),
            Self::Connect(_) | Self::Handshake(_) | Self::Overloaded(_) => true,
            Self::Failed(_)
            | Self::Refused(_)
            | Self::ResponseTimeout
            | Self::KeepAlive
            | Self::Authority(_)
            | Self::Untrusted(_)
            | Self::Closed => false,
        }
    }
}

impl From<ConnectError> for TunnelError {
    fn from(error: ConnectError) -> Self {
        Self::Connect(Arc::new(error))
    }
}

impl From<TlsError> for TunnelError {
    fn from(error: TlsError) -> Self {
        Self::Tls(Arc::new(error))
    }
}
