//! Listeners of gateways (Gateway API v1).

use crate::{Host, ObjectName};
use std::fmt;
use std::sync::Arc;

/// A listener, shown as `namespace/gateway/listener`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerKey {
    /// The Gateway.
    pub gateway: ObjectName,
    /// The listener's name within it.
    pub name: Arc<str>,
}

impl fmt::Display for ListenerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.gateway, self.name)
    }
}

impl fmt::Debug for ListenerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListenerProtocol {
    /// HTTP/1.1 and HTTP/2 with prior knowledge.
    Http,
    /// TLS terminated here, then HTTP.
    Https,
    /// Bytes.
    Tcp,
    /// TLS passed through by SNI.
    TlsPassthrough,
}

/// A server certificate as the user gave it. Its `Debug` never shows the key.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsCertificatePem {
    /// Certificates, leaf first.
    pub chain_pem: Arc<str>,
    /// Private key.
    pub key_pem: Arc<str>,
}

impl fmt::Debug for TlsCertificatePem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsCertificatePem")
            .field("chain_bytes", &self.chain_pem.len())
            .finish()
    }
}

/// One listener of one Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayListener {
    /// Which listener.
    pub key: ListenerKey,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: ListenerProtocol,
    /// Host; none given: every host.
    pub hostname: Option<Host>,
    /// Certificates, for HTTPS.
    pub certificates: Vec<TlsCertificatePem>,
}
