//! Any mesh and any question, against the rules in words and a search without indexes.

use super::*;
use mesh_model::{IpFamilies, Resource, ServiceName, SnapshotBuilder, Visibility};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const NAMESPACES: [&str; 3] = ["demo", "other", "svc"];
const LABELS: [&str; 7] = ["web", "demo", "other", "svc", "cluster", "local", "com"];

fn host() -> impl Strategy<Value = String> {
    let labels = vec(select(&LABELS[..]), 1..6).prop_map(|l| l.join("."));
    let of_cluster = (select(&LABELS[..]), select(&NAMESPACES[..]))
        .prop_map(|(a, b)| format!("{a}.{b}.svc.cluster.local"));
    let searched = (vec(select(&LABELS[..]), 1..4), select(&NAMESPACES[..]))
        .prop_map(|(l, n)| format!("{}.{n}.svc.cluster.local", l.join(".")));
    prop_oneof![labels, of_cluster, searched]
}

fn service() -> impl Strategy<Value = Service> {
    let vip = prop_oneof![
        Just("10.96.0.1"),
        Just("fd96::1"),
        Just("10.0.0.0/8"),
        Just("10.96.0.2")
    ];
    let families = select(vec![
        IpFamilies::Automatic,
        IpFamilies::V4Only,
        IpFamilies::V6Only,
    ]);
    let parts = (
        host(),
        any::<bool>(),
        select(&NAMESPACES[..]),
        vec((select(vec!["", "west"]), vip), 0..3),
        any::<[bool; 2]>(),
        families,
    );
    parts.prop_map(|(host, wild, namespace, vips, flags, families)| {
        let host = if wild { format!("*.{host}") } else { host };
        let mut service = Service::new(ServiceName::new(namespace, &host), "s");
        let vips = vips
            .into_iter()
            .map(|(n, v)| (n.into(), v.parse().unwrap()));
        service.vips = vips.collect();
        service.canonical = flags[0];
        if flags[1] {
            service.visibility = Visibility::Namespace;
        }
        service.ip_families = families;
        service
    })
}

/// Every name that the host may stand for, spelled out.
fn meant(host: &str, namespace: &str) -> Vec<String> {
    let full = |short: &str| {
        let count = short.split('.').count();
        let svc = count > 1 && short.ends_with(".svc");
        let mut names = vec![short.to_owned()];
        if count == 1 {
            names.push(format!("{short}.{namespace}.svc.cluster.local"));
        }
        if count == 2 {
            names.push(format!("{short}.svc.cluster.local"));
            names.push(format!("{short}.{namespace}.svc.cluster.local"));
        }
        if count == 3 {
            if svc {
                names.push(format!("{short}.cluster.local"));
            }
            names.push(format!("{short}.svc.cluster.local"));
        }
        if count == 4 && svc {
            names.push(format!("{short}.cluster.local"));
        }
        names
    };
    let mut all = full(host);
    for domain in [
        format!(".{namespace}.svc.cluster.local"),
        ".svc.cluster.local".to_owned(),
        ".cluster.local".to_owned(),
    ] {
        if let Some(short) = host.strip_suffix(&domain) {
            all.extend(full(short));
        }
    }
    all
}

/// The host names of services that a name may find, in order.
fn candidates(host: &str, namespace: &str) -> Vec<String> {
    let mut all = Vec::new();
    for name in meant(host, namespace) {
        all.push(name.clone());
        let labels: Vec<&str> = name.split('.').collect();
        for n in 1..labels.len() {
            all.push(format!("*.{}", labels[n..].join(".")));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_answer_is_that_of_a_search_without_indexes(
        services in vec(service(), 0..8),
        host in host(),
        namespace in select(&NAMESPACES[..]),
        network in select(vec!["", "west"]),
        six in any::<bool>(),
        preferred in proptest::option::of(select(&NAMESPACES[..])),
        seed in any::<u64>(),
    ) {
        let mut builder = SnapshotBuilder::new();
        for service in services {
            builder.upsert(Resource::Service(Arc::new(service)));
        }
        let mesh = builder.snapshot();
        let mut zone = Zone::new("cluster.local");
        zone.preferred_namespace = preferred.map(Arc::from);
        let kind = if six { RecordType::AAAA } else { RecordType::A };
        let client = Client { namespace, network };
        let name = Name::from_ascii(format!("{host}.")).unwrap();
        let question = (&name, kind, DNSClass::IN);
        let got = answer(&mesh, &zone, client, question, &mut Dice::seeded(seed));

        let seen = |s: &&Arc<Service>| {
            let host_vip = |(_, c): &(Arc<str>, Cidr)| c.prefix_length() >= 32 && c.prefix_length() != 104;
            let told = s.vips.iter().any(host_vip)
                || s.name.hostname.ends_with(".svc.cluster.local");
            told && (s.visibility == Visibility::Public || *s.name.namespace == *namespace)
        };
        let want = candidates(&host, namespace).into_iter().find_map(|candidate| {
            let mut of_name: Vec<_> = mesh.services().filter(seen)
                .filter(|s| *s.name.hostname == *candidate).collect();
            of_name.sort_by_key(|s| s.name.namespace.clone());
            let first = |f: &dyn Fn(&Service) -> bool| of_name.iter().find(|s| f(s)).copied();
            first(&|s| *s.name.namespace == *namespace)
                .or_else(|| first(&|s| Some(&*s.name.namespace) == preferred))
                .or_else(|| first(&|s| s.canonical))
                .or_else(|| first(&|_| true))
                .cloned()
        });
        match (got, want) {
            (Decision::Forward, None) => {}
            (Decision::Answer(got), Some(want)) => {
                prop_assert_eq!(&got.service.name, &want.name);
                let mut owner = name.clone();
                for record in &got.records {
                    prop_assert_eq!(record.ttl, 30);
                    prop_assert_eq!(&record.name, &owner);
                    match &record.data {
                        RData::CNAME(way) => {
                            prop_assert!(owner != way.0);
                            owner = way.0.clone();
                        }
                        data => {
                            let ip = data.ip_addr().unwrap();
                            prop_assert_eq!(ip.is_ipv6(), six);
                            prop_assert!(want.ip_families.allows(&ip));
                            prop_assert!(want.vips.contains(&(network.into(), Cidr::host(ip))));
                        }
                    }
                }
            }
            (got, want) => prop_assert!(false, "{got:?} instead of {want:?}"),
        }
    }

    #[test]
    fn no_name_panics(labels in vec(vec(any::<u8>(), 1..20), 0..8), kind in any::<u16>()) {
        let name = labels.iter().try_fold(Name::new(), |n, l| n.append_label(l.as_slice()));
        prop_assume!(name.is_ok());
        let name = name.unwrap();
        let mesh = SnapshotBuilder::new().snapshot();
        let client = Client { namespace: "demo", network: "" };
        let question = (&name, RecordType::from(kind), DNSClass::IN);
        let got = answer(&mesh, &Zone::new("x"), client, question, &mut Dice::seeded(1));
        prop_assert_eq!(got, Decision::Forward);
    }
}
