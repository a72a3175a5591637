//! Two pods of one node: what holds through a tunnel holds within the process as well.

use super::super::mesh::{connect_from, write_with};
use super::*;
use serde_json::Value;

const NODE: &str = ", node: n1";
const DENY: &str = "policies:\n- {name: no-client, namespace: demo, scope: Namespace, action: Deny, \
     rules: [[[{principals: [{Exact: cluster.local/ns/demo/sa/client}]}]]]}\n";

/// A node with both pods; None where the machine forbids namespaces.
struct Node {
    client: Place,
    app: TcpListener,
    folder: tempfile::TempDir,
    up: Up,
    records: RecordTap,
    wire: Wire,
    _server: Place,
}

impl Node {
    fn start(wire: Wire, same_node: bool) -> Option<Self> {
        let (client, server) = two_pods(&wire).or_else(|| {
            println!("SKIPPED: this machine forbids new network namespaces");
            None
        })?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pods")).unwrap();
        let app = server.listen(wire.app());
        list(folder.path(), &wire, "");
        write_pod(folder.path(), "client", &client);
        write_pod(folder.path(), "server", &server);
        let mut settings = settings(folder.path());
        settings.proxy.same_node = same_node;
        let up = Up::start(settings);
        until(|| up.node.counts.pods_active.get() == 2);
        let records = up.node.metrics.tap_records(64);
        Some(Self {
            client,
            app,
            folder,
            up,
            records,
            wire,
            _server: server,
        })
    }

    /// Carries a byte there and back; gives the client's connection, and from where the application
    /// saw it come.
    fn exchange(&self, mut stream: TcpStream) -> (TcpStream, TcpStream, IpAddr) {
        let (mut served, from) = self.app.accept().unwrap();
        served.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"a").unwrap();
        served.read_exact(&mut [0]).unwrap();
        served.write_all(b"b").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        (stream, served, from.ip())
    }

    fn connect(&self) -> TcpStream {
        self.client.connect(SocketAddr::new(self.wire.vip, 80))
    }

    /// Ends a connection and gives its two records, the source's first.
    fn ended(&self, ends: (TcpStream, TcpStream, IpAddr)) -> [Value; 2] {
        drop(ends);
        self.two()
    }

    fn two(&self) -> [Value; 2] {
        let mut two = [(); 2].map(|()| self.records.next(PATIENCE).unwrap());
        two.sort_by_key(|r| r["reporter"] == "destination");
        two
    }
}

fn list(folder: &std::path::Path, wire: &Wire, policies: &str) {
    let file = folder.join("mesh.yaml");
    let nodes = [NODE, NODE];
    write_with(&file, wire.client, wire.app(), wire.vip, nodes, policies);
}

fn wires() -> [Wire; 2] {
    [Wire::v4(), Wire::v6()]
}

#[test]
fn a_policy_that_comes_ends_what_a_node_carries_and_lets_nothing_more_in() {
    for wire in wires() {
        let Some(node) = Node::start(wire, true) else {
            return;
        };
        let (mut live, mut served, from) = node.exchange(node.connect());
        assert_eq!(from, node.wire.client);
        list(node.folder.path(), &node.wire, DENY);
        assert!(read_all(&mut live).is_empty());
        assert!(read_all(&mut served).is_empty());
        for record in node.two() {
            assert_eq!(record["reason"], "policy_revoked", "{record}");
            assert_eq!(record["transport"], "node", "{record}");
        }
        assert!(read_all(&mut node.connect()).is_empty());
        let [source, destination] = node.two();
        assert_eq!(source["reason"], "tunnel_refused", "{source}");
        assert_eq!(destination["reason"], "policy_denied", "{destination}");
        assert_eq!(destination["policy"], "demo/no-client", "{destination}");
    }
}

#[test]
fn the_switch_of_a_node_encrypts() {
    for wire in wires() {
        for direct in [true, false] {
            let Some(node) = Node::start(wire.clone(), direct) else {
                return;
            };
            let ends = node.exchange(node.connect());
            assert_eq!(ends.2, node.wire.client);
            for record in node.ended(ends) {
                let transport = if direct { "node" } else { "hbone" };
                assert_eq!(record["transport"], transport, "{record}");
            }
            assert_eq!(node.up.node.counts.source_not_kept.get(), 0);
        }
    }
}

/// A pod that gives itself the address of another is not believed within the node: through a tunnel
/// the application, and policies that go by addresses, see the address the network gave the pod.
#[test]
fn a_pod_cannot_come_from_an_address_that_is_not_its_own() {
    for wire in wires() {
        let Some(node) = Node::start(wire, true) else {
            return;
        };
        let (borrowed, prefix) = (node.wire.elsewhere, node.wire.host_prefix());
        let how = node.wire.dad();
        node.client
            .run(&format!("ip addr add {borrowed}/{prefix} dev lo{how}"));
        let vip = SocketAddr::new(node.wire.vip, 80);
        let netns = node.client.netns.clone();
        let ends = node.exchange(connect_from(borrowed, vip, Some(netns)));
        assert_eq!(ends.2, node.wire.client);
        for record in node.ended(ends) {
            assert_eq!(record["transport"], "hbone", "{record}");
        }
    }
}
