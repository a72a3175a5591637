//! Addresses: a network and an IP, and IP ranges.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

/// An IP within a network; an IP alone is not unique once a mesh spans networks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkAddress {
    /// The network's name, empty on a mesh of one network.
    pub network: Arc<str>,
    /// The address.
    pub address: IpAddr,
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.address)
    }
}

/// A range of addresses. A v4 range never holds a v6 address nor the reverse. A range of IPv4-mapped
/// addresses (`::ffff:10.0.0.0/104`) is the v4 range it stands for, as such addresses count as v4.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    prefix_length: u8,
}

/// Why a text or a pair is not a range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an IP address or CIDR range")]
pub struct ParseCidrError(String);

impl Cidr {
    /// Makes a range.
    ///
    /// # Errors
    /// When the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix_length: u8) -> Result<Self, ParseCidrError> {
        let max = if address.is_ipv4() { 32 } else { 128 };
        if prefix_length > max {
            return Err(ParseCidrError(format!("{address}/{prefix_length}")));
        }
        Ok(
            match (address.to_canonical(), prefix_length.checked_sub(96)) {
                (v4 @ IpAddr::V4(_), Some(prefix_length)) if address.is_ipv6() => Self {
                    address: v4,
                    prefix_length,
                },
                _ => Self {
                    address,
                    prefix_length,
                },
            },
        )
    }

    /// The range of one address.
    pub fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self {
            address,
            prefix_length: if address.is_ipv4() { 32 } else { 128 },
        }
    }

    /// The address as written, of a mapped one the v4 address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The prefix length in bits.
    pub fn prefix_length(&self) -> u8 {
        self.prefix_length
    }

    /// Whether the address lies in the range. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.prefix_length);
                let cut = |v: u32| v.checked_shr(shift).unwrap_or(0);
                cut(net.to_bits()) == cut(ip.to_bits())
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.prefix_length);
                let cut = |v: u128| v.checked_shr(shift).unwrap_or(0);
                cut(net.to_bits()) == cut(ip.to_bits())
            }
            _ => false,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_length)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseCidrError(text.chars().take(64).collect());
        match text.split_once('/') {
            None => Ok(Self::host(text.parse().map_err(|_| bad())?)),
            Some((ip, length)) => Self::new(
                ip.parse().map_err(|_| bad())?,
                length.parse().map_err(|_| bad())?,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_they_should() {
        let range: Cidr = "10.1.0.0/16".parse().unwrap();
        assert!(range.contains("10.1.255.1".parse().unwrap()));
        assert!(range.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!range.contains("10.2.0.1".parse().unwrap()));
        assert!(!range.contains("fd00::1".parse().unwrap()));
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("1.2.3.4".parse().unwrap()));
        let six: Cidr = "fd00:1::/32".parse().unwrap();
        assert!(six.contains("fd00:1:ffff::1".parse().unwrap()));
        assert!(!six.contains("fd00:2::1".parse().unwrap()));
    }

    #[test]
    fn a_range_of_mapped_addresses_is_the_v4_range() {
        let range: Cidr = "::ffff:10.0.0.0/104".parse().unwrap();
        assert_eq!(range, "10.0.0.0/8".parse().unwrap());
        assert!(range.contains("10.1.1.1".parse().unwrap()));
        let one: Cidr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(one, Cidr::host("10.0.0.1".parse().unwrap()));
        assert_eq!(one, Cidr::host("::ffff:10.0.0.1".parse().unwrap()));
        assert!(one.contains("::ffff:10.0.0.1".parse().unwrap()));
        // Wider than all mapped addresses: a v6 range.
        let wide: Cidr = "::ffff:0:0/95".parse().unwrap();
        assert!(!wide.contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn bad_ranges_are_refused() {
        for bad in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "10.0.0.0/-1",
            "x/8",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad} was taken");
        }
    }
}
