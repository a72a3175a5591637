//! Policies that cannot be read: what becomes of them with each setting of `POLICY_COMPATIBILITY`.

use super::*;

#[tokio::test]
async fn a_new_policy_that_cannot_be_read_denies_until_it_is_mended() {
    let mut world = World::start();
    let mut session = world.settled().await;
    let refused = response(TYPE_AUTHORIZATION, "1", vec![broken_policy()]);
    let answer = session.respond(refused).await;
    assert!(answer.error_detail.unwrap().message.contains("action"));
    let snapshot = world.until(|s| s.policies().count() == 1).await;
    let stand_in = snapshot.policies().next().unwrap();
    assert_eq!(stand_in.action, Action::Deny);
    assert!(stand_in.invalid.is_some());
    session
        .respond(response(
            TYPE_AUTHORIZATION,
            "2",
            vec![policy(Action::Allow)],
        ))
        .await;
    world
        .until(|s| {
            s.policies()
                .any(|p| p.action == Action::Allow && p.invalid.is_none())
        })
        .await;
}

/// A policy of which one of two source ranges has an address of one byte.
fn bad_range() -> WireResource {
    let good = security::Address {
        address: vec![10, 0, 0, 0],
        length: 8,
    };
    let bad = security::Address {
        address: vec![1],
        length: 8,
    };
    let m = security::Match {
        source_ips: vec![good, bad],
        ..security::Match::default()
    };
    let message = security::Authorization {
        name: "p".into(),
        namespace: "demo".into(),
        scope: security::Scope::Namespace.into(),
        action: security::Action::Allow.into(),
        groups: vec![security::Group {
            rules: vec![security::Rules { matches: vec![m] }],
        }],
        ..security::Authorization::default()
    };
    broken(TYPE_AUTHORIZATION, "demo/p", message.encode_to_vec())
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_denies_or_with_the_switch_is_left_out() {
    let mut strict = World::start();
    let mut session = strict.settled().await;
    let sent = response(TYPE_AUTHORIZATION, "1", vec![bad_range()]);
    let answer = session.respond(sent.clone()).await;
    let refusal = answer.error_detail.unwrap().message;
    assert!(refusal.contains("source_ips"), "{refusal}");
    let snapshot = strict.until(|s| s.policies().count() == 1).await;
    assert_eq!(snapshot.policies().next().unwrap().action, Action::Deny);

    let mut istio = World::start_with(PolicyCompatibility::Istio);
    let mut session = istio.settled().await;
    let answer = session.respond(sent).await;
    assert_eq!(answer.error_detail, None, "the peer takes it");
    let snapshot = istio.until(|s| s.policies().count() == 1).await;
    let taken = snapshot.policies().next().unwrap();
    assert_eq!(taken.action, Action::Allow);
    assert_eq!(taken.rules[0].clauses[0].matches[0].source_ips.len(), 1);
    assert!(taken.invalid.is_some(), "it is told of");
}

#[tokio::test]
async fn with_the_switch_a_new_policy_that_is_refused_is_not_there() {
    let mut world = World::start_with(PolicyCompatibility::Istio);
    let mut session = world.settled().await;
    let refused = response(TYPE_AUTHORIZATION, "1", vec![broken_policy()]);
    let answer = session.respond(refused).await;
    assert!(answer.error_detail.unwrap().message.contains("action"));
    let mut listed = Workload::new("a", "demo", "a");
    listed.authorization_policies = vec![ObjectName::new("demo", "q")];
    let listed = wire(&Resource::Workload(Arc::new(listed)), "v1");
    session
        .respond(response(TYPE_ADDRESS, "2", vec![listed]))
        .await;
    let snapshot = world.until(|s| has(s, "a")).await;
    assert_eq!(snapshot.policies().count(), 0);
    let workload = snapshot.workload(&WorkloadUid("a".into())).unwrap();
    let set = snapshot.policies_for(workload);
    assert_eq!(set.compatibility, PolicyCompatibility::Istio);
    assert_eq!(set.missing.len(), 1, "still told of");
}
