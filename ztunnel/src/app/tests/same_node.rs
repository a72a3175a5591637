//! Two pods of one process: one hop, both sides' decisions and records.

use super::mesh::{Proxy, addresses, echo, http_get, write_with};
use super::{PATIENCE, dedicated, read_all};
use crate::pods::Pod;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

/// A proxy that runs the server's pod, with the client's pod beside it.
struct Node {
    proxy: Proxy,
    client: Arc<Pod>,
    ips: [IpAddr; 3],
    app: SocketAddr,
    folder: tempfile::TempDir,
}

const NODE: &str = ", node: n1";

impl Node {
    fn start(of_client: &str, of_server: &str, policies: &str, flags: &[&str]) -> Self {
        let ips = addresses();
        let app = echo(ips[1], Arc::new(Mutex::new(Vec::new())));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mesh.yaml");
        write_with(&file, ips[0], app, ips[2], [of_client, of_server], policies);
        let proxy = Proxy::start(ips[1], "server", &file, flags);
        let client = dedicated("demo/client-1/client".parse().unwrap());
        let client = Arc::new(Pod::new(client, &proxy.node).unwrap());
        Self {
            proxy,
            client,
            ips,
            app,
            folder,
        }
    }

    fn connect(&self) -> TcpStream {
        let vip = SocketAddr::new(self.ips[2], 80);
        self.proxy.capture_from(&self.client, self.ips[0], vip)
    }

    fn write(&self, policies: &str) {
        let file = self.folder.path().join("mesh.yaml");
        let [client, _, vip] = self.ips;
        write_with(&file, client, self.app, vip, [NODE, NODE], policies);
    }

    /// The next two records, the source's first.
    fn records(tap: &mesh_telemetry::RecordTap) -> [serde_json::Value; 2] {
        let mut two = [tap.next(PATIENCE).unwrap(), tap.next(PATIENCE).unwrap()];
        two.sort_by_key(|r| r["reporter"] == "destination");
        two
    }
}

const DENY: &str = "policies:\n- {name: no-client, namespace: demo, scope: Namespace, action: Deny, \
     rules: [[[{principals: [{Exact: cluster.local/ns/demo/sa/client}]}]]]}\n";
/// What PeerAuthentication STRICT comes to: who proves nothing is denied.
const STRICT: &str = "policies:\n- {name: strict, namespace: demo, scope: Namespace, action: Deny, \
     rules: [[[{notPrincipals: [{Presence: []}]}]]]}\n";

#[test]
fn one_hop_leaves_a_record_of_each_side_and_satisfies_strict() {
    let node = Node::start(NODE, NODE, STRICT, &[]);
    let tap = node.proxy.tap();
    let mut stream = node.connect();
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut stream), b"hello");
    let [out, inn] = Node::records(&tap);
    for record in [&out, &inn] {
        assert_eq!(record["reason"], "ok", "{record}");
        assert_eq!(record["transport"], "node", "{record}");
        assert_eq!(record["bytes_sent"], 5, "{record}");
        assert_eq!(record["bytes_recv"], 5, "{record}");
        assert_eq!(record["dst.service"], "web.demo.svc.cluster.local");
        let identity = &record["src.identity"];
        assert_eq!(identity, "spiffe://cluster.local/ns/demo/sa/client");
    }
    assert_eq!(
        (&out["direction"], &inn["direction"]),
        (&"outbound".into(), &"inbound".into())
    );
    assert!(tap.take().is_empty());
    let metrics = node.proxy.node.metrics.encode();
    let of = |reporter: &str| {
        metrics.lines().any(|line| {
            line.starts_with("istio_tcp_received_bytes_total")
                && line.contains(&format!("reporter=\"{reporter}\""))
                && line.contains("connection_security_policy=\"mutual_tls\",transport=\"node\"")
                && line.ends_with(" 5")
        })
    };
    assert!(of("source") && of("destination"), "{metrics}");
}

#[test]
fn the_destinations_policies_refuse_and_revoke() {
    let node = Node::start(NODE, NODE, "", &[]);
    let tap = node.proxy.tap();
    let mut live = node.connect();
    live.write_all(b"x").unwrap();
    live.read_exact(&mut [0]).unwrap();
    let shown = http_get(node.proxy.addresses.admin, "/debug/connections");
    assert_eq!(
        shown.matches("\"transport\": \"node\"").count(),
        2,
        "{shown}"
    );
    node.write(DENY);
    assert!(read_all(&mut live).is_empty());
    for record in Node::records(&tap) {
        assert_eq!(record["reason"], "policy_revoked", "{record}");
    }
    assert!(read_all(&mut node.connect()).is_empty());
    let [out, inn] = Node::records(&tap);
    assert_eq!(inn["reason"], "policy_denied", "{inn}");
    assert_eq!(inn["policy"], "demo/no-client");
    // As through a tunnel: the source learns that it was refused, not by what.
    assert_eq!(out["reason"], "tunnel_refused", "{out}");
}

#[test]
fn a_client_of_another_trust_domain_is_refused_as_a_handshake_would() {
    let other = ", node: n1, trustDomain: elsewhere";
    for (of_client, of_server) in [(other, NODE), (NODE, other)] {
        let node = Node::start(of_client, of_server, "", &[]);
        let tap = node.proxy.tap();
        assert!(read_all(&mut node.connect()).is_empty());
        let [out, inn] = Node::records(&tap);
        assert_eq!(inn["reason"], "tls_failure", "{inn}");
        assert_eq!(out["reason"], "tunnel_refused", "{out}");
    }
}

#[test]
fn the_end_of_either_pod_ends_the_session() {
    for of_server in [true, false] {
        let node = Node::start(NODE, NODE, "", &[]);
        let tap = node.proxy.tap();
        let mut live = node.connect();
        live.write_all(b"x").unwrap();
        live.read_exact(&mut [0]).unwrap();
        match of_server {
            true => node.proxy.node.running.list()[0].drain.force(),
            false => node.client.drain.force(),
        }
        assert!(read_all(&mut live).is_empty());
        for record in Node::records(&tap) {
            assert_eq!(record["reason"], "drained", "{record}");
        }
    }
}

#[test]
fn a_pod_or_the_process_may_ask_for_encryption() {
    let encrypt = ", node: n1, encryptSameNode: true";
    let elsewhere = ", node: n2";
    for (of_client, of_server, flags) in [
        (encrypt, NODE, &[][..]),
        (NODE, encrypt, &[]),
        (NODE, elsewhere, &[]),
        (NODE, NODE, &["--same-node", "encrypt"]),
    ] {
        let node = Node::start(of_client, of_server, "", flags);
        let tap = node.proxy.tap();
        let mut stream = node.connect();
        stream.write_all(b"x").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut stream), b"x");
        for record in Node::records(&tap) {
            assert_eq!(record["reason"], "ok", "{record}");
            assert_eq!(record["transport"], "hbone", "{record}");
        }
    }
}
