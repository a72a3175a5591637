//! Settings of DNS, and the resolver's configuration of the system.

use super::{Dns, Mode};
use mesh_dns::{ResolvConf, Search, Zone};
use mesh_proxy::settings::Mistakes;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// The system's configuration of DNS.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The port of DNS.
const PORT: u16 = 53;

/// Flags and environment as given (interop/migrate.md section 2).
#[derive(Debug, clap::Args)]
pub(super) struct DnsFlags {
    /// Answer the pods' DNS; by default in shared mode only.
    #[arg(long, env = "ISTIO_META_DNS_CAPTURE", action = clap::ArgAction::Set)]
    dns_capture: Option<bool>,
    /// Where, in each pod: `localhost:PORT` for both families, or one address.
    #[arg(
        long,
        env = "ISTIO_META_DNS_PROXY_ADDR",
        default_value = "localhost:15053"
    )]
    dns_address: String,
    /// The cluster's domain.
    #[arg(long, env = "CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Of services of one name, those of this namespace come after the client's own.
    #[arg(long, env = "PREFERED_SERVICE_NAMESPACE")]
    preferred_namespace: Option<String>,
    /// Servers for names outside the mesh, `IP` or `IP:PORT`; by default those of /etc/resolv.conf.
    #[arg(long, env = "DNS_UPSTREAM", value_delimiter = ',')]
    dns_upstream: Vec<String>,
}

impl DnsFlags {
    /// Turns what was given into what is used.
    pub(super) fn check(&self, mode: Mode, ipv6: bool, mistakes: &mut Mistakes) -> Dns {
        let shared = mode == Mode::Shared;
        let capture = self.dns_capture.unwrap_or(shared);
        let listen = match addresses(&self.dns_address, ipv6) {
            Ok(listen) => listen,
            Err(why) => {
                mistakes.add(format!("ISTIO_META_DNS_PROXY_ADDR: {why}"));
                Vec::new()
            }
        };
        let system = resolv_conf();
        let mut zone = Zone::new(&self.cluster_domain);
        zone.preferred_namespace = self.preferred_namespace.as_deref().map(Arc::from);
        zone.ipv6 = ipv6;
        if !shared {
            // Ours is the application's.
            zone.search = Search::Listed(system.search);
        }
        let mut servers = Vec::new();
        for text in &self.dns_upstream {
            match server(text) {
                Some(server) => servers.push(server),
                None => mistakes.add(format!("DNS_UPSTREAM: '{text}' is no address")),
            }
        }
        if servers.is_empty() {
            servers = system.servers;
        }
        // In each pod these are our own listeners.
        servers.retain(|server| !listen.contains(server));
        Dns {
            capture,
            listen,
            zone: Arc::new(zone),
            servers,
        }
    }
}

/// Without the file there are no servers, which is said at the start.
fn resolv_conf() -> ResolvConf {
    let text = std::fs::read_to_string(RESOLV_CONF);
    text.map_or_else(|_| ResolvConf::default(), |t| ResolvConf::parse(&t))
}

fn addresses(text: &str, ipv6: bool) -> Result<Vec<SocketAddr>, String> {
    let Some(port) = text.strip_prefix("localhost:") else {
        let address = text
            .parse()
            .map_err(|_| format!("'{text}' is no address"))?;
        return Ok(vec![address]);
    };
    let port = port.parse().map_err(|_| format!("'{port}' is no port"))?;
    let mut all = vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)];
    if ipv6 {
        all.push(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port));
    }
    Ok(all)
}

fn server(text: &str) -> Option<SocketAddr> {
    let alone = |ip: IpAddr| SocketAddr::new(ip, PORT);
    text.parse().ok().or_else(|| text.parse().ok().map(alone))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(addresses: &[SocketAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_read() {
        let both = addresses("localhost:15053", true).unwrap();
        assert_eq!(text(&both), ["127.0.0.1:15053", "[::1]:15053"]);
        let four = addresses("localhost:53", false).unwrap();
        assert_eq!(text(&four), ["127.0.0.1:53"]);
        assert_eq!(
            text(&addresses("10.0.0.1:5353", true).unwrap()),
            ["10.0.0.1:5353"]
        );
        for bad in ["localhost", "localhost:x", "10.0.0.1", ""] {
            assert!(addresses(bad, true).is_err(), "{bad} was taken");
        }
        let servers = ["10.0.0.1", "10.0.0.1:5353", "fd00::1", "[fd00::1]:54"];
        let read: Vec<SocketAddr> = servers.into_iter().filter_map(server).collect();
        let want = [
            "10.0.0.1:53",
            "10.0.0.1:5353",
            "[fd00::1]:53",
            "[fd00::1]:54",
        ];
        assert_eq!(text(&read), want);
        assert!(server("dns.example").is_none());
    }
}
