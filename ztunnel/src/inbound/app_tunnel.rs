//! Workloads that take connections for others: an L7 proxy behind this one is told by a PROXY
//! protocol v2 header who connects and to what (interop/hbone.md, "Application tunnel").

use mesh_model::{Cidr, Snapshot, SpiffeId, Workload};
use mesh_plan::Authority;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_COMMAND: u8 = 0x21;
/// TLV that carries the peer's SPIFFE id.
const TLV_IDENTITY: u8 = 0xd0;

/// Where the application is. One with a tunnel has a port of its own there, and is on loopback when
/// it is told who connects (`on_loopback: false`: on the pod's address all the same).
pub(super) fn target(local: &Workload, planned: SocketAddr, on_loopback: bool) -> SocketAddr {
    let Some(tunnel) = local.application_tunnel else {
        return planned;
    };
    let ip = match (tunnel.proxy_protocol && on_loopback, planned.ip()) {
        (false, ip) => ip,
        (true, IpAddr::V4(_)) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        (true, IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(ip, tunnel.port.unwrap_or_else(|| planned.port()))
}

/// What the client asked for, to be told to the application; none when it is not told. A host name
/// becomes one address of the service, of our own network and IPv4 where there is a choice; one
/// without an address is told as the unspecified address, whose port still says something.
pub(super) fn asked_address(
    snapshot: &Snapshot,
    local: &Workload,
    authority: &Authority,
) -> Option<SocketAddr> {
    local.application_tunnel.filter(|t| t.proxy_protocol)?;
    let (host, port) = match authority {
        Authority::Address(address) => return Some(*address),
        Authority::Host { host, port } => (host, *port),
    };
    let service = snapshot.service_by_hostname(host, &local.namespace);
    let best = service.and_then(|service| {
        let rank = |vip: &&(Arc<str>, Cidr)| (vip.0 != local.network, vip.1.address().is_ipv6());
        service.vips.iter().min_by_key(rank)
    });
    let ip = best.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |(_, vip)| vip.address());
    Some(SocketAddr::new(ip, port))
}

/// The header: command PROXY, STREAM, source and destination, and the identity when one is proven.
pub(super) fn header(from: SocketAddr, to: SocketAddr, identity: Option<&SpiffeId>) -> Vec<u8> {
    let (family, addresses) = match (from.ip().to_canonical(), to.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (0x11, [from.octets(), to.octets()].concat()),
        (from, to) => (0x21, [v6(from).octets(), v6(to).octets()].concat()),
    };
    let identity = identity.map(ToString::to_string).unwrap_or_default();
    let mut body = addresses;
    body.extend(from.port().to_be_bytes());
    body.extend(to.port().to_be_bytes());
    // An identity is three parts of at most 253 bytes, so this always fits.
    if let Some(length) = u16::try_from(identity.len()).ok().filter(|n| *n > 0) {
        body.push(TLV_IDENTITY);
        body.extend(length.to_be_bytes());
        body.extend(identity.as_bytes());
    }
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut header = Vec::with_capacity(16 + body.len());
    header.extend(SIGNATURE);
    header.extend([VERSION_COMMAND, family]);
    header.extend(length.to_be_bytes());
    header.extend(body);
    header
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::{ApplicationTunnel, Resource, Service, ServiceName, SnapshotBuilder};

    #[test]
    fn the_header_is_that_of_the_specification() {
        let (from, to) = ("10.0.0.1:4000", "10.96.0.1:80");
        let identity = SpiffeId::new("td", "a", "b").unwrap();
        let got = header(from.parse().unwrap(), to.parse().unwrap(), Some(&identity));
        let mut want = SIGNATURE.to_vec();
        want.extend([0x21, 0x11, 0, 12 + 3 + 21]);
        want.extend([10, 0, 0, 1, 10, 96, 0, 1, 0x0f, 0xa0, 0, 80]);
        want.extend([0xd0, 0, 21]);
        want.extend(b"spiffe://td/ns/a/sa/b");
        assert_eq!(got, want);

        let mixed = header("[fd00::1]:1".parse().unwrap(), to.parse().unwrap(), None);
        assert_eq!(mixed[13], 0x21);
        assert_eq!(mixed.len(), 16 + 36);
        assert_eq!(
            mixed[32..48],
            "::ffff:10.96.0.1".parse::<Ipv6Addr>().unwrap().octets()
        );
    }

    fn waypoint(proxy_protocol: bool, port: Option<u16>) -> Workload {
        let mut workload = Workload::new("u", "demo", "waypoint");
        workload.application_tunnel = Some(ApplicationTunnel {
            proxy_protocol,
            port,
        });
        workload
    }

    #[test]
    fn the_application_is_on_loopback_only_when_it_is_told_who_connects() {
        let planned = "10.0.0.2:8080".parse().unwrap();
        let at = |w: &Workload| target(w, planned, true).to_string();
        assert_eq!(at(&waypoint(true, Some(15088))), "127.0.0.1:15088");
        assert_eq!(at(&waypoint(true, None)), "127.0.0.1:8080");
        assert_eq!(at(&waypoint(false, Some(15088))), "10.0.0.2:15088");
        assert_eq!(at(&Workload::new("u", "demo", "web")), "10.0.0.2:8080");
        let told = waypoint(true, Some(15088));
        assert_eq!(target(&told, planned, false).to_string(), "10.0.0.2:15088");
    }

    #[test]
    fn a_host_name_becomes_the_services_address_of_our_network() {
        let mut service = Service::new(ServiceName::new("demo", "web.demo.svc"), "web");
        let vips = [("other", "10.1.0.1"), ("", "fd00::1"), ("", "10.96.0.1")];
        service.vips = vips
            .iter()
            .map(|(n, ip)| ((*n).into(), ip.parse().unwrap()))
            .collect();
        let mut builder = SnapshotBuilder::new();
        builder.upsert(Resource::Service(Arc::new(service)));
        let snapshot = builder.snapshot();
        let asked = |local: &Workload, text: &str| {
            asked_address(&snapshot, local, &text.parse().unwrap()).map(|a| a.to_string())
        };
        let told = waypoint(true, None);
        for (text, address) in [
            ("web.demo.svc:80", "10.96.0.1:80"),
            ("10.0.0.9:1", "10.0.0.9:1"),
            ("nobody.demo.svc:80", "0.0.0.0:80"),
        ] {
            assert_eq!(asked(&told, text).as_deref(), Some(address), "{text}");
            assert_eq!(asked(&waypoint(false, None), text), None, "{text}");
        }
    }
}
