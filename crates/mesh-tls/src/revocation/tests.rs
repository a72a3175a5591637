//! Lists in files, in handshakes of both roles, and over live connections.

use super::*;
use crate::testing::{TestCa, handshake, pair_of};
use crate::{CertificateReceiver, PeerTrust, TlsError, TlsPolicy, WorkloadCertificate};
use mesh_model::Reason;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Mutex;

const SERVER: &str = "spiffe://cluster.local/ns/demo/sa/server";
const CLIENT: &str = "spiffe://cluster.local/ns/demo/sa/client";

type Events = Arc<Mutex<Vec<(RevocationEvent, PeerSide)>>>;

fn counted() -> (TlsPolicy, Revocations, Events) {
    let events = Events::default();
    let into = events.clone();
    let lists = Revocations::new(move |event, side| into.lock().unwrap().push((event, side)));
    (TlsPolicy::new(lists.clone()), lists, events)
}

fn files(path: &Path) -> RevocationFiles {
    let mut files = RevocationFiles::new(path.to_owned());
    assert_eq!(files.refresh().broken, []);
    files
}

fn put(lists: &Revocations, pem: &str) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("crl.pem"), pem).unwrap();
    lists.replace(&files(folder.path()));
}

fn receiver(of: &Arc<WorkloadCertificate>) -> CertificateReceiver {
    watch::channel(Some(of.clone())).1
}

#[tokio::test]
async fn a_revoked_client_or_server_is_refused_by_name_and_counted() {
    let ca = TestCa::new("root");
    let (policy, lists, events) = counted();
    let server = Arc::new(ca.workload_with(SERVER, &policy));
    let client = Arc::new(ca.workload_with(CLIENT, &policy));
    put(&lists, &ca.crl(&["01"]));
    let (accepted, connected) = pair_of(&server, &client).await;
    assert!(accepted.is_ok() && connected.is_ok(), "on no list");

    put(&lists, &ca.crl(&[client.serial()]));
    let error = pair_of(&server, &client).await.0.unwrap_err();
    assert!(matches!(error, TlsError::Revoked { .. }), "{error}");
    assert!(error.to_string().contains(CLIENT), "{error}");
    assert_eq!(error.reason(), Reason::CertRevoked);

    put(&lists, &ca.crl(&[server.serial()]));
    let error = pair_of(&server, &client).await.1.unwrap_err();
    assert!(matches!(error, TlsError::Revoked { .. }), "{error}");
    let rejected = |side| (RevocationEvent::Rejected, side);
    assert_eq!(
        *events.lock().unwrap(),
        [rejected(PeerSide::Client), rejected(PeerSide::Server)]
    );
}

#[tokio::test]
async fn a_list_of_another_authority_or_an_old_one_changes_nothing_or_still_counts() {
    let (ca, other) = (TestCa::new("root"), TestCa::new("other"));
    let (policy, lists, _) = counted();
    let server = Arc::new(ca.workload_with(SERVER, &policy));
    let client = Arc::new(ca.workload_with(CLIENT, &policy));
    put(&lists, &other.crl(&[client.serial(), server.serial()]));
    let (accepted, connected) = pair_of(&server, &client).await;
    assert!(accepted.is_ok() && connected.is_ok());
    // Two lists in one text, the one that matters past its next update.
    let text = other.crl(&[]) + &ca.old_crl(&[client.serial()]);
    put(&lists, &text);
    let error = pair_of(&server, &client).await.0.unwrap_err();
    assert!(matches!(error, TlsError::Revoked { .. }), "{error}");
}

#[tokio::test]
async fn a_live_connection_is_lost_when_its_peer_is_revoked_and_only_then() {
    let ca = TestCa::new("root");
    let (policy, lists, events) = counted();
    let server = Arc::new(ca.workload_with(SERVER, &policy));
    let client = Arc::new(ca.workload_with(CLIENT, &policy));
    let (accepted, connected) = handshake(&server, &client).await;
    let at_server = PeerTrust::new(accepted, server.clone(), receiver(&server));
    let at_client = PeerTrust::new(connected, client.clone(), receiver(&client));
    let mut lost = Box::pin(at_server.lost());
    put(&lists, &ca.crl(&["01"]));
    tokio::select! {
        biased;
        reason = &mut lost => panic!("{reason}"),
        () = tokio::task::yield_now() => {}
    }
    put(&lists, &ca.crl(&[client.serial()]));
    assert_eq!(lost.await, Reason::CertRevoked);
    // Others that wait for the same are told too; it is one rejection.
    assert_eq!(at_server.stale().await, Reason::CertRevoked);
    put(&lists, &ca.crl(&[server.serial()]));
    assert_eq!(at_client.lost().await, Reason::CertRevoked);
    let rejected = |side| (RevocationEvent::Rejected, side);
    assert_eq!(
        *events.lock().unwrap(),
        [rejected(PeerSide::Client), rejected(PeerSide::Server)]
    );
}

#[tokio::test]
async fn trust_is_lost_with_a_root_and_stale_with_the_peers_certificate() {
    let (ca, other) = (TestCa::new("root"), TestCa::new("other"));
    let server = Arc::new(ca.workload(SERVER));
    let client = Arc::new(ca.workload(CLIENT));
    let (peer, _) = handshake(&server, &client).await;
    let (sender, certificates) = watch::channel(Some(server.clone()));
    let trust = PeerTrust::new(peer, server.clone(), certificates);
    let mut lost = Box::pin(trust.lost());
    for harmless in [None, Some(ca.workload(SERVER))] {
        sender.send_replace(harmless.map(Arc::new));
        tokio::select! {
            biased;
            reason = &mut lost => panic!("{reason}"),
            () = tokio::task::yield_now() => {}
        }
    }
    sender.send_replace(Some(Arc::new(other.workload(SERVER))));
    assert_eq!(lost.await, Reason::PolicyRevoked);

    let mut leaf = crate::testing::Leaf::of(vec![crate::testing::uri(CLIENT)]);
    leaf.to = std::time::SystemTime::now() + std::time::Duration::from_secs(2);
    let soon_over = Arc::new(ca.workload_of(CLIENT, leaf));
    let (peer, _) = handshake(&server, &soon_over).await;
    let trust = PeerTrust::new(peer, server.clone(), receiver(&server));
    assert_eq!(trust.stale().await, Reason::TlsFailure);
}

#[test]
fn a_mounted_folder_is_followed_through_its_links_and_a_broken_file_keeps_what_it_had() {
    let ca = TestCa::new("root");
    let mount = tempfile::tempdir().unwrap();
    let at = |name: &str| mount.path().join(name);
    for (version, text) in [
        ("..1", ca.crl(&["01"])),
        ("..2", ca.crl(&["02"]) + &ca.crl(&["03"])),
    ] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("ca-crl.pem"), text).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/ca-crl.pem", at("ca-crl.pem")).unwrap();
    for path in [mount.path().to_owned(), at("ca-crl.pem")] {
        let mut files = files(&path);
        assert_eq!((files.len(), files.broken()), (1, 0));
        assert_eq!(files.refresh(), Refreshed::default(), "nothing new");
        swap(&at("..data"), "..2");
        assert!(files.refresh().changed);
        assert_eq!(files.len(), 2);

        fs::create_dir_all(at("..3")).unwrap();
        fs::write(
            at("..3").join("ca-crl.pem"),
            "-----BEGIN X509 CRL-----\n!\n",
        )
        .unwrap();
        swap(&at("..data"), "..3");
        let refreshed = files.refresh();
        assert!(!refreshed.changed);
        assert_eq!(refreshed.broken[0].0, at("ca-crl.pem"));
        assert_eq!((files.len(), files.broken()), (2, 1));
        assert_eq!(files.refresh(), Refreshed::default(), "told once");

        swap(&at("..data"), "..1");
        assert!(files.refresh().changed);
        assert_eq!((files.len(), files.broken()), (1, 0));
    }
}

fn swap(link: &Path, target: &str) {
    let next = link.with_file_name("..next");
    symlink(target, &next).unwrap();
    fs::rename(next, link).unwrap();
}

#[test]
fn files_come_and_go_and_what_is_no_list_is_told() {
    let ca = TestCa::new("root");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lists");
    let mut files = files(&path);
    assert!(files.is_empty());
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.pem"), ca.crl(&["01"])).unwrap();
    fs::write(path.join("empty"), "\n").unwrap();
    assert!(files.refresh().changed);
    assert_eq!(files.len(), 1);
    fs::write(path.join("b.pem"), &ca.pem).unwrap();
    let refreshed = files.refresh();
    assert_eq!(refreshed.broken[0].0, path.join("b.pem"));
    assert!(refreshed.broken[0].1.contains("no X509 CRL"));
    fs::remove_file(path.join("a.pem")).unwrap();
    assert!(files.refresh().changed);
    assert!(files.is_empty());
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_lists_or_refused(mut bytes in proptest::collection::vec(0u8.., 0..300), der: bool) {
        if let (true, Some(first)) = (der, bytes.first_mut()) {
            *first = 0x30;
        }
        drop(read(&bytes));
    }
}
