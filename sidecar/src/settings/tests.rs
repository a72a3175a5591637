//! Settings from arguments.

use super::*;

fn check(arguments: &[&str]) -> anyhow::Result<Settings> {
    let needed = ["sidecar", "--pod-name", "web-1", "--pod-namespace", "demo"];
    let command = Command::try_parse_from(needed.iter().chain(arguments))?;
    command.flags.check()
}

#[test]
fn a_sidecar_marks_its_packets_and_a_waypoint_does_not() {
    let settings = check(&[]).unwrap();
    assert_eq!(settings.proxy.mark, Some(PACKET_MARK));
    assert_eq!(
        settings.proxy.identity.to_string(),
        "spiffe://cluster.local/ns/demo/sa/default"
    );
    assert_eq!(settings.process.drain_deadline, Duration::from_secs(5));
    let waypoint = check(&["--role", "waypoint"]).unwrap();
    assert_eq!(waypoint.proxy.mark, None);
}

#[test]
fn all_mistakes_come_at_once() {
    let error = check(&[
        "--trust-domain",
        "a b",
        "--log-format",
        "xml",
        "--trace-sample-ratio",
        "2",
    ])
    .unwrap_err()
    .to_string();
    for part in ["identity", "LOG_FORMAT", "TRACE_SAMPLE_RATIO"] {
        assert!(error.contains(part), "{error}");
    }
    let nothing = Command::try_parse_from(["sidecar"]).unwrap();
    let error = nothing.flags.check().unwrap_err().to_string();
    assert!(error.contains("POD_NAME is needed"), "{error}");
    assert!(error.contains("POD_NAMESPACE is needed"), "{error}");
}

#[test]
fn the_redirection_has_flags_of_its_own() {
    let command = Command::try_parse_from(["sidecar", "init", "-b", "8080", "-x", "10.0.0.0/8"]);
    assert!(matches!(command.unwrap().task, Some(Task::Init(_))));
}
