//! The header by which an application behind a waypoint is told who connects (PROXY protocol v2).

use crate::app_tunnel;
use crate::input::Input;
use mesh_model::{
    ApplicationTunnel, Cidr, Resource, Service, ServiceName, Snapshot, SnapshotBuilder, SpiffeId,
    Workload,
};
use mesh_plan::Authority;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// From the connection's facts to the header: what a reader of the specification finds in it is what
/// went in, whatever a peer asks for and whoever it is. What is asked for is the rest of the bytes.
pub fn proxy_v2(data: &[u8]) {
    let mut input = Input::new(data);
    let from = SocketAddr::new(ip(&mut input), input.u16());
    let identity = identity(&mut input);
    let (snapshot, local) = mesh(&mut input);
    let Ok(authority) = String::from_utf8_lossy(input.rest()).parse::<Authority>() else {
        return;
    };
    let told = local.application_tunnel.is_some_and(|t| t.proxy_protocol);
    let asked = app_tunnel::asked_address(&snapshot, &local, &authority);
    assert_eq!(asked.is_some(), told);
    let Some(to) = asked else { return };
    assert_eq!(to.port(), authority.port());
    assert_eq!(app_tunnel::target(&local, to, false).ip(), to.ip());
    let at = app_tunnel::target(&local, to, true);
    assert!(at.ip().is_loopback() && at.is_ipv4() == to.is_ipv4());

    let header = app_tunnel::header(from, to, identity.as_ref());
    let read = Header::read(&header).expect("a well-formed header");
    assert_eq!((read.from, read.to), (canonical(from), canonical(to)));
    let wanted = identity.map(|id| id.to_string().into_bytes());
    let one: Vec<_> = wanted.into_iter().map(|id| (0xd0, id)).collect();
    assert_eq!(read.tlvs, one);
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn ip(input: &mut Input<'_>) -> IpAddr {
    let octets = |input: &mut Input<'_>| [0; 4].map(|_: u8| input.byte());
    match input.below(3) {
        0 => IpAddr::from(octets(input)),
        1 => IpAddr::from([0; 16].map(|_: u8| input.byte())),
        _ => IpAddr::V6(std::net::Ipv4Addr::from(octets(input)).to_ipv6_mapped()),
    }
}

fn identity(input: &mut Input<'_>) -> Option<SpiffeId> {
    let mut part = || {
        let length = usize::from(input.byte());
        let filler = char::from(b'a' + input.below(26));
        filler.to_string().repeat(length)
    };
    SpiffeId::new(&part(), &part(), &part()).ok()
}

/// A workload that may be told, and a service with some addresses.
fn mesh(input: &mut Input<'_>) -> (Arc<Snapshot>, Workload) {
    let mut local = Workload::new("u", "demo", "waypoint");
    local.application_tunnel = (input.below(4) > 0).then(|| ApplicationTunnel {
        proxy_protocol: input.below(4) > 0,
        port: input.flag().then(|| input.u16()),
    });
    let mut service = Service::new(ServiceName::new("demo", "web.demo.svc"), "web");
    service.vips = input.list(4, |input| {
        let network = if input.flag() { "" } else { "other" };
        (network.into(), Cidr::host(ip(input)))
    });
    let mut builder = SnapshotBuilder::new();
    builder.upsert(Resource::Service(Arc::new(service)));
    (builder.snapshot(), local)
}

/// As the specification has it, section 2.2.
struct Header {
    from: SocketAddr,
    to: SocketAddr,
    tlvs: Vec<(u8, Vec<u8>)>,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n")?;
        let (head, body) = rest.split_at_checked(4)?;
        let [0x21, family, high, low] = *head else {
            return None;
        };
        if usize::from(u16::from_be_bytes([high, low])) != body.len() {
            return None;
        }
        let mut body = Input::new(body);
        let length = match family {
            0x11 => 4,
            0x21 => 16,
            _ => return None,
        };
        let (from, to) = (address(body.take(length))?, address(body.take(length))?);
        let (from_port, to_port) = (body.u16(), body.u16());
        let mut tlvs = Vec::new();
        while !body.is_empty() {
            let kind = body.byte();
            let length = usize::from(body.u16());
            let value = body.take(length).to_vec();
            (value.len() == length).then(|| tlvs.push((kind, value)))?;
        }
        Some(Self {
            from: SocketAddr::new(from, from_port),
            to: SocketAddr::new(to, to_port),
            tlvs,
        })
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?)),
        _ => {
            let v6 = Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?);
            Some(IpAddr::V6(v6).to_canonical())
        }
    }
}
