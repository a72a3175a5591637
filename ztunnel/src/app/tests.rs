//! The whole proxy in this process, twice: two nodes on loopback that talk to each other over real
//! sockets, with a local file as their control plane and a root of their own.

mod across;
mod agent;
mod mesh;
mod netns;
mod policies;
mod same_node;
mod scrape;
mod timers;

use super::*;
use http::HeaderMap;
use mesh::{Mesh, http_get, until};
use mesh_hbone::{ConnectRequest, Dial, Pool, PoolSettings, TunnelError, TunnelKey};
use mesh_net::ConnectOptions;
use mesh_runtime::Scope;
use mesh_tls::{Expected, WorkloadCertificate};
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // A cut may show as a reset; what came before it is what counts.
    stream.read_to_end(&mut all).ok();
    all
}

#[test]
fn a_service_is_reached_through_a_tunnel_and_both_sides_write_one_record() {
    let mesh = Mesh::start("");
    let (client, server) = (mesh.client.tap(), mesh.server.tap());
    let mut stream = mesh.connect_to_service();
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut stream), b"hello");

    let out = client.next(PATIENCE).unwrap();
    assert_eq!(out["reason"], "ok", "{out}");
    assert_eq!(out["direction"], "outbound");
    assert_eq!(out["dst.service"], "web.demo.svc.cluster.local");
    assert_eq!(
        out["dst.identity"],
        "spiffe://cluster.local/ns/demo/sa/server"
    );
    assert_eq!(out["bytes_sent"], 5);
    assert_eq!(out["tls_group"], "X25519MLKEM768");
    let inn = server.next(PATIENCE).unwrap();
    assert_eq!(inn["reason"], "ok", "{inn}");
    assert_eq!(inn["direction"], "inbound");
    assert_eq!(
        inn["src.identity"],
        "spiffe://cluster.local/ns/demo/sa/client"
    );
    assert_eq!(inn["dst.service"], "web.demo.svc.cluster.local");
    assert_eq!(inn["dst.hbone_addr"], mesh.app.to_string());
    assert_eq!(inn["tls_group"], "X25519MLKEM768");
    assert!(client.take().is_empty() && server.take().is_empty());
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once_and_half_close_works_both_ways() {
    let mesh = Mesh::start("");
    // The application greets, ends its own half, and only then reads.
    let app = TcpListener::bind((mesh.app.ip(), 0)).unwrap();
    let to = app.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = app.accept().unwrap();
        stream.write_all(b"220 ready\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        read_all(&mut stream)
    });
    let mut stream = mesh.connect(to);
    let greeting = read_all(&mut stream);
    assert_eq!(greeting, b"220 ready\r\n");
    stream.write_all(b"QUIT after your end\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(serving.join().unwrap(), b"QUIT after your end\r\n");
}

#[test]
fn large_transfers_arrive_whole() {
    let mesh = Mesh::start("");
    let mut stream = mesh.connect_to_service();
    let body: Vec<u8> = (0..9_u32 << 20).map(|i| i.to_le_bytes()[1]).collect();
    let (mut writer, sent) = (stream.try_clone().unwrap(), body.clone());
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    assert!(read_all(&mut stream) == body, "what came back differs");
    writing.join().unwrap();
}

#[test]
fn a_policy_that_comes_cuts_the_sessions_it_denies_and_refuses_new_ones() {
    let mesh = Mesh::start("");
    let server = mesh.server.tap();
    let mut live = mesh.connect_to_service();
    live.write_all(b"x").unwrap();
    live.read_exact(&mut [0]).unwrap();
    mesh.write(
        "policies:\n- {name: no-client, namespace: demo, scope: Namespace, action: Deny, \
         rules: [[[{principals: [{Exact: cluster.local/ns/demo/sa/client}]}]]]}\n",
    );
    assert!(read_all(&mut live).is_empty());
    let cut = server.next(PATIENCE).unwrap();
    assert_eq!(cut["reason"], "policy_revoked", "{cut}");

    let mut new = mesh.connect_to_service();
    assert!(read_all(&mut new).is_empty());
    let refused = server.next(PATIENCE).unwrap();
    assert_eq!(refused["reason"], "policy_denied", "{refused}");
    assert_eq!(refused["policy"], "demo/no-client");

    mesh.write("");
    mesh.server
        .until(|node| node.snapshots.borrow().policies().count() == 0);
    let mut again = mesh.connect_to_service();
    again.write_all(b"x").unwrap();
    again.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_change_that_denies_nothing_cuts_nothing() {
    let mesh = Mesh::start("");
    let mut live = mesh.connect_to_service();
    mesh.write(
        "policies:\n- {name: others, namespace: demo, scope: Namespace, action: Deny, \
         rules: [[[{principals: [{Exact: cluster.local/ns/demo/sa/other}]}]]]}\n",
    );
    mesh.server
        .until(|node| node.snapshots.borrow().policies().count() == 1);
    live.write_all(b"still here").unwrap();
    live.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut live), b"still here");
}

#[test]
fn plaintext_is_let_in_unless_strict_and_never_to_our_own_ports() {
    let mesh = Mesh::start("");
    let server = mesh.server.tap();
    let mut stream = mesh.connect_in_plaintext(mesh.app);
    stream.write_all(b"plain").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut stream), b"plain");
    let taken = server.next(PATIENCE).unwrap();
    assert_eq!(taken["reason"], "ok", "{taken}");
    assert!(taken.get("src.identity").is_none(), "{taken}");

    // Straight to the listener: nothing was captured, so the destination is the listener itself.
    let own = SocketAddr::new(mesh.app.ip(), 15006);
    assert!(read_all(&mut TcpStream::connect(own).unwrap()).is_empty());
    let looped = server.next(PATIENCE).unwrap();
    assert_eq!(looped["reason"], "wrong_destination", "{looped}");

    // What listens there is reached by nobody through us, whoever frames a packet for it to us.
    let elsewhere = SocketAddr::new(mesh.client_ip, 15001);
    let neighbour = TcpListener::bind((mesh.vip.ip(), 0)).unwrap();
    for to in [elsewhere, neighbour.local_addr().unwrap()] {
        assert!(read_all(&mut mesh.connect_in_plaintext(to)).is_empty());
        let refused = server.next(PATIENCE).unwrap();
        assert_eq!(refused["reason"], "wrong_destination", "{refused}");
    }
    neighbour.set_nonblocking(true).unwrap();
    assert!(neighbour.accept().is_err(), "it was relayed");

    mesh.write(
        "policies:\n- {name: strict, namespace: demo, scope: Namespace, action: Deny, \
         rules: [[[{notPrincipals: [{Presence: []}]}]]]}\n",
    );
    mesh.server
        .until(|node| node.snapshots.borrow().policies().count() == 1);
    assert!(read_all(&mut mesh.connect_in_plaintext(mesh.app)).is_empty());
    let refused = server.next(PATIENCE).unwrap();
    assert_eq!(refused["reason"], "policy_denied", "{refused}");
    // Identity is what STRICT asks for.
    let mut tunnelled = mesh.connect_to_service();
    tunnelled.write_all(b"x").unwrap();
    tunnelled.read_exact(&mut [0]).unwrap();
}

#[test]
fn outbound_to_ourselves_and_to_unknown_ports_is_refused_with_a_reason() {
    let mesh = Mesh::start("");
    let client = mesh.client.tap();
    let own = SocketAddr::new(mesh.client_ip, 15001);
    assert!(read_all(&mut TcpStream::connect(own).unwrap()).is_empty());
    let looped = client.next(PATIENCE).unwrap();
    assert_eq!(looped["reason"], "wrong_destination", "{looped}");

    let no_such_port = SocketAddr::new(mesh.vip.ip(), 81);
    assert!(read_all(&mut mesh.connect(no_such_port)).is_empty());
    let refused = client.next(PATIENCE).unwrap();
    assert_eq!(refused["reason"], "no_endpoint", "{refused}");

    let nobody = SocketAddr::new(mesh.app.ip(), 1);
    assert!(read_all(&mut mesh.connect(nobody)).is_empty());
    let refused = client.next(PATIENCE).unwrap();
    assert_eq!(refused["reason"], "tunnel_refused", "{refused}");
}

#[test]
fn a_connection_waits_for_its_workload_to_become_known() {
    let mesh = Mesh::start("");
    mesh.forget_workloads();
    for proxy in [&mesh.client, &mesh.server] {
        proxy.until(|node| node.snapshots.borrow().workloads().count() == 0);
    }
    let mut early = mesh.connect_to_service();
    early.write_all(b"early").unwrap();
    early.shutdown(Shutdown::Write).unwrap();
    mesh.client
        .until(|node| !node.metrics.open_connections().is_empty());
    mesh.write("");
    assert_eq!(read_all(&mut early), b"early");
}

#[test]
fn each_refusal_of_a_connect_has_its_status() {
    let mesh = Mesh::start("");
    let (ip, port) = (mesh.app.ip(), mesh.app.port());
    let cases = [
        (format!("{ip}:{port}"), None),
        (format!("127.0.0.1:{port}"), Some(400)),
        (
            "no-such-service.demo.svc.cluster.local:80".into(),
            Some(503),
        ),
        ("web.demo.svc.cluster.local:80".into(), None),
        (format!("{ip}:15008"), Some(503)),
        (format!("{ip}:1"), Some(503)),
        (format!("{ip}:{port}"), None),
    ];
    mesh::local(async |scope| {
        for (authority, status) in cases {
            let opened = raw_connect(&scope, mesh.app.ip(), "client", &authority, None).await;
            let got = match opened {
                Ok(()) => None,
                Err(TunnelError::Refused(status)) => Some(status),
                Err(error) => panic!("{authority}: {error}"),
            };
            assert_eq!(got, status, "{authority}");
        }
        scope.cancel();
    });
}

#[test]
fn a_denied_client_is_told_401_and_the_application_never_sees_it() {
    let mesh = Mesh::start(
        "policies:\n- {name: only-client, namespace: demo, scope: Namespace, action: Allow, \
         rules: [[[{serviceAccounts: [{namespace: demo, serviceAccount: client}]}]]]}\n",
    );
    mesh::local(async |scope| {
        let authority = mesh.app.to_string();
        let ip = mesh.app.ip();
        raw_connect(&scope, ip, "client", &authority, None)
            .await
            .unwrap();
        let denied = raw_connect(&scope, ip, "stranger", &authority, None).await;
        assert!(matches!(denied, Err(TunnelError::Refused(401))));
        scope.cancel();
    });
    // The application's thread may be the last to hear of it.
    until(|| mesh.app_connections() > 0);
    assert_eq!(mesh.app_connections(), 1);
}

#[test]
fn the_application_sees_the_clients_address_or_the_loss_is_counted() {
    let mesh = Mesh::start("");
    mesh::local(async |scope| {
        let authority = mesh.app.to_string();
        let from = Some(mesh.client_ip);
        raw_connect(&scope, mesh.app.ip(), "client", &authority, from)
            .await
            .unwrap();
        scope.cancel();
    });
    let not_kept = mesh.server.node.counts.source_not_kept.get();
    if not_kept == 0 {
        assert_eq!(mesh.app_clients(), [mesh.client_ip]);
    } else {
        assert_eq!(not_kept, 1);
    }
}

#[test]
fn what_is_no_tls_and_no_http2_hurts_nobody_else() {
    let mesh = Mesh::start("");
    let server = mesh.server.tap();
    let hbone = SocketAddr::new(mesh.app.ip(), 15008);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 300], &[22, 3, 1]] {
        let mut stream = TcpStream::connect(hbone).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        read_all(&mut stream);
        let failed = server.next(PATIENCE).unwrap();
        assert_eq!(failed["reason"], "tls_failure", "{failed}");
    }
    let mut stream = mesh.connect_to_service();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

#[test]
fn past_the_bound_connections_are_refused_and_counted_and_room_comes_back() {
    let mesh = Mesh::start_with("", &["--pod-connections-max", "3"]);
    let server = mesh.server.tap();
    // One tunnel and two streams fill the three places.
    let mut first = mesh.connect_to_service();
    let mut second = mesh.connect_to_service();
    for stream in [&mut first, &mut second] {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    assert!(read_all(&mut mesh.connect_to_service()).is_empty());
    let refused = server.next(PATIENCE).unwrap();
    assert_eq!(refused["reason"], "overloaded", "{refused}");
    assert_eq!(mesh.server.node.counts.refused.with("pod").get(), 1);
    drop(first);
    server.next(PATIENCE).unwrap();
    let mut again = mesh.connect_to_service();
    again.write_all(b"x").unwrap();
    again.read_exact(&mut [0]).unwrap();
}

#[test]
fn the_pages_show_what_goes_on() {
    let mesh = Mesh::start("");
    let mut stream = mesh.connect_to_service();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let at = mesh.server.addresses;
    assert!(http_get(at.readiness, "/healthz/ready").starts_with("HTTP/1.1 200"));
    let live = http_get(at.admin, "/debug/connections");
    for part in ["spiffe://cluster.local/ns/demo/sa/client", "X25519MLKEM768"] {
        assert!(live.contains(part), "{live}");
    }
    let sent = http_get(mesh.client.addresses.admin, "/debug/connections");
    assert!(sent.contains("X25519MLKEM768"), "{sent}");
    let dump = http_get(at.admin, "/config_dump");
    for part in [
        "\"workloadIps\"",
        "web.demo.svc.cluster.local",
        "\"certificates\"",
    ] {
        assert!(dump.contains(part), "{part} is not in {dump}");
    }
    // What `istioctl ztunnel-config certificates` shows, of leaf and root alike.
    let (_, dump) = dump.split_once("\r\n\r\n").unwrap();
    let dump: serde_json::Value = serde_json::from_str(dump).unwrap();
    for list in ["certChain", "rootCerts"] {
        let one = &dump["certificates"][0][list][0];
        let serial = one["serialNumber"].as_str().unwrap();
        assert!(serial.bytes().all(|b| b.is_ascii_digit()), "{serial}");
        for moment in ["validFrom", "expirationTime"] {
            assert!(one[moment].as_str().unwrap().ends_with('Z'), "{one}");
        }
    }
    for page in ["/metrics", "/stats/prometheus"] {
        let metrics = http_get(at.metrics, page);
        for name in [
            "istio_tcp_connections_opened_total",
            "workload_manager_active_proxy_count",
        ] {
            assert!(metrics.contains(name), "{name} is not in {metrics}");
        }
    }
}

#[test]
fn a_drain_lets_sessions_run_to_the_deadline_and_takes_no_new_ones() {
    let mut mesh = Mesh::start_with("", &["--termination-deadline", "1h"]);
    let server = mesh.server.tap();
    let mut live = mesh.connect_to_service();
    live.write_all(b"x").unwrap();
    live.read_exact(&mut [0]).unwrap();
    mesh.server.drain.start();
    let hbone = SocketAddr::new(mesh.app.ip(), 15008);
    until(|| TcpStream::connect(hbone).is_err());
    live.write_all(b"y").unwrap();
    live.read_exact(&mut [0]).unwrap();
    live.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&mut live).is_empty());
    // The knocks that found the listener still open have records of their own.
    let record =
        std::iter::from_fn(|| server.next(PATIENCE)).find(|r| r["reason"] != "tls_failure");
    assert_eq!(record.unwrap()["reason"], "ok");
    // With the last session the process ends, long before the deadline.
    mesh.server.up.join();
}

/// Opens one stream to a node's tunnel listener as a given account.
async fn raw_connect(
    scope: &Scope,
    node: IpAddr,
    account: &str,
    authority: &str,
    from: Option<IpAddr>,
) -> Result<(), TunnelError> {
    let id = |account: &str| mesh_model::SpiffeId::new("cluster.local", "demo", account).unwrap();
    let pool = Pool::new(PoolSettings::default(), scope);
    let key = TunnelKey {
        source: id(account),
        expected: Expected::AnyOf(vec![id("server")]),
        address: SocketAddr::new(node, mesh_model::PORT_HBONE),
        source_ip: from,
    };
    let options = ConnectOptions {
        source: from,
        ..ConnectOptions::default()
    };
    let certificate = WorkloadCertificate::self_signed(&id(account)).unwrap();
    let dial = Dial::once(options, Arc::new(certificate));
    let request = ConnectRequest {
        authority: authority.into(),
        headers: HeaderMap::new(),
    };
    let stream = pool.open(&key, dial, request).await?;
    assert!(stream.response_headers().contains_key("baggage"));
    Ok(())
}
