//! Pods of one process, judged by certificates of a real authority.

use super::*;
use mesh_testkit::TestCa;
use mesh_tls::{Revocations, TlsPolicy};
use std::time::Duration;
use tokio::sync::watch;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "demo", account).unwrap()
}

/// A certificate, and what replaces it.
fn held(
    certificate: WorkloadCertificate,
) -> (Held, watch::Sender<Option<Arc<WorkloadCertificate>>>) {
    let certificate = Arc::new(certificate);
    let (sender, successors) = watch::channel(Some(certificate.clone()));
    let held = Held {
        certificate,
        successors,
    };
    (held, sender)
}

fn is_pending(future: impl Future) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    pin!(future).poll(&mut cx).is_pending()
}

#[tokio::test]
async fn who_is_revoked_is_refused_and_what_lives_is_lost() {
    let ca = TestCa::new();
    let lists = Revocations::new(|_, _| {});
    let policy = TlsPolicy::new(lists.clone());
    let issue = |account| ca.workload_with(&id(account), ca.root_pem(), DAY, &policy);
    let (client, _client) = held(issue("client"));
    let (server, _server) = held(issue("server"));
    let trusts = Trusts::default();
    let trust = trusts.between(&client, &server).unwrap();
    let again = trusts.between(&client, &server).unwrap();
    assert!(Rc::ptr_eq(&trust, &again), "judged twice");
    assert!(is_pending(trust.lost()));

    for revoked in [&client, &server] {
        ca.revoke(&lists, &[revoked.certificate.serial()]);
        assert_eq!(trust.lost().await, Reason::CertRevoked);
        let refusal = trusts.between(&client, &server).err().unwrap();
        assert_eq!(refusal.reason, Reason::CertRevoked, "{}", refusal.detail);
    }
}

#[tokio::test]
async fn a_root_that_is_withdrawn_ends_what_lives_and_another_is_refused() {
    let (ca, other) = (TestCa::new(), TestCa::new());
    let (client, _client) = held(ca.workload(&id("client")));
    let (server, replace) = held(ca.workload(&id("server")));
    let trusts = Trusts::default();
    let trust = trusts.between(&client, &server).unwrap();
    // A renewed leaf of the same root is judged anew and changes nothing for those there.
    let renewed = Arc::new(ca.workload(&id("server")));
    replace.send_replace(Some(renewed.clone()));
    assert!(is_pending(trust.lost()));
    let successor = Held {
        certificate: renewed,
        successors: server.successors.clone(),
    };
    let anew = trusts.between(&client, &successor).unwrap();
    assert!(!Rc::ptr_eq(&trust, &anew), "the old certificate counts");

    let foreign = Arc::new(other.workload(&id("server")));
    replace.send_replace(Some(foreign.clone()));
    assert_eq!(trust.lost().await, Reason::PolicyRevoked);
    let foreign = Held {
        certificate: foreign,
        successors: server.successors,
    };
    let refusal = trusts.between(&client, &foreign).err().unwrap();
    assert_eq!(refusal.reason, Reason::TlsFailure, "{}", refusal.detail);
}
