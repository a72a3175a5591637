//! The resolver's configuration of the system, as far as a forwarder needs it (`resolv.conf(5)`).

use std::net::{IpAddr, SocketAddr};

/// Servers taken at most: what the C library takes.
pub const SERVERS_MAX: usize = 3;
/// Search domains taken at most.
const SEARCH_MAX: usize = 32;
/// The port of DNS.
const PORT: u16 = 53;

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// The servers, in order of preference.
    pub servers: Vec<SocketAddr>,
    /// The search domains, lower case, without dots at their ends.
    pub search: Vec<String>,
}

impl ResolvConf {
    /// Reads the text; what makes no sense is passed over, as the C library does. Scoped IPv6
    /// addresses (`fe80::1%eth0`) are passed over too: their scope is another in each pod.
    pub fn parse(text: &str) -> Self {
        let mut read = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|w| w.parse::<IpAddr>().ok());
                    let full = read.servers.len() == SERVERS_MAX;
                    if let (Some(address), false) = (address, full) {
                        read.servers.push(SocketAddr::new(address, PORT));
                    }
                }
                // Of several lines the last counts.
                Some("search" | "domain") => {
                    let name = |w: &str| w.trim_matches('.').to_ascii_lowercase();
                    read.search = words
                        .map(name)
                        .filter(|n| !n.is_empty())
                        .take(SEARCH_MAX)
                        .collect();
                }
                _ => {}
            }
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_search_domains_are_read() {
        let text = "# a comment\nnameserver 10.96.0.10\nnameserver fd96::a # here too\n\
                    nameserver fe80::1%eth0\n nameserver 10.0.0.1\nnameserver 10.0.0.2\n\
                    domain Old.\nsearch demo.svc.Cluster.Local svc.cluster.local. .\n\
                    options ndots:5\nnameserver\n";
        let read = ResolvConf::parse(text);
        let servers: Vec<String> = read.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.96.0.10:53", "[fd96::a]:53", "10.0.0.1:53"]);
        assert_eq!(read.search, ["demo.svc.cluster.local", "svc.cluster.local"]);
        assert_eq!(ResolvConf::parse(""), ResolvConf::default());
    }
}
