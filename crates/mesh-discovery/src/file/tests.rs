//! The file's form, its mistakes, and edits picked up while running.

use super::*;
use mesh_model::{AuthorizationPolicy, PolicyScope, ServiceName, StringMatch, TunnelProtocol};
use mesh_runtime::{Readiness, Scope};

const FILE: &str = r#"
workloads:
- uid: cluster1//v1/Pod/default/local
  name: local
  namespace: default
  serviceAccount: default
  workloadIps: ["127.0.0.1"]
  protocol: HBONE
  node: local
  network: ""
  services:
    "default/example.com":
      80: 8080
      "81": 8081
  authorizationPolicies: [default/only-a]
  waypoint:
    destination: default/waypoint.example.com
    hboneMtlsPort: 15008
- name: plain
  namespace: default
  workloadIps: ["127.0.0.2"]
  protocol: TCP
services:
- name: local
  namespace: default
  hostname: example.com
  vips: [/127.10.0.1, remote/127.10.0.2]
  ports:
    80: 8080
  subjectAltNames:
  - spiffe://cluster.local/ns/default/sa/local
policies:
- name: only-a
  namespace: default
  scope: WorkloadSelector
  action: Allow
  rules:
  - - - principals: [{Exact: cluster.local/ns/default/sa/a}, {Presence: []}]
        notDestinationPorts: [9999]
"#;

fn policy(resources: &[Resource]) -> AuthorizationPolicy {
    let policy = resources.iter().find_map(|r| match r {
        Resource::Policy(p) => Some((**p).clone()),
        _ => None,
    });
    policy.unwrap()
}

#[test]
fn the_form_is_read() {
    let resources = schema::parse(FILE).unwrap();
    assert_eq!(resources.len(), 4);
    let Resource::Workload(w) = &resources[0] else {
        panic!("no workload");
    };
    assert_eq!(w.protocol, TunnelProtocol::Hbone);
    let ports = &w.services[&ServiceName::new("default", "example.com")];
    assert_eq!((ports[0].service_port, ports[0].target_port), (80, 8080));
    assert_eq!((ports[1].service_port, ports[1].target_port), (81, 8081));
    assert!(w.waypoint.is_some());
    let policy = policy(&resources);
    assert_eq!(policy.scope, PolicyScope::WorkloadSelector);
    let m = &policy.rules[0].clauses[0].matches[0];
    assert_eq!(m.principals[1], StringMatch::Presence);
    assert_eq!(m.not_destination_ports, [9999]);
}

#[test]
fn a_services_families_and_visibility_are_read() {
    let text =
        "services: [{name: a, namespace: n, hostname: h, ipFamilies: IPv4, visibility: Namespace}]";
    let Resource::Service(s) = &schema::parse(text).unwrap()[0] else {
        panic!("no service");
    };
    assert_eq!(s.ip_families, mesh_model::IpFamilies::V4Only);
    assert!(s.visible_to("n") && !s.visible_to("m"));
}

#[test]
fn mistakes_are_named() {
    let with = |from: &str, to: &str| {
        assert!(FILE.contains(from), "{from}");
        schema::parse(&FILE.replacen(from, to, 1)).unwrap_err()
    };
    let error = with("serviceAccount: default", "serviceAcount: default");
    assert!(error.contains("serviceAcount"), "{error}");
    let error = with("/127.10.0.1", "127.10.0.1");
    assert!(
        error.contains("default/example.com") && error.contains("vips"),
        "{error}"
    );
    let error = with("80: 8080", "eighty: 8080");
    assert!(error.contains("eighty"), "{error}");
    let error = with(
        "name: plain",
        "uid: cluster1//v1/Pod/default/local\n  name: plain",
    );
    assert!(error.contains("twice"), "{error}");
    // Their keys could not be told from others, nor be removed.
    let error = with("hostname: example.com", "hostname: example.com/x");
    assert!(error.contains("hostname"), "{error}");
    let error = with("name: only-a", "name: only/a");
    assert!(error.contains("only/a"), "{error}");
}

#[test]
fn zero_and_empty_mean_what_they_mean_on_the_wire() {
    let text = FILE
        .replace("hboneMtlsPort: 15008", "hboneMtlsPort: 0")
        .replace("uid: cluster1//v1/Pod/default/local", "uid: \"\"")
        .replace("127.0.0.2", "::ffff:127.0.0.2");
    let resources = schema::parse(&text).unwrap();
    let (Resource::Workload(local), Resource::Workload(plain)) = (&resources[0], &resources[1])
    else {
        panic!("no workloads");
    };
    let waypoint = local.waypoint.as_ref().unwrap();
    assert_eq!(waypoint.hbone_port, mesh_model::PORT_HBONE);
    assert_eq!(&*local.uid.0, "local//Pod/default/local");
    assert_eq!(plain.address(), Some([127, 0, 0, 2].into()));
}

#[tokio::test]
async fn edits_are_followed_and_a_broken_file_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.yaml");
    std::fs::write(&path, FILE).unwrap();
    let (scope, readiness) = (Scope::new(), Readiness::new());
    let gate = readiness.gate("discovery");
    let source = crate::Source::LocalFile(path.clone());
    let mut discovery = crate::start(source, &scope, gate);
    let of = |n: usize| move |s: &std::sync::Arc<mesh_model::Snapshot>| s.workloads().count() == n;
    discovery.snapshots.wait_for(of(2)).await.unwrap();
    assert!(readiness.is_ready());

    std::fs::write(&path, "workloads: [{").unwrap();
    let failed = |s: &std::sync::Arc<crate::DiscoveryStatus>| s.last_error.is_some();
    discovery.status.wait_for(failed).await.unwrap();
    assert_eq!(discovery.snapshots.borrow().workloads().count(), 2);

    let less = FILE.replace(
        "- name: plain\n  namespace: default\n  workloadIps: [\"127.0.0.2\"]\n  protocol: TCP\n",
        "",
    );
    std::fs::write(&path, less).unwrap();
    discovery.snapshots.wait_for(of(1)).await.unwrap();
    assert!(discovery.status.borrow().last_error.is_none());
    scope.cancel();
}
