//! Two networks: our client, a gateway made of the same pieces, and our server behind it.

use super::mesh::{Proxy, echo, four_addresses, http_get, local, until};
use super::{PATIENCE, read_all};
use mesh_hbone::{Incoming, ServerSettings};
use mesh_model::{PORT_HBONE, SpiffeId};
use mesh_net::ListenOptions;
use mesh_runtime::{Drain, Scope};
use mesh_tls::WorkloadCertificate;
use std::future::pending;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// A client of network `east`, and a server of `west`.
struct Networks {
    client: Proxy,
    server: Proxy,
    gateway: IpAddr,
    vip: SocketAddr,
    app: SocketAddr,
    _folder: tempfile::TempDir,
}

/// How the server's workload is known to everybody.
struct Known {
    gateway: &'static str,
    gateway_account: &'static str,
    policies: &'static str,
}

const KNOWN: Known = Known {
    gateway: ", networkGateway: {destination: west/GATEWAY}",
    gateway_account: "gateway",
    policies: "",
};

impl Networks {
    fn start(known: &Known) -> Self {
        let [client_ip, server_ip, vip, gateway] = four_addresses();
        let app = echo(server_ip, Arc::new(Mutex::new(Vec::new())));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mesh.yaml");
        let (port, leads) = (
            app.port(),
            known.gateway.replace("GATEWAY", &gateway.to_string()),
        );
        let (account, policies) = (known.gateway_account, known.policies);
        let web = "web.demo.svc.cluster.local";
        let text = format!(
            "workloads:\n\
             - {{name: client-1, namespace: demo, serviceAccount: client, network: east, \
             workloadIps: [\"{client_ip}\"], protocol: HBONE}}\n\
             - {{name: server-1, namespace: demo, serviceAccount: server, network: west, \
             workloadIps: [\"{server_ip}\"], protocol: HBONE, \
             services: {{demo/{web}: {{'80': {port}}}}}{leads}}}\n\
             - {{name: gateway-1, namespace: demo, serviceAccount: {account}, network: west, \
             workloadIps: [\"{gateway}\"], protocol: HBONE}}\n\
             services:\n\
             - {{name: web, namespace: demo, hostname: {web}, \
             vips: [\"east/{vip}\", \"west/{vip}\"], ports: {{'80': {port}}}}}\n{policies}"
        );
        std::fs::write(&file, text).unwrap();
        Self {
            client: Proxy::start(client_ip, "client", &file, &["--network", "east"]),
            server: Proxy::start(server_ip, "server", &file, &["--network", "west"]),
            gateway,
            vip: SocketAddr::new(vip, 80),
            app,
            _folder: folder,
        }
    }

    fn connect(&self) -> TcpStream {
        self.client.connect_outbound(self.vip)
    }
}

/// Passes what is in its tunnels on to the server's ztunnel, and notes what was asked for.
struct Gateway {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Gateway {
    fn start(at: IpAddr, to: IpAddr) -> Self {
        let (stop, stopped) = oneshot::channel();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = asked.clone();
        let (listens, listening) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            local(async |scope| {
                let options = ListenOptions::new(SocketAddr::new(at, PORT_HBONE));
                let listener = mesh_net::listen(&options).unwrap();
                listens.send(()).unwrap();
                let tasks = scope.clone();
                scope.spawn_local("gateway", async move {
                    while let Ok((tcp, _)) = listener.accept().await {
                        let (asked, scope) = (noted.clone(), tasks.clone());
                        tasks.spawn_local("outer", serve(tcp, to, asked, scope));
                    }
                });
                stopped.await.ok();
                scope.cancel();
            });
        });
        // Or a test dials it before it is there.
        listening.recv().unwrap();
        Self {
            stop: Some(stop),
            thread: Some(thread),
            asked,
        }
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}

async fn serve(
    tcp: tokio::net::TcpStream,
    to: IpAddr,
    asked: Arc<Mutex<Vec<String>>>,
    scope: Scope,
) {
    let identity = SpiffeId::new("cluster.local", "demo", "gateway").unwrap();
    let certificate = Arc::new(WorkloadCertificate::self_signed(&identity).unwrap());
    let Ok(session) = mesh_tls::accept_session(tcp, &certificate).await else {
        return;
    };
    let client = session.peer.identity.to_string();
    let handler = |incoming: Incoming| {
        let note = format!("{client} {}", incoming.authority());
        assert!(!incoming.headers().contains_key("x-forwarded-network"));
        asked.lock().unwrap().push(note);
        async move {
            let up = tokio::net::TcpSocket::new_v4().unwrap();
            let up = up.connect(SocketAddr::new(to, PORT_HBONE)).await;
            let mut up = up.unwrap();
            let mut down = incoming.accept(&http::HeaderMap::new()).unwrap();
            tokio::io::copy_bidirectional(&mut down, &mut up).await.ok();
        }
    };
    let (settings, drain) = (ServerSettings::default(), Drain::new());
    let served = mesh_hbone::serve_session(session, &settings, &drain, &scope, pending(), handler);
    served.await.ok();
}

fn exchange(mut stream: TcpStream) {
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut stream), b"hello");
}

#[test]
fn another_network_is_reached_in_two_tunnels_and_both_ends_know_each_other() {
    let networks = Networks::start(&KNOWN);
    let gateway = Gateway::start(networks.gateway, networks.app.ip());
    let (client, server) = (networks.client.tap(), networks.server.tap());
    let mut live = networks.connect();
    live.write_all(b"x").unwrap();
    live.read_exact(&mut [0]).unwrap();
    let page = http_get(networks.client.addresses.admin, "/debug/connections");
    for part in [
        "double_hbone",
        "ns/demo/sa/server",
        "web.demo.svc.cluster.local",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    drop(live);
    client.next(PATIENCE).unwrap();
    server.next(PATIENCE).unwrap();

    exchange(networks.connect());
    let out = client.next(PATIENCE).unwrap();
    for (field, value) in [
        ("reason", "ok"),
        ("transport", "double_hbone"),
        ("dst.identity", "spiffe://cluster.local/ns/demo/sa/server"),
        ("dst.hbone_addr", "web.demo.svc.cluster.local:80"),
        ("dst.service", "web.demo.svc.cluster.local"),
        ("dst.workload", "server-1"),
    ] {
        assert_eq!(out[field], value, "{field}: {out}");
    }
    let at = SocketAddr::new(networks.gateway, PORT_HBONE).to_string();
    assert_eq!(out["dst.addr"], at, "{out}");
    let inn = server.next(PATIENCE).unwrap();
    for (field, value) in [
        ("reason", "ok"),
        ("src.identity", "spiffe://cluster.local/ns/demo/sa/client"),
        ("dst.service", "web.demo.svc.cluster.local"),
    ] {
        assert_eq!(inn[field], value, "{field}: {inn}");
    }
    let asked = gateway.asked.lock().unwrap().clone();
    let each = "spiffe://cluster.local/ns/demo/sa/client web.demo.svc.cluster.local:80";
    assert_eq!(asked, [each, each]);
}

#[test]
fn the_far_end_denies_by_the_clients_identity() {
    let networks = Networks::start(&Known {
        policies: "policies:\n- {name: no-client, namespace: demo, scope: Namespace, action: Deny, \
                   rules: [[[{principals: [{Exact: cluster.local/ns/demo/sa/client}]}]]]}\n",
        ..KNOWN
    });
    let _gateway = Gateway::start(networks.gateway, networks.app.ip());
    let (client, server) = (networks.client.tap(), networks.server.tap());
    assert!(read_all(&mut networks.connect()).is_empty());
    let refused = server.next(PATIENCE).unwrap();
    assert_eq!(refused["reason"], "policy_denied", "{refused}");
    let refused = client.next(PATIENCE).unwrap();
    assert_eq!(refused["reason"], "tunnel_refused", "{refused}");
    assert!(
        refused["error"].to_string().contains("through gateway"),
        "{refused}"
    );
}

#[test]
fn a_gateway_that_is_somebody_else_or_not_known_gets_no_byte() {
    for (known, reason, named) in [
        (
            Known {
                gateway_account: "other",
                ..KNOWN
            },
            "tls_failure",
            "gateway 127.",
        ),
        (
            Known {
                gateway: "",
                ..KNOWN
            },
            "no_network_gateway",
            "network west",
        ),
        (
            Known {
                gateway: ", networkGateway: {destination: west/10.9.9.9}",
                ..KNOWN
            },
            "no_network_gateway",
            "west/10.9.9.9",
        ),
    ] {
        let networks = Networks::start(&known);
        let gateway = Gateway::start(networks.gateway, networks.app.ip());
        let client = networks.client.tap();
        assert!(read_all(&mut networks.connect()).is_empty());
        let refused = client.next(PATIENCE).unwrap();
        assert_eq!(refused["reason"], reason, "{refused}");
        assert!(refused["error"].to_string().contains(named), "{refused}");
        assert!(gateway.asked.lock().unwrap().is_empty());
    }
}

#[test]
fn a_gateway_that_is_gone_is_named_and_one_that_comes_back_is_used() {
    let networks = Networks::start(&KNOWN);
    let mut gateway = Gateway::start(networks.gateway, networks.app.ip());
    let client = networks.client.tap();
    let mut live = networks.connect();
    live.write_all(b"x").unwrap();
    live.read_exact(&mut [0]).unwrap();
    gateway.stop();
    read_all(&mut live);
    let cut = client.next(PATIENCE).unwrap();
    assert_eq!(cut["reason"], "upstream_reset", "{cut}");
    assert!(read_all(&mut networks.connect()).is_empty());
    let refused = client.next(PATIENCE).unwrap();
    assert_eq!(refused["reason"], "connect_failed", "{refused}");
    let named = format!("gateway {}", networks.gateway);
    assert!(refused["error"].to_string().contains(&named), "{refused}");
    let _again = Gateway::start(networks.gateway, networks.app.ip());
    let at = SocketAddr::new(networks.gateway, PORT_HBONE);
    until(|| TcpStream::connect(at).is_ok());
    exchange(networks.connect());
}
