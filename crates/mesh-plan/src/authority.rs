//! `:authority` of a CONNECT: a socket address, or a host and port (interop/hbone.md, CONNECT request).

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// The longest authority read: the longest DNS name, a colon and five digits.
const AUTHORITY_BYTES_MAX: usize = 253 + 1 + 5;

/// Where a CONNECT wants to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authority {
    /// An address and port.
    Address(SocketAddr),
    /// A host name (lower case, no wildcard) and port.
    Host {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Why a text is not an authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an authority: it needs an address or host name, and a port other than 0")]
pub struct AuthorityError(String);

impl Authority {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Host { port, .. } => *port,
        }
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || AuthorityError(text.chars().take(64).collect());
        if text.len() > AUTHORITY_BYTES_MAX {
            return Err(bad());
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            let scoped = matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
            if address.port() == 0 || scoped {
                return Err(bad());
            }
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            return Ok(Self::Address(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let host: mesh_model::Host = host.parse().map_err(|_| bad())?;
        // `+80` would pass the number parser.
        if host.is_wildcard() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        match port.parse() {
            Ok(port @ 1..) => Ok(Self::Host {
                host: host.as_str().to_owned(),
                port,
            }),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}
