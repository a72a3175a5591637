//! What is scraped, against the table of interop/telemetry.md sections 1 to 3: names and label sets.
//! Families that have no series before something happens (`istio_xds_*`) are tested where it does.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// The labels of every TCP family (section 2).
const TRAFFIC: [&str; 26] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_canonical_service",
    "source_canonical_revision",
    "source_region",
    "source_zone",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_region",
    "destination_zone",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "connection_security_policy",
];

/// Family, its labels beside those of traffic when it has these, whether it has these.
const TABLE: [(&str, &[&str], bool); 17] = [
    ("istio_build", &["component", "tag"], false),
    (
        "istio_tcp_connections_opened_total",
        &["response_flags"],
        true,
    ),
    // `reason` is ours: more labels are harmless, missing ones are not.
    (
        "istio_tcp_connections_closed_total",
        &["response_flags", "reason"],
        true,
    ),
    (
        "istio_tcp_connections_failed_total",
        &["response_flags", "reason"],
        true,
    ),
    ("istio_tcp_sent_bytes_total", &["response_flags"], true),
    ("istio_tcp_received_bytes_total", &["response_flags"], true),
    ("istio_tcp_sockets_open", &["reporter"], false),
    ("workload_manager_active_proxy_count", &[], false),
    ("workload_manager_pending_proxy_count", &[], false),
    ("workload_manager_proxies_started_total", &[], false),
    ("workload_manager_proxies_stopped_total", &[], false),
    ("process_open_fds", &[], false),
    ("process_max_fds", &[], false),
    ("process_resident_memory_bytes", &[], false),
    ("process_cpu_seconds_total", &[], false),
    ("strata_log_records_dropped_total", &[], false),
    ("strata_policy_dry_run_denied_total", &[], false),
];

const FLAGS: [&str; 8] = [
    "-",
    "DENY",
    "CONNECT",
    "TLS_FAILURE",
    "H2_HANDSHAKE_FAILURE",
    "NETWORK_POLICY",
    "IDENTITY_ERROR",
    "CERT_REVOKED",
];

/// Names and values of the labels of a line; values hold neither comma nor quote here.
fn labels(line: &str) -> BTreeMap<&str, &str> {
    let Some((_, rest)) = line.split_once('{') else {
        return BTreeMap::new();
    };
    let (inside, _) = rest.rsplit_once('}').unwrap();
    inside
        .split(',')
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (name, value.trim_matches('"')))
        .collect()
}

fn check(text: &str) {
    let mut seen: BTreeMap<&str, BTreeSet<BTreeSet<&str>>> = BTreeMap::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let labels = labels(line);
        if let Some(flag) = labels.get("response_flags") {
            assert!(FLAGS.contains(flag), "{line}");
        }
        let names = labels.into_keys().collect();
        seen.entry(name).or_default().insert(names);
    }
    for (family, more, traffic) in TABLE {
        let mut want: BTreeSet<&str> = more.iter().copied().collect();
        if traffic {
            want.extend(TRAFFIC);
        }
        let want = BTreeSet::from([want]);
        assert_eq!(seen.get(family), Some(&want), "{family}\n{text}");
    }
}

#[test]
fn a_scrape_has_the_names_and_labels_of_the_table() {
    let mesh = Mesh::start("");
    let (client, server) = (mesh.client.tap(), mesh.server.tap());
    let mut stream = mesh.connect_to_service();
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    read_all(&mut stream);
    assert_eq!(client.next(PATIENCE).unwrap()["reason"], "ok");
    assert_eq!(server.next(PATIENCE).unwrap()["reason"], "ok");
    mesh.write(
        "policies:\n- {name: nobody, namespace: demo, scope: Namespace, action: Allow, rules: []}\n",
    );
    mesh.server
        .until(|node| node.snapshots.borrow().policies().count() == 1);
    read_all(&mut mesh.connect_to_service());
    read_all(&mut mesh.connect_in_plaintext(mesh.app));
    for tap in [&client, &server, &server] {
        assert_ne!(tap.next(PATIENCE).unwrap()["reason"], "ok");
    }
    for at in [mesh.client.addresses, mesh.server.addresses] {
        let answer = http_get(at.metrics, "/stats/prometheus");
        let (_, text) = answer.split_once("\r\n\r\n").unwrap();
        check(text);
    }
    let text = mesh.server.node.metrics.encode();
    let denied = text.lines().find(|l| {
        l.starts_with("istio_tcp_connections_failed_total")
            && l.contains(r#"response_flags="DENY""#)
            && l.contains(r#"connection_security_policy="unknown""#)
    });
    assert!(denied.is_some_and(|l| l.ends_with(" 1")), "{text}");
}
