//! Which addresses a network namespace has.

use crate::Netns;
use nix::ifaddrs::getifaddrs;
use std::io;
use std::net::IpAddr;

/// Whether an interface has this address, in the namespace or in that of the calling thread. One
/// dump from the kernel: for what is not known by other means.
///
/// A trial bind would answer too, but not where `ip_nonlocal_bind` is set.
///
/// # Errors
/// When the namespace cannot be entered or the kernel does not tell.
pub fn is_interface_address(ip: IpAddr, netns: Option<&Netns>) -> io::Result<bool> {
    let found = || -> io::Result<bool> {
        let mut all = getifaddrs()?;
        Ok(all.any(|interface| {
            let address = interface.address;
            let v4 = || Some(IpAddr::V4(address.as_ref()?.as_sockaddr_in()?.ip()));
            let v6 = || Some(IpAddr::V6(address.as_ref()?.as_sockaddr_in6()?.ip()));
            v4().or_else(v6) == Some(ip)
        }))
    };
    match netns {
        Some(netns) => netns.enter(found)?,
        None => found(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_its_address_and_nobody_has_one_of_the_documentation() {
        assert!(is_interface_address("127.0.0.1".parse().unwrap(), None).unwrap());
        assert!(!is_interface_address("203.0.113.7".parse().unwrap(), None).unwrap());
        assert!(!is_interface_address("2001:db8::7".parse().unwrap(), None).unwrap());
    }
}
