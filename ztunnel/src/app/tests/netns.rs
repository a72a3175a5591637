//! One process, two pods in network namespaces of their own, with the redirection in place: what
//! applications send is captured by the kernel, as on a node.
//!
//! Needs `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`; without them the test says so and passes.

mod same_node;

use super::mesh::{Up, flags, until};
use super::{PATIENCE, read_all};
use crate::settings::Settings;
use mesh_identity::CertificateSource;
use mesh_net::Netns;
use mesh_redirect::{InPodOptions, Mode, RuleSet};
use mesh_telemetry::RecordTap;
use nix::sched::{CloneFlags, unshare};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// The addresses of one family.
#[derive(Clone)]
struct Wire {
    client: IpAddr,
    server: IpAddr,
    vip: IpAddr,
    prefix: u8,
    /// Where the pods' traffic leaves the node; the address is nobody's.
    gateway: IpAddr,
    /// An address that the control plane does not know.
    elsewhere: IpAddr,
}

impl Wire {
    fn new(addresses: [&str; 5], prefix: u8) -> Self {
        let [client, server, vip, gateway, elsewhere] = addresses.map(|a| a.parse().unwrap());
        Self {
            client,
            server,
            vip,
            prefix,
            gateway,
            elsewhere,
        }
    }

    fn v4() -> Self {
        let [client, server, gateway] = ["10.77.0.1", "10.77.0.2", "10.77.0.254"];
        Self::new([client, server, "10.96.0.7", gateway, "203.0.113.7"], 24)
    }

    fn v6() -> Self {
        let [client, server, gateway] = ["fd77::1", "fd77::2", "fd77::254"];
        Self::new([client, server, "fd96::7", gateway, "2001:db8::7"], 64)
    }

    /// Of one address.
    fn host_prefix(&self) -> u8 {
        if self.gateway.is_ipv6() { 128 } else { 32 }
    }

    /// A duplicate of an address on a wire of two is not worth a second's wait.
    fn dad(&self) -> &'static str {
        if self.gateway.is_ipv6() { " nodad" } else { "" }
    }

    fn app(&self) -> SocketAddr {
        SocketAddr::new(self.server, 8080)
    }
}

/// A network namespace with the redirection of a pod.
struct Place {
    netns: Netns,
    file: File,
}

impl Place {
    /// None where the machine forbids it.
    fn new() -> Option<Self> {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).ok()?;
            File::open("/proc/thread-self/ns/net").ok()
        });
        let file = made.join().unwrap()?;
        let netns = Netns::open(path_of(&file)).unwrap();
        Some(Self { netns, file })
    }

    fn path(&self) -> PathBuf {
        path_of(&self.file)
    }

    fn run(&self, command: &str) {
        let words: Vec<&str> = command.split(' ').collect();
        let status = self
            .netns
            .enter(|| Command::new(words[0]).args(&words[1..]).status())
            .unwrap();
        assert!(status.unwrap().success(), "{command}");
    }

    fn redirect(&self) {
        let rules = RuleSet::new(&Mode::InPod(InPodOptions::default()));
        self.netns.enter(|| rules.apply()).unwrap().unwrap();
    }

    fn connect(&self, to: SocketAddr) -> TcpStream {
        let stream = self
            .netns
            .enter(|| TcpStream::connect_timeout(&to, PATIENCE));
        let stream = stream.unwrap().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn listen(&self, address: SocketAddr) -> TcpListener {
        self.netns
            .enter(|| TcpListener::bind(address))
            .unwrap()
            .unwrap()
    }
}

fn path_of(file: &File) -> PathBuf {
    // Not /proc/self: `ip` reads it too.
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// A client pod and a server pod on one wire.
fn two_pods(wire: &Wire) -> Option<(Place, Place)> {
    let (client, server) = (Place::new()?, Place::new()?);
    let peer = server.path().display().to_string();
    client.run(&format!(
        "ip link add eth0 type veth peer name eth0 netns {peer}"
    ));
    let (prefix, gateway) = (wire.prefix, wire.gateway);
    let how = wire.dad();
    for (place, address) in [(&client, wire.client), (&server, wire.server)] {
        place.run("ip link set lo up");
        place.run(&format!("ip addr add {address}/{prefix} dev eth0{how}"));
        place.run("ip link set eth0 up");
    }
    for place in [&client, &server] {
        place.run(&format!("ip route add default via {gateway}"));
        place.redirect();
    }
    Some((client, server))
}

fn settings(folder: &std::path::Path) -> Settings {
    let pods = folder.join("pods").display().to_string();
    let file = folder.join("mesh.yaml");
    let flags = flags(&["--pods", &pods], &file, &["--termination-deadline", "1s"]);
    let mut settings = flags.check().unwrap();
    // No node signs its own certificates; this one has no other authority to ask.
    settings.certificates = CertificateSource::SelfSigned;
    settings
}

fn write_pod(folder: &std::path::Path, name: &str, place: &Place) {
    let netns = place.path().display().to_string();
    let text = format!(
        "{{uid: {name}, name: {name}-1, namespace: demo, serviceAccount: {name}, netns: {netns}}}"
    );
    std::fs::write(folder.join("pods").join(format!("{name}.yaml")), text).unwrap();
}

#[test]
fn captured_traffic_of_two_pods_meets_in_one_process() {
    captured_traffic(&Wire::v4(), "");
}

#[test]
fn captured_traffic_of_two_pods_of_one_node_is_carried_once() {
    captured_traffic(&Wire::v4(), ", node: n1");
    captured_traffic(&Wire::v6(), ", node: n1");
}

#[test]
fn an_application_behind_a_tunnel_is_told_who_connects_and_to_what() {
    for node in ["", ", node: n1"] {
        told_by_proxy_protocol(&Wire::v4(), node);
        told_by_proxy_protocol(&Wire::v6(), node);
    }
}

/// A sandwiched server: it listens on loopback, where it is told by a PROXY v2 header.
fn told_by_proxy_protocol(wire: &Wire, node: &str) {
    let Some((client, server)) = two_pods(wire) else {
        println!("SKIPPED: this machine forbids new network namespaces");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("pods")).unwrap();
    let loopback = if wire.server.is_ipv4() {
        "127.0.0.1"
    } else {
        "::1"
    };
    let app = server.listen(SocketAddr::new(loopback.parse().unwrap(), 15088));
    let of_server = format!("{node}, applicationTunnel: {{protocol: PROXY, port: 15088}}");
    let file = folder.path().join("mesh.yaml");
    let workloads = [node, &of_server];
    super::mesh::write_with(&file, wire.client, wire.app(), wire.vip, workloads, "");
    write_pod(folder.path(), "client", &client);
    write_pod(folder.path(), "server", &server);
    let up = Up::start(settings(folder.path()));
    until(|| up.node.counts.pods_active.get() == 2);

    let mut stream = client.connect(SocketAddr::new(wire.vip, 80));
    let (mut served, _) = app.accept().unwrap();
    served.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"after the header").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let all = read_all(&mut served);
    let (fixed, rest) = all.split_at(16);
    assert_eq!(fixed[..12], *b"\r\n\r\n\0\r\nQUIT\n");
    let family = if wire.server.is_ipv4() { 0x11 } else { 0x21 };
    assert_eq!(fixed[12..14], [0x21, family]);
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let (body, bytes) = rest.split_at(length);
    assert_eq!(bytes, b"after the header");
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (from, to) = (octets(wire.client), octets(wire.server));
    let (addresses, more) = body.split_at(2 * from.len());
    assert_eq!(addresses, [from, to].concat());
    // The client's port is chance; then the port asked for, and the identity.
    assert_eq!(more[2..4], 8080_u16.to_be_bytes());
    let identity = b"spiffe://cluster.local/ns/demo/sa/client";
    let tlv = [
        &[0xd0, 0, u8::try_from(identity.len()).unwrap()],
        &identity[..],
    ]
    .concat();
    assert_eq!(more[4..], tlv);
}

#[test]
fn captured_traffic_of_two_pods_meets_in_one_process_over_ipv6() {
    captured_traffic(&Wire::v6(), "");
}

fn captured_traffic(wire: &Wire, node: &str) {
    let Some((client, server)) = two_pods(wire) else {
        println!("SKIPPED: this machine forbids new network namespaces");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("pods")).unwrap();
    let app = server.listen(wire.app());
    let file = folder.path().join("mesh.yaml");
    super::mesh::write_with(&file, wire.client, wire.app(), wire.vip, [node, node], "");
    write_pod(folder.path(), "client", &client);
    write_pod(folder.path(), "server", &server);
    let up = Up::start(settings(folder.path()));
    until(|| up.node.counts.pods_active.get() == 2);
    let records = up.node.metrics.tap_records(64);

    // By the service's address and by the pod's: tunnelled, from the client's own address.
    for to in [SocketAddr::new(wire.vip, 80), wire.app()] {
        let mut stream = client.connect(to);
        let (mut served, from) = taken(&app, &records);
        assert_eq!(from.ip(), wire.client);
        // The server speaks first, ends its half, and hears the rest.
        served.write_all(b"220 ready").unwrap();
        served.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut stream), b"220 ready");
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut served), b"bye");
        for _ in 0..2 {
            let record = records.next(PATIENCE).unwrap();
            assert_eq!(record["reason"], "ok", "{record}");
            let identity = &record["src.identity"];
            assert_eq!(identity, "spiffe://cluster.local/ns/demo/sa/client");
            let transport = if node.is_empty() { "hbone" } else { "node" };
            assert_eq!(record["transport"], transport, "{record}");
        }
    }
    assert_eq!(up.node.counts.source_not_kept.get(), 0);

    // What is not in the mesh comes in plaintext, and is captured on its way in.
    stop(folder.path(), &up, "client");
    client.run("iptables -t nat -F");
    client.run("ip6tables -t nat -F");
    let mut stream = client.connect(wire.app());
    let (mut served, from) = taken(&app, &records);
    assert_eq!(from.ip(), wire.client);
    stream.write_all(b"x").unwrap();
    served.read_exact(&mut [0]).unwrap();
    drop((stream, served));
    let record = records.next(PATIENCE).unwrap();
    assert_eq!(record["direction"], "inbound", "{record}");
    assert!(record.get("src.identity").is_none(), "{record}");

    only_its_own_addresses(wire, &client, &server, &records);

    // A pod that is gone has no listener; one that comes back has.
    stop(folder.path(), &up, "server");
    let hbone = SocketAddr::new(wire.server, 15008);
    let listens = || {
        let stream = server.netns.enter(|| TcpStream::connect(hbone)).unwrap();
        stream.is_ok()
    };
    until(|| !listens());
    write_pod(folder.path(), "server", &server);
    until(listens);
}

/// A neighbour's packets for somebody else are captured like all others, and not relayed; a further
/// address of the pod is its own though the control plane does not know it.
fn only_its_own_addresses(wire: &Wire, client: &Place, server: &Place, records: &RecordTap) {
    let (way, host, prefix) = (wire.server, wire.elsewhere, wire.host_prefix());
    client.run(&format!("ip route add {host}/{prefix} via {way}"));
    let mut stream = client.connect(SocketAddr::new(host, 8080));
    assert!(read_all(&mut stream).is_empty());
    let record = records.next(PATIENCE).unwrap();
    assert_eq!(record["reason"], "wrong_destination", "{record}");
    assert_eq!(record["direction"], "inbound", "{record}");

    server.run(&format!(
        "ip addr add {host}/{prefix} dev eth0{}",
        wire.dad()
    ));
    let app = server.listen(SocketAddr::new(host, 8080));
    let stream = client.connect(SocketAddr::new(host, 8080));
    taken(&app, records);
    drop(stream);
    let record = records.next(PATIENCE).unwrap();
    assert!(record["reason"] != "wrong_destination", "{record}");
}

/// The next connection to an application; without one the records say what became of it.
fn taken(app: &TcpListener, records: &RecordTap) -> (TcpStream, SocketAddr) {
    app.set_nonblocking(true).unwrap();
    let begin = Instant::now();
    loop {
        match app.accept() {
            Ok((stream, from)) => {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return (stream, from);
            }
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "nobody came: {:?}",
            records.take()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn stop(folder: &std::path::Path, up: &Up, name: &str) {
    let before = up.node.counts.pods_stopped.get();
    std::fs::remove_file(folder.join("pods").join(format!("{name}.yaml"))).unwrap();
    until(|| up.node.counts.pods_stopped.get() > before);
}
