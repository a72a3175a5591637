//! The builder against a naive rebuild, and the look-up rules.

use super::*;
use crate::{Cidr, ServicePort};
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
        prop_assert_eq!(got.workloads.by_address.len(), want.workloads.by_address.len());
        prop_assert_eq!(got.endpoints.by_service.len(), want.endpoints.by_service.len());
    }
}
