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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_and_hosts_are_read() {
        let read = |t: &str| t.parse::<Authority>();
        let address = |t: &str| Ok(Authority::Address(t.parse().unwrap()));
        assert_eq!(read("10.0.0.1:80"), address("10.0.0.1:80"));
        assert_eq!(read("[fd00::1]:80"), address("[fd00::1]:80"));
        assert_eq!(read("[::ffff:10.0.0.1]:80"), address("10.0.0.1:80"));
        let host = Authority::Host {
            host: "shop.demo".to_owned(),
            port: 80,
        };
        assert_eq!(read("Shop.demo:80"), Ok(host));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            ":",
            ":80",
            "10.0.0.1",
            "10.0.0.1:0",
            "shop",
            "shop:",
            "shop:0",
            "shop:+80",
            "shop:65536",
            "*.shop:80",
            "fd00::1:80",
            "[fd00::1]",
            "[fe80::1%1]:80",
            "a b:80",
            "http://shop:80",
            "u@shop:80",
        ] {
            assert!(bad.parse::<Authority>().is_err(), "{bad} was taken");
        }
        let long = format!("{}:80", "a.".repeat(300));
        assert!(long.parse::<Authority>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_parses_or_errs_and_what_parses_round_trips(
            text in prop_oneof![".{0,80}", "[a-z0-9.:\\[\\]-]{0,40}", "[a-z]{1,5}:[0-9]{1,6}"],
        ) {
            if let Ok(authority) = text.parse::<Authority>() {
                prop_assert_ne!(authority.port(), 0);
                prop_assert_eq!(authority.to_string().parse::<Authority>(), Ok(authority));
            }
        }
    }
}
