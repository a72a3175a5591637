//! The rules against the real kernel, in a network namespace of the test's own: applied twice,
//! checked, captured through, replaced and removed.
//!
//! The `outer` tests run this program again inside `unshare`; the `inner_` ones are what runs there,
//! and refuse to run where there is a network.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails where it stands, and says so when it is skipped"
)]

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use mesh_net::ConnectOptions;
use mesh_redirect::{InPodOptions, LoopExclusion, Mode, RedirectError, RuleSet, SidecarOptions};
use nix::sched::{CloneFlags, setns, unshare};

/// The ways to a namespace of one's own, the unprivileged first.
const WAYS: [&str; 2] = ["-Urn", "-n"];

fn outer(inner: &str) {
    let missing = ["iptables-restore", "ip6tables-restore", "ip", "unshare"]
        .into_iter()
        .find(|program| Command::new(program).arg("--version").output().is_err());
    let way = WAYS.into_iter().find(|way| {
        let probe = ["ip", "link", "set", "lo", "up"];
        let probe = Command::new("unshare").arg(way).args(probe).output();
        probe.is_ok_and(|output| output.status.success())
    });
    let (None, Some(way)) = (missing, way) else {
        println!("SKIPPED: {inner}: no namespace can be made here, or {missing:?} is missing");
        return;
    };
    let output = Command::new("unshare")
        .args([way, "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", inner, "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{errors}"
    );
}

#[test]
fn the_sidecar_rules_hold_on_a_real_kernel() {
    outer("inner_sidecar");
}

#[test]
fn the_in_pod_rules_hold_on_a_real_kernel() {
    outer("inner_in_pod");
}

#[test]
fn a_refused_rule_is_named_and_taken_back() {
    outer("inner_refused");
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// Everything that could be left behind. The tables themselves stay once they were looked at.
fn snapshot() -> String {
    let mut text = String::new();
    for program in ["iptables", "ip6tables"] {
        for table in ["raw", "mangle", "nat"] {
            let output = Command::new(program)
                .args(["-t", table, "-S"])
                .output()
                .unwrap();
            text += &String::from_utf8_lossy(&output.stdout);
        }
    }
    for family in ["-4", "-6"] {
        for what in [
            &["rule"][..],
            &["route", "show", "table", "100"],
            &["addr", "show", "lo"],
        ] {
            let output = Command::new("ip").arg(family).args(what).output().unwrap();
            text += &String::from_utf8_lossy(&output.stdout);
        }
    }
    text
}

/// Refuses to go on where a real network is, and gives this one a peer: the current namespace is a
/// pod at `10.0.0.1` and `fd00::1`, the peer a client at `.2`. The thread that made the peer's
/// namespace keeps it until the test ends.
fn pod() -> std::fs::File {
    let links = Command::new("ip").args(["-o", "link"]).output().unwrap();
    let names = String::from_utf8(links.stdout).unwrap();
    assert_eq!(
        names.lines().count(),
        1,
        "this is no namespace of the test's own: {names}"
    );
    ip("link set lo up");
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        send.send((
            nix::unistd::gettid(),
            std::fs::File::open("/proc/thread-self/ns/net").unwrap(),
        ))
        .unwrap();
        loop {
            thread::park();
        }
    });
    let (peer, netns) = receive.recv().unwrap();
    ip(&format!(
        "link add eth0 type veth peer name eth0 netns {peer}"
    ));
    for address in ["10.0.0.1/24", "fd00::1/64"] {
        addresses(address);
    }
    within(&netns, || {
        for address in ["10.0.0.2/24", "fd00::2/64"] {
            addresses(address);
        }
    });
    ip("route add default via 10.0.0.2");
    ip("-6 route add default via fd00::2");
    netns
}

fn addresses(address: &str) {
    ip("link set eth0 up");
    let nodad = if address.contains(':') { " nodad" } else { "" };
    ip(&format!("addr add {address} dev eth0{nodad}"));
}

/// Runs on a thread inside the namespace.
fn within<R: Send>(netns: &std::fs::File, work: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        inside.join().unwrap()
    })
}

/// A server that answers each connection with one word.
fn server(address: SocketAddr, word: &'static str) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream.unwrap().write_all(word.as_bytes()));
        }
    });
}

/// Who answers there.
fn who(ip: &str, port: u16) -> String {
    ask(TcpStream::connect_timeout(
        &SocketAddr::new(ip.parse().unwrap(), port),
        Duration::from_secs(5),
    ))
}

/// Who answers to a socket that carries the proxy's mark, from an optional source.
fn who_marked(ip: &str, port: u16, source: Option<&str>) -> String {
    let options = ConnectOptions {
        mark: Some(mesh_model::PACKET_MARK),
        source: source.map(|source| source.parse().unwrap()),
        transparent: source.is_some(),
        timeout: Duration::from_secs(5),
        ..ConnectOptions::default()
    };
    let address = SocketAddr::new(ip.parse().unwrap(), port);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let connected = runtime.block_on(mesh_net::connect(address, &options));
    ask(connected.map_err(io::Error::other).and_then(|stream| {
        let stream = runtime.block_on(async { stream.into_std() })?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    }))
}

fn ask(connected: io::Result<TcpStream>) -> String {
    let mut word = String::new();
    match connected.and_then(|mut stream| stream.read_to_string(&mut word)) {
        Ok(_) => word,
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// Applies twice, and the second changes nothing.
fn apply(rules: &RuleSet) {
    rules.apply().unwrap();
    let once = snapshot();
    let report = rules.check().unwrap();
    assert!(report.is_in_place(), "{report}");
    rules.apply().unwrap();
    assert_eq!(once, snapshot());
    let report = rules.check().unwrap();
    assert!(report.is_in_place(), "{report}");
}

/// Servers of proxy and application, in the pod and at the peer, for both families.
fn servers(peer: &std::fs::File) {
    let any = |port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    for (port, word) in [
        (15001, "outbound"),
        (15006, "inbound"),
        (15008, "hbone"),
        (15020, "metrics"),
        (80, "app"),
    ] {
        server(any(port), word);
    }
    within(peer, || server(any(80), "peer"));
}

/// A server that answers each datagram with one word.
fn udp_server(address: SocketAddr, word: &'static str) {
    let socket = UdpSocket::bind(address).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(word.as_bytes(), from).unwrap();
        }
    });
}

/// Who answers a datagram, from a socket that only hears whom it asks.
fn who_udp(ip: &str, port: u16, mark: Option<u32>) -> String {
    let options = ConnectOptions {
        mark,
        ..ConnectOptions::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let address = SocketAddr::new(ip.parse().unwrap(), port);
    let socket = {
        let _inside = runtime.enter();
        let socket = mesh_net::connect_udp(address, &options).unwrap();
        socket.into_std().unwrap()
    };
    socket.set_nonblocking(false).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket.send(b"who").unwrap();
    let mut buffer = [0; 64];
    match socket.recv(&mut buffer) {
        Ok(length) => String::from_utf8_lossy(&buffer[..length]).into_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

const POD: [&str; 2] = ["10.0.0.1", "fd00::1"];
const PEER: [&str; 2] = ["10.0.0.2", "fd00::2"];
const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];
/// Has a route and is nobody's, like a service's address.
const SERVICE: [&str; 2] = ["10.96.0.1", "fd96::1"];

#[test]
#[ignore = "runs in the namespace that the outer test makes"]
fn inner_sidecar() {
    let peer = pod();
    servers(&peer);
    let rules = RuleSet::new(&Mode::Sidecar(SidecarOptions::default()));
    rules.remove().unwrap();
    let before = snapshot();
    apply(&rules);
    for family in 0..2 {
        assert_eq!(who(PEER[family], 80), "outbound");
        assert_eq!(who(SERVICE[family], 4711), "outbound");
        assert_eq!(who(LOOPBACK[family], 80), "app");
        assert_eq!(who(POD[family], 80), "app", "the application calls itself");
        assert_eq!(who_marked(PEER[family], 80, None), "peer");
        let inbound = ["127.0.0.6", "::6"][family];
        assert_eq!(who_marked(POD[family], 80, Some(inbound)), "app");
        let from_peer = |port| within(&peer, || who(POD[family], port));
        assert_eq!(from_peer(80), "inbound");
        assert_eq!(from_peer(15008), "hbone");
        assert_eq!(from_peer(15020), "metrics");
    }
    // A rule gone, a rule too many, a foreign jump: each is found, and the next apply mends it.
    let tables = |arguments: &str| {
        let output = Command::new("iptables")
            .args(arguments.split(' '))
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments}: {output:?}");
    };
    tables("-t nat -D ISTIO_OUTPUT 1");
    tables("-t nat -A ISTIO_INBOUND -j RETURN");
    tables("-t nat -A PREROUTING -p tcp -j ISTIO_INBOUND");
    ip("-6 addr del ::6/128 dev lo");
    let report = rules.check().unwrap();
    assert_eq!(
        (report.missing.len(), report.unexpected.len()),
        (2, 2),
        "{report}"
    );
    apply(&rules);
    // The other mode replaces this one, and goes without a trace.
    let other = RuleSet::new(&Mode::InPod(InPodOptions::default()));
    assert!(!other.check().unwrap().is_in_place());
    apply(&other);
    assert!(!rules.check().unwrap().is_in_place());
    other.remove().unwrap();
    other.remove().unwrap();
    assert_eq!(before, snapshot());
}

#[test]
#[ignore = "runs in the namespace that the outer test makes"]
fn inner_in_pod() {
    let peer = pod();
    servers(&peer);
    for address in LOOPBACK {
        let address = SocketAddr::new(address.parse().unwrap(), 15053);
        server(address, "dns");
        udp_server(address, "dns");
    }
    within(&peer, || {
        let any = |port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        server(any(53), "peer");
        udp_server(any(53), "peer");
        udp_server(any(54), "other");
    });
    let options = InPodOptions {
        capture_dns: true,
        ..InPodOptions::default()
    };
    let rules = RuleSet::new(&Mode::InPod(options));
    rules.remove().unwrap();
    let before = snapshot();
    apply(&rules);
    for family in 0..2 {
        assert_eq!(who(PEER[family], 80), "outbound");
        assert_eq!(who(SERVICE[family], 4711), "outbound");
        assert_eq!(who(LOOPBACK[family], 80), "app");
        assert_eq!(who(POD[family], 80), "app", "the application calls itself");
        assert_eq!(who_marked(PEER[family], 80, None), "peer");
        let from_peer = |port| within(&peer, || who(POD[family], port));
        assert_eq!(from_peer(80), "inbound");
        assert_eq!(from_peer(15008), "hbone");
        // The proxy comes from the client's address, and the answers are its, not the client's.
        assert_eq!(who_marked(POD[family], 80, Some(PEER[family])), "app");
        // DNS is the proxy's, whoever is asked, but for what the proxy itself asks.
        for server in [PEER[family], SERVICE[family]] {
            assert_eq!(who_udp(server, 53, None), "dns");
            assert_eq!(who(server, 53), "dns");
        }
        let mark = Some(mesh_model::PACKET_MARK);
        assert_eq!(who_udp(PEER[family], 53, mark), "peer");
        assert_eq!(who_marked(PEER[family], 53, None), "peer");
        assert_eq!(who_udp(PEER[family], 54, None), "other");
    }
    rules.remove().unwrap();
    assert_eq!(before, snapshot());
}

#[test]
#[ignore = "runs in the namespace that the outer test makes"]
fn inner_refused() {
    let _peer = pod();
    let root = Command::new("id").arg("-u").output().unwrap();
    assert_eq!(root.stdout, b"0\n");
    let rules = RuleSet::new(&Mode::Sidecar(SidecarOptions {
        // No user namespace maps this one, and the real root's has no such user either way.
        exclusion: LoopExclusion::Owner {
            uid: u32::MAX,
            gid: u32::MAX,
        },
        ..SidecarOptions::default()
    }));
    rules.remove().unwrap();
    let before = snapshot();
    let error = rules.apply().unwrap_err();
    let RedirectError::Refused {
        command, stderr, ..
    } = &error
    else {
        panic!("{error}")
    };
    assert!(command.starts_with("iptables-restore --noflush"), "{error}");
    assert!(!stderr.is_empty(), "{error}");
    assert_eq!(before, snapshot());
}
