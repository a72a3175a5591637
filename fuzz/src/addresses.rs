//! Addresses: ranges of policies, and what a CONNECT asks for.

use crate::input::lines;
use mesh_model::Cidr;
use mesh_plan::Authority;
use std::net::IpAddr;

/// Address ranges: read, written, and holding just the addresses that share their first bits. A range
/// on the first line, an address on the second.
pub fn cidr(data: &[u8]) {
    let Some(mut lines) = lines(data) else { return };
    let text = lines.next().unwrap_or_default();
    let Ok(range) = text.parse::<Cidr>() else {
        return;
    };
    assert_eq!(range.to_string().parse::<Cidr>(), Ok(range));
    let (own, length) = (range.address(), range.prefix_length());
    assert_eq!(Cidr::new(own, length), Ok(range));
    // A range wider than all IPv4-mapped addresses may begin with one, which counts as v4.
    let mapped = own.is_ipv6() && own.to_canonical().is_ipv4();
    assert_ne!(range.contains(own), mapped, "{range} and its own address");
    assert!(!mapped || length < 96);
    let asked = lines.next().unwrap_or_default().parse::<IpAddr>();
    for ip in asked.into_iter().chain(text.parse()) {
        assert_eq!(range.contains(ip), holds(own, length, ip), "{range} {ip}");
        assert_eq!(range.contains(ip), range.contains(ip.to_canonical()));
    }
}

/// The same, bit by bit.
fn holds(own: IpAddr, length: u8, ip: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (own, ip) = (bits(own), bits(ip.to_canonical()));
    own.len() == ip.len()
        && (0..usize::from(length)).all(|n| {
            let bit = |bytes: &[u8]| bytes[n / 8] >> (7 - n % 8) & 1;
            bit(&own) == bit(&ip)
        })
}

/// `:authority` of a CONNECT: it has a port, is written back the same, and a host in it is no address
/// in disguise.
pub fn authority(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let host = mesh_routing::without_port(text);
    assert!(text.starts_with(host));
    let Ok(authority) = text.parse::<Authority>() else {
        return;
    };
    assert_ne!(authority.port(), 0);
    let written = authority.to_string();
    assert_eq!(written.parse::<Authority>().as_ref(), Ok(&authority));
    assert!(http::uri::Authority::try_from(written.as_str()).is_ok());
    match &authority {
        Authority::Address(address) => {
            assert_eq!(address.ip(), address.ip().to_canonical());
        }
        Authority::Host { host, port } => {
            assert!(host.parse::<IpAddr>().is_err(), "{host}");
            assert_eq!(*host, host.to_ascii_lowercase());
            assert_eq!(mesh_routing::without_port(&written), host);
            assert_eq!(text.to_ascii_lowercase().split(':').next(), Some(&**host));
            assert!(written.ends_with(&port.to_string()));
        }
    }
}
