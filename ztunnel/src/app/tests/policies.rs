//! Policies that cannot be evaluated, dry run, ports, and policies that move: at the whole proxy.

use super::*;

fn count(mesh: &Mesh, line: &str) -> Option<String> {
    let text = mesh.server.node.metrics.encode();
    let found = text.lines().find(|l| l.starts_with(line));
    found.map(|l| l.rsplit_once(' ').unwrap().1.to_owned())
}

/// Lets the server's workload list a policy that is not there.
fn listing(mesh: &Mesh) {
    mesh.list("demo/gone");
    mesh.server.until(|node| {
        let snapshot = node.snapshots.borrow();
        let lists = |w: &&Arc<mesh_model::Workload>| !w.authorization_policies.is_empty();
        snapshot.workloads().any(|w| lists(&w))
    });
}

#[test]
fn a_policy_that_has_not_arrived_denies_and_is_counted() {
    let mesh = Mesh::start("");
    listing(&mesh);
    let server = mesh.server.tap();
    assert!(read_all(&mut mesh.connect_to_service()).is_empty());
    let refused = server.next(PATIENCE).unwrap();
    assert_eq!(refused["reason"], "policy_unavailable", "{refused}");
    assert_eq!(refused["policy"], "demo/gone");
    let counted = count(&mesh, r#"strata_policy_unavailable_total{cause="missing"}"#);
    assert_eq!(counted.as_deref(), Some("1"));
}

#[test]
fn with_the_switch_it_is_passed_over_and_counted() {
    let mesh = Mesh::start_with("", &["--policy-compatibility", "istio"]);
    listing(&mesh);
    let mut stream = mesh.connect_to_service();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let counted = count(&mesh, r#"strata_policy_passed_over_total{cause="missing"}"#);
    assert_eq!(counted.as_deref(), Some("1"));
}

#[test]
fn a_policy_in_dry_run_lets_in_and_is_counted() {
    let mesh = Mesh::start(
        "policies:\n- {name: trial, namespace: demo, scope: Namespace, action: Deny, dryRun: true, \
         rules: [[[{principals: [{Exact: cluster.local/ns/demo/sa/client}]}]]]}\n",
    );
    let mut stream = mesh.connect_to_service();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let counted = count(&mesh, "strata_policy_dry_run_denied_total");
    assert_eq!(counted.as_deref(), Some("1"));
}

/// What a PeerAuthentication with ports becomes: plaintext is denied, but to one port.
fn strict_but(port: u16) -> String {
    format!(
        "policies:\n- {{name: converted_peer_authentication_web, namespace: demo, scope: Namespace, \
         action: Deny, rules: [[[{{notPrincipals: [{{Presence: []}}]}}], \
         [{{notDestinationPorts: [{port}]}}]]]}}\n"
    )
}

#[test]
fn a_port_that_turns_strict_cuts_the_plaintext_to_it_and_no_tunnel() {
    let port = |mesh: &Mesh| mesh.app.port();
    let mesh = Mesh::start("");
    mesh.write(&strict_but(port(&mesh)));
    mesh.server
        .until(|node| node.snapshots.borrow().policies().count() == 1);
    let server = mesh.server.tap();
    let mut plain = mesh.connect_in_plaintext(mesh.app);
    plain.write_all(b"x").unwrap();
    plain.read_exact(&mut [0]).unwrap();
    let mut tunnelled = mesh.connect_to_service();
    tunnelled.write_all(b"x").unwrap();
    tunnelled.read_exact(&mut [0]).unwrap();
    // The exemption moves to another port.
    mesh.write(&strict_but(port(&mesh) ^ 1));
    assert!(read_all(&mut plain).is_empty());
    let cut = server.next(PATIENCE).unwrap();
    assert_eq!(cut["reason"], "policy_revoked", "{cut}");
    tunnelled.write_all(b"y").unwrap();
    tunnelled.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_selector_that_comes_to_a_workload_cuts_and_one_that_goes_lets_in_again() {
    let deny = "policies:\n- {name: gone, namespace: demo, scope: WorkloadSelector, action: Deny, \
                rules: [[[{principals: [{Exact: cluster.local/ns/demo/sa/client}]}]]]}\n";
    let mesh = Mesh::start(deny);
    let mut live = mesh.connect_to_service();
    live.write_all(b"x").unwrap();
    live.read_exact(&mut [0]).unwrap();
    let server = mesh.server.tap();
    mesh.list_with("demo/gone", deny);
    assert!(read_all(&mut live).is_empty());
    let cut = server.next(PATIENCE).unwrap();
    assert_eq!(cut["reason"], "policy_revoked", "{cut}");
    mesh.write(deny);
    mesh.server.until(|node| {
        let snapshot = node.snapshots.borrow();
        snapshot
            .workloads()
            .all(|w| w.authorization_policies.is_empty())
    });
    let mut again = mesh.connect_to_service();
    again.write_all(b"x").unwrap();
    again.read_exact(&mut [0]).unwrap();
}
