//! The program itself: what it refuses to start with, that it becomes ready, and how it ends.

#[cfg(test)]
mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use support::{Running, free, get, until, ztunnel};

#[test]
fn settings_that_make_no_sense_are_refused_all_at_once() {
    let output = ztunnel()
        .env("PROXY_MODE", "dedicated")
        .env("PROXY_WORKLOAD_INFO", "no-slashes")
        .env("TRUST_DOMAIN", "not a domain")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("PROXY_WORKLOAD_INFO"), "{error}");
    assert!(error.contains("TRUST_DOMAIN"), "{error}");

    let output = ztunnel().env("FAKE_CA", "true").output().unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("--pods") && error.contains("FAKE_CA"),
        "{error}"
    );
}

#[test]
fn a_dedicated_proxy_becomes_ready_shows_its_pages_and_ends_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.yaml");
    let process = std::process::id().to_le_bytes();
    let ip = format!("127.{}.{}.250", process[0] | 1, process[1]);
    std::fs::write(
        &file,
        format!(
            "workloads:\n- {{name: web-1, namespace: demo, serviceAccount: web, \
             workloadIps: [\"{ip}\"], protocol: HBONE}}\n"
        ),
    )
    .unwrap();
    let mut command = ztunnel();
    command
        .env("PROXY_MODE", "dedicated")
        .env("PROXY_WORKLOAD_INFO", "demo/web-1/web")
        .env("FAKE_CA", "true")
        .env("LOCAL_XDS_PATH", &file)
        .env("BIND_ADDRESS", &ip);
    let proxy = Running::start(command);
    until("readiness", || proxy.ready());
    until("the certificate", || {
        let dump = get(proxy.admin, "/config_dump").unwrap();
        dump.contains("\"state\": \"Available\"")
    });
    let metrics = get(proxy.metrics, "/stats/prometheus").unwrap();
    assert!(metrics.contains("istio_build"), "{metrics}");
    TcpStream::connect(format!("{ip}:15008")).unwrap();
    assert!(proxy.terminate(), "it did not end in order");
}

#[test]
fn a_node_without_its_folder_says_so_and_becomes_ready_when_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let (file, pods) = (folder.path().join("mesh.yaml"), folder.path().join("pods"));
    std::fs::write(&file, "workloads: []\n").unwrap();
    let mut command = ztunnel();
    command
        .arg("--pods")
        .arg(&pods)
        .env("LOCAL_XDS_PATH", &file)
        // Nobody listens there; a node without pods needs no certificate.
        .env("CA_ADDRESS", format!("https://{}", free()));
    let mut proxy = Running::start(command);
    until("the page", || {
        get(proxy.readiness, "/healthz/ready").is_some()
    });
    until("discovery", || {
        let answer = get(proxy.readiness, "/healthz/ready").unwrap();
        answer.starts_with("HTTP/1.1 503") && answer.contains("not ready: pods\n")
    });
    let log = proxy.child.stdout.take().unwrap();
    std::fs::create_dir(&pods).unwrap();
    until("readiness", || proxy.ready());
    // A pod whose namespace does not exist is no reason not to serve the others.
    std::fs::write(
        pods.join("a.yaml"),
        "{uid: a, name: a, namespace: demo, serviceAccount: a, netns: /nonexistent}",
    )
    .unwrap();
    until("the pending pod", || {
        let metrics = get(proxy.metrics, "/metrics").unwrap();
        metrics.contains("workload_manager_pending_proxy_count 1")
    });
    assert!(proxy.ready());
    assert!(proxy.terminate(), "it did not end in order");
    let lines: Vec<String> = BufReader::new(log).lines().map_while(Result::ok).collect();
    let told = |part: &str| lines.iter().any(|l| l.contains(part));
    assert!(told("the pods cannot be read"), "{lines:#?}");
    assert!(told("/nonexistent"), "{lines:#?}");
}
