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
    assert_eq!(settings.process.drain_deadline, Duration::from_secs(5));
    assert!(matches!(
        settings.certificates,
        CertificateSource::Ca {
            impersonate: true,
            ..
        }
    ));
}

/// Istio's chart starts its image's program as `ztunnel proxy ztunnel`.
#[test]
fn the_words_of_istios_chart_are_taken_and_no_others() {
    for words in [&["proxy", "ztunnel"][..], &["proxy"]] {
        let all = [words, &["--pods", "/run/pods"]].concat();
        assert!(flags(&all).check().is_ok(), "{words:?}");
    }
    for words in [&["ztunel"][..], &["proxy", "ztunnel", "proxy"]] {
        let all = [&["ztunnel", "--pods", "/p"], words].concat();
        assert!(Flags::try_parse_from(all).is_err(), "{words:?}");
    }
}

#[test]
fn the_pods_come_from_one_place() {
    let source = |arguments: &[&str]| flags(arguments).check().map(|s| s.pods);
    let agent = source(&["--inpod-uds", "/run/zds"]).unwrap();
    assert!(matches!(agent, PodSource::Agent(path) if path == std::path::Path::new("/run/zds")));
    let known = source(&["--kubernetes-host", "10.0.0.1"]).unwrap();
    let default = std::path::Path::new("/var/run/ztunnel/ztunnel.sock");
    assert!(matches!(known, PodSource::Agent(path) if path == default));
    assert!(source(&["--inpod-uds", "/run/zds", "--pods", "/run/pods"]).is_err());
    assert!(source(&[]).is_err());
    let settings = flags(&["--inpod-uds", "/run/zds"]).check().unwrap();
    assert_eq!(
        (settings.proxy.mark, settings.proxy.port_reuse),
        (Some(1337), true)
    );
}

#[test]
fn a_throw_away_root_must_be_asked_for_and_is_never_for_a_node() {
    let settings = flags(&DEDICATED).check().unwrap();
    assert!(matches!(
        settings.certificates,
        CertificateSource::Ca { .. }
    ));
    assert_eq!(settings.proxy.mark, None);
    let asked = [&DEDICATED[..], &["--fake-ca", "true"]].concat();
    let settings = flags(&asked).check().unwrap();
    assert!(matches!(
        settings.certificates,
        CertificateSource::SelfSigned
    ));
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
