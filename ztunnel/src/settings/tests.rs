//! What is taken, and every mistake that is told.

use super::*;

fn flags(arguments: &[&str]) -> Flags {
    Flags::try_parse_from([&["ztunnel"], arguments].concat()).unwrap()
}

const DEDICATED: [&str; 4] = ["--mode", "dedicated", "--workload", "demo/web-1/web"];

#[test]
fn a_node_has_a_folder_and_the_known_defaults() {
    let settings = flags(&["--pods", "/run/pods"]).check().unwrap();
    assert!(matches!(settings.pods, PodSource::Folder(_)));
    assert_eq!(settings.proxy.mark, Some(1337));
    assert!(settings.proxy.original_source && settings.proxy.response_baggage);
    assert_eq!(settings.drain_deadline, Duration::from_secs(5));
    assert!(matches!(
        settings.certificates,
        Certificates::Ca {
            impersonate: true,
            ..
        }
    ));
}

#[test]
fn a_throw_away_root_must_be_asked_for_and_is_never_for_a_node() {
    let settings = flags(&DEDICATED).check().unwrap();
    assert!(matches!(settings.certificates, Certificates::Ca { .. }));
    assert_eq!(settings.proxy.mark, None);
    let asked = [&DEDICATED[..], &["--fake-ca", "true"]].concat();
    let settings = flags(&asked).check().unwrap();
    assert!(matches!(settings.certificates, Certificates::SelfSigned));
    let node = flags(&["--pods", "/run/pods", "--fake-ca", "true"]);
    let error = node.check().unwrap_err().to_string();
    assert!(error.contains("FAKE_CA"), "{error}");
}

#[test]
fn every_mistake_is_told_at_once() {
    let bad = flags(&[
        "--mode",
        "dedicated",
        "--workload",
        "web",
        "--trust-domain",
        "a b",
        "--log-format",
        "xml",
        "--frame-bytes-max",
        "1",
    ]);
    let error = bad.check().unwrap_err().to_string();
    for part in [
        "PROXY_WORKLOAD_INFO",
        "TRUST_DOMAIN",
        "LOG_FORMAT",
        "FRAME_SIZE",
    ] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
}

#[test]
fn the_drain_is_as_long_as_the_grace_period_allows() {
    let with = |more: &[&str]| {
        let all = [&["--pods", "/run/pods"], more].concat();
        flags(&all).check().unwrap().drain_deadline
    };
    assert_eq!(
        with(&["--termination-grace-s", "30"]),
        Duration::from_secs(25)
    );
    let given = [
        "--termination-grace-s",
        "30",
        "--termination-deadline",
        "500ms",
    ];
    assert_eq!(with(&given), Duration::from_millis(500));
}

#[test]
fn texts_and_addresses_are_read_as_istio_writes_them() {
    assert_eq!(parts::with_scheme("istiod:15012"), "https://istiod:15012");
    assert_eq!(parts::with_scheme("http://x:1"), "http://x:1");
    assert_eq!(parts::duration("24h"), Ok(Duration::from_secs(86_400)));
    assert_eq!(parts::duration("7"), Ok(Duration::from_secs(7)));
    for bad in [
        "",
        "s",
        "1d",
        "-1s",
        "99999999999999999999s",
        "18446744073709551615h",
    ] {
        assert!(parts::duration(bad).is_err(), "{bad} was taken");
    }
}
