//! The builder against a naive rebuild, and the look-up rules.

use super::*;
use crate::{Cidr, ResourceKind, ServicePort};
use proptest::prelude::*;

fn workload(n: u8, service: u8) -> Arc<Workload> {
    let mut w = Workload::new(&format!("uid-{n}"), "demo", &format!("pod-{n}"));
    w.addresses = vec![IpAddr::from([10, 0, 0, n % 4])];
    w.services.insert(service_name(service), vec![port()]);
    Arc::new(w)
}

fn port() -> ServicePort {
    ServicePort {
        service_port: 80,
        target_port: 8080,
        app_protocol: crate::AppProtocol::Unknown,
    }
}

fn service_name(n: u8) -> ServiceName {
    ServiceName::new(
        if n.is_multiple_of(2) { "demo" } else { "other" },
        "shop.example",
    )
}

fn service(n: u8, canonical: bool) -> Arc<Service> {
    let mut s = Service::new(service_name(n), "shop");
    s.vips = vec![("".into(), Cidr::host(IpAddr::from([10, 96, 0, 1])))];
    s.canonical = canonical;
    Arc::new(s)
}

#[test]
fn the_clients_namespace_wins_then_the_canonical_service() {
    let mut b = SnapshotBuilder::new();
    b.upsert(Resource::Service(service(0, false)));
    b.upsert(Resource::Service(service(1, true)));
    let s = b.snapshot();
    let vip = IpAddr::from([10, 96, 0, 1]);
    assert_eq!(s.service_at("", vip, "demo").unwrap().name, service_name(0));
    assert_eq!(
        s.service_at("", vip, "third").unwrap().name,
        service_name(1)
    );
    assert!(s.service_at("west", vip, "demo").is_none());
    assert_eq!(
        s.service_by_hostname("SHOP.example", "demo").unwrap().name,
        service_name(0)
    );
}

#[test]
fn a_service_of_its_namespace_alone_is_not_there_for_others() {
    let mut own = Service::clone(&service(0, true));
    own.visibility = crate::Visibility::Namespace;
    let vip = IpAddr::from([10, 96, 0, 1]);
    let mut range = Service::new(ServiceName::new("other", "range.example"), "range");
    range.vips = vec![("".into(), "10.96.0.0/16".parse().unwrap())];
    let mut b = SnapshotBuilder::new();
    b.upsert(Resource::Service(Arc::new(own)));
    b.upsert(Resource::Service(Arc::new(range)));
    let s = b.snapshot();
    let seen = |from| s.visible_service_at("", vip, from).map(|s| s.name.clone());
    assert_eq!(seen("demo"), Some(service_name(0)));
    // What is hidden does not hide the range around it.
    assert_eq!(
        seen("third"),
        Some(ServiceName::new("other", "range.example"))
    );
    assert_eq!(
        s.service_at("", vip, "third").unwrap().name,
        service_name(0)
    );
}

#[test]
fn a_missing_policy_is_named() {
    let mut w = Workload::new("u", "demo", "p");
    let name = ObjectName::new("demo", "gone");
    w.authorization_policies.push(name.clone());
    let set = SnapshotBuilder::new().snapshot().policies_for(&w);
    assert_eq!(set.missing, vec![name]);
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Drop(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..8u8, 0..4u8).prop_map(|(n, s)| Step::Put(n, s)),
        (0..8u8).prop_map(Step::Drop)
    ]
}

proptest! {
    /// After any history the indexes equal those of a fresh build of what is left.
    #[test]
    fn indexes_equal_a_fresh_build(steps in proptest::collection::vec(step(), 0..40)) {
        let mut builder = SnapshotBuilder::new();
        let mut left: BTreeMap<u8, Arc<Workload>> = BTreeMap::new();
        for s in steps {
            match s {
                Step::Put(n, service) => {
                    let w = workload(n, service);
                    builder.upsert(Resource::Workload(w.clone()));
                    left.insert(n, w);
                }
                Step::Drop(n) => {
                    let name = format!("uid-{n}").into();
                    builder.remove(&ResourceKey { kind: ResourceKind::Workload, name });
                    left.remove(&n);
                }
            }
        }
        let got = builder.snapshot();
        let mut fresh = SnapshotBuilder::new();
        for w in left.into_values() {
            fresh.upsert(Resource::Workload(w));
        }
        let want = fresh.snapshot();
        prop_assert_eq!(got.resources(), want.resources());
        for n in 0..4u8 {
            let ip = IpAddr::from([10, 0, 0, n]);
            prop_assert_eq!(got.workload_at("", ip), want.workload_at("", ip));
            let name = service_name(n);
            let a: Vec<_> = got.endpoints(&name).collect();
            let b: Vec<_> = want.endpoints(&name).collect();
            prop_assert_eq!(a, b);
        }
        prop_assert_eq!(got.workloads.by_address.size(), want.workloads.by_address.size());
        prop_assert_eq!(got.endpoints.by_service.size(), want.endpoints.by_service.size());
    }
}

fn scoped(n: u8, namespace: &str, scope: PolicyScope) -> Arc<AuthorizationPolicy> {
    let name = ObjectName::new(namespace, format!("p{n}"));
    Arc::new(AuthorizationPolicy::unreadable(name, scope, ""))
}

fn any_scope() -> impl Strategy<Value = PolicyScope> {
    proptest::sample::select(vec![
        PolicyScope::Global,
        PolicyScope::Namespace,
        PolicyScope::WorkloadSelector,
        PolicyScope::Targets,
    ])
}

proptest! {
    /// After any history, what applies to a workload is what a search through all policies finds.
    #[test]
    fn scopes_apply_as_a_search_finds_them(
        steps in proptest::collection::vec((0..6u8, any::<bool>(), any_scope(), 0..5u8), 0..40),
        listed in proptest::collection::vec((0..6u8, any::<bool>()), 0..4),
    ) {
        let namespace = |own: bool| if own { "demo" } else { "root" };
        let mut builder = SnapshotBuilder::new();
        let mut all: BTreeMap<ObjectName, Arc<AuthorizationPolicy>> = BTreeMap::new();
        for (n, own, scope, drop) in steps {
            let policy = scoped(n, namespace(own), scope);
            if drop == 0 {
                builder.remove(&Resource::Policy(policy.clone()).key());
                all.remove(&policy.name);
            } else {
                builder.upsert(Resource::Policy(policy.clone()));
                all.insert(policy.name.clone(), policy);
            }
        }
        let mut workload = Workload::new("u", "demo", "w");
        let names: std::collections::BTreeSet<ObjectName> = listed
            .into_iter()
            .map(|(n, own)| ObjectName::new(namespace(own), format!("p{n}")))
            .collect();
        workload.authorization_policies = names.iter().cloned().collect();
        let set = builder.snapshot().policies_for(&workload);
        let applies = |p: &&Arc<AuthorizationPolicy>| match p.scope {
            PolicyScope::Global => true,
            PolicyScope::Namespace => &*p.name.namespace == "demo",
            PolicyScope::WorkloadSelector => names.contains(&p.name),
            PolicyScope::Targets => false,
        };
        let mut got: Vec<ObjectName> = set.policies.iter().map(|p| p.name.clone()).collect();
        got.sort();
        let want: Vec<ObjectName> = all.values().filter(applies).map(|p| p.name.clone()).collect();
        prop_assert_eq!(got, want);
        let missing: Vec<ObjectName> = names.into_iter().filter(|n| !all.contains_key(n)).collect();
        prop_assert_eq!(set.missing, missing);
    }
}

/// A change copies a path, not the state: what it does not touch is the same allocation before and
/// after.
#[test]
fn successive_snapshots_share_what_has_not_changed() {
    let mut b = SnapshotBuilder::new();
    for n in 0..200 {
        b.upsert(Resource::Workload(workload(n, n % 4)));
    }
    let before = b.snapshot();
    b.upsert(Resource::Workload(workload(7, 2)));
    let after = b.snapshot();
    let at = |s: &Snapshot, n: u8| s.workload(&WorkloadUid(format!("uid-{n}").into())).cloned();
    for n in (0..200).filter(|n| *n != 7) {
        assert!(Arc::ptr_eq(
            &at(&before, n).unwrap(),
            &at(&after, n).unwrap()
        ));
    }
    assert!(Arc::ptr_eq(&before.services, &after.services));
    assert!(before.same_policies(&after));
    // The snapshot that was handed out has not moved.
    let of = |s: &Snapshot| s.endpoints(&service_name(2)).count();
    assert_eq!((of(&before), of(&after)), (100, 101));
}
