//! One question after another to a small mesh.

use super::*;
use mesh_model::{IpFamilies, Resource, ServiceName, SnapshotBuilder, Visibility};

fn service(namespace: &str, hostname: &str, vips: &[&str]) -> Service {
    let mut service = Service::new(ServiceName::new(namespace, hostname), hostname);
    service.vips = vips
        .iter()
        .map(|vip| match vip.split_once('@') {
            Some((network, vip)) => (network.into(), vip.parse().unwrap()),
            None => ("".into(), vip.parse().unwrap()),
        })
        .collect();
    service
}

fn endpoint(n: u8, of: &Service, addresses: &[&str]) -> Workload {
    let mut workload = Workload::new(&format!("uid-{n}"), &of.name.namespace, &format!("pod-{n}"));
    workload.addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
    workload.services.insert(of.name.clone(), Vec::new());
    workload
}

fn snapshot(services: Vec<Service>, workloads: Vec<Workload>) -> Arc<Snapshot> {
    let mut builder = SnapshotBuilder::new();
    for service in services {
        builder.upsert(Resource::Service(Arc::new(service)));
    }
    for workload in workloads {
        builder.upsert(Resource::Workload(Arc::new(workload)));
    }
    builder.snapshot()
}

fn zone() -> Zone {
    Zone::new("cluster.local.")
}

fn ask_as(
    snapshot: &Snapshot,
    zone: &Zone,
    client: (&str, &str),
    name: &str,
    kind: RecordType,
) -> Option<Vec<String>> {
    let (namespace, network) = client;
    let client = Client { namespace, network };
    let name = Name::from_ascii(name).unwrap();
    let question = (&name, kind, DNSClass::IN);
    match answer(snapshot, zone, client, question, &mut Dice::seeded(1)) {
        Decision::Forward => None,
        Decision::Answer(answer) => Some(answer.records.iter().map(short).collect()),
    }
}

/// `owner data`, without the dots at the ends.
fn short(record: &Record) -> String {
    assert_eq!(record.ttl, 30);
    let text = format!("{} {}", record.name, record.data);
    text.replace(". ", " ").trim_end_matches('.').to_owned()
}

fn ask(snapshot: &Snapshot, name: &str, kind: RecordType) -> Option<Vec<String>> {
    ask_as(snapshot, &zone(), ("demo", ""), name, kind)
}

fn a(snapshot: &Snapshot, name: &str) -> Option<Vec<String>> {
    ask(snapshot, name, RecordType::A)
}

fn web() -> Service {
    service(
        "demo",
        "web.demo.svc.cluster.local",
        &["10.96.0.1", "fd96::1"],
    )
}

#[test]
fn a_service_has_its_full_and_short_names() {
    let mesh = snapshot(vec![web()], Vec::new());
    for name in [
        "web.demo.svc.cluster.local.",
        "WEB.demo.SVC.cluster.local.",
        "web.demo.svc.",
        "web.demo.",
        "web.",
    ] {
        let owner = name.trim_end_matches('.');
        assert_eq!(a(&mesh, name), Some(vec![format!("{owner} 10.96.0.1")]));
    }
    let six = ask(&mesh, "web.", RecordType::AAAA);
    assert_eq!(six, Some(vec!["web fd96::1".to_owned()]));
    // The short name is that of the client's own namespace.
    let other = ("other", "");
    let of = |name| ask_as(&mesh, &zone(), other, name, RecordType::A);
    assert_eq!(of("web."), None);
    assert!(of("web.demo.").is_some());
}

#[test]
fn a_search_domain_is_taken_off_again() {
    let entry = service("demo", "api.example.com", &["240.240.0.1"]);
    let mesh = snapshot(vec![web(), entry], Vec::new());
    for domain in [
        "demo.svc.cluster.local",
        "svc.cluster.local",
        "cluster.local",
    ] {
        let asked = format!("Api.example.com.{domain}");
        let want = vec![
            format!("{asked} Api.example.com"),
            "Api.example.com 240.240.0.1".to_owned(),
        ];
        assert_eq!(a(&mesh, &format!("{asked}.")), Some(want), "{asked}");
    }
    let asked = "web.demo.demo.svc.cluster.local";
    let want = vec![format!("{asked} web.demo"), "web.demo 10.96.0.1".to_owned()];
    assert_eq!(a(&mesh, &format!("{asked}.")), Some(want));
    assert_eq!(
        a(&mesh, "api.example.com.other.svc.cluster.local.demo."),
        None
    );
    // Listed domains take the place of Kubernetes'.
    let mut zone = zone();
    zone.search = Search::Listed(vec!["corp".to_owned()]);
    let listed = |name| ask_as(&mesh, &zone, ("demo", ""), name, RecordType::A);
    assert!(listed("api.example.com.corp.").is_some());
    assert!(listed("api.example.com.svc.cluster.local.").is_none());
}

#[test]
fn what_the_mesh_does_not_know_is_forwarded() {
    let outside = service("demo", "plain.example.com", &[]);
    let range = service("demo", "range.example.com", &["10.9.0.0/16"]);
    let mesh = snapshot(vec![web(), outside, range], Vec::new());
    for name in [
        ".",
        "example.com.",
        "plain.example.com.",
        "range.example.com.",
        "xweb.demo.svc.cluster.local.",
        "web\\.demo.svc.cluster.local.",
        "cluster.local.",
    ] {
        assert_eq!(a(&mesh, name), None, "{name}");
    }
    for kind in [
        RecordType::TXT,
        RecordType::ANY,
        RecordType::SRV,
        RecordType::HTTPS,
    ] {
        assert_eq!(ask(&mesh, "web.demo.svc.cluster.local.", kind), None);
    }
    let name: Name = "web.demo.svc.cluster.local.".parse().unwrap();
    let client = Client {
        namespace: "demo",
        network: "",
    };
    let chaos = (&name, RecordType::A, DNSClass::CH);
    let decision = answer(&mesh, &zone(), client, chaos, &mut Dice::seeded(1));
    assert_eq!(decision, Decision::Forward);
}

#[test]
fn a_wildcard_takes_every_name_below_and_the_nearest_wins() {
    let near = service("demo", "*.a.example.com", &["240.240.0.1"]);
    let far = service("demo", "*.example.com", &["240.240.0.2"]);
    let exact = service("demo", "x.a.example.com", &["240.240.0.3"]);
    let mesh = snapshot(vec![near, far, exact], Vec::new());
    for (name, address) in [
        ("x.a.example.com", "240.240.0.3"),
        ("y.a.example.com", "240.240.0.1"),
        ("z.y.a.example.com", "240.240.0.1"),
        ("a.example.com", "240.240.0.2"),
        ("*.a.example.com", "240.240.0.1"),
        // No way through the wildcard's own name.
        ("y.a.example.com.svc.cluster.local", "240.240.0.1"),
    ] {
        let want = Some(vec![format!("{name} {address}")]);
        assert_eq!(a(&mesh, &format!("{name}.")), want);
    }
    assert_eq!(a(&mesh, "example.com."), None);
}

#[test]
fn a_headless_service_has_its_ready_endpoints() {
    let mut headless = service("demo", "db.demo.svc.cluster.local", &[]);
    headless.ip_families = IpFamilies::V4Only;
    let one = endpoint(1, &headless, &["10.0.0.1", "fd00::1"]);
    let two = endpoint(2, &headless, &["fd00::2", "10.0.0.2"]);
    let mut ill = endpoint(3, &headless, &["10.0.0.3"]);
    ill.health = Health::Unhealthy;
    let mut far = endpoint(4, &headless, &["10.0.0.4"]);
    far.network = "west".into();
    let workloads = vec![one, two, ill, far];
    let mesh = snapshot(vec![headless.clone()], workloads.clone());
    let mut got = a(&mesh, "db.").unwrap();
    got.sort();
    assert_eq!(got, ["db 10.0.0.1", "db 10.0.0.2"]);
    assert_eq!(ask(&mesh, "db.", RecordType::AAAA), Some(Vec::new()));
    headless.ip_families = IpFamilies::Dual;
    headless.load_balancing.health = HealthPolicy::AllowAll;
    let mesh = snapshot(vec![headless.clone()], workloads);
    assert_eq!(a(&mesh, "db.").unwrap().len(), 3);
    assert_eq!(ask(&mesh, "db.", RecordType::AAAA).unwrap().len(), 2);
    let mut without = zone();
    without.ipv6 = false;
    let six = ask_as(&mesh, &without, ("demo", ""), "db.", RecordType::AAAA);
    assert_eq!(six, Some(Vec::new()));
    // Without endpoints it is known all the same.
    let mesh = snapshot(vec![headless], Vec::new());
    assert_eq!(a(&mesh, "db."), Some(Vec::new()));
}

#[test]
fn addresses_of_another_network_are_not_told() {
    let both = service(
        "demo",
        "web.demo.svc.cluster.local",
        &["west@10.96.0.1", "east@10.97.0.1"],
    );
    let mesh = snapshot(vec![both], Vec::new());
    let from = |network| ask_as(&mesh, &zone(), ("demo", network), "web.", RecordType::A);
    assert_eq!(from("west"), Some(vec!["web 10.96.0.1".to_owned()]));
    assert_eq!(from("east"), Some(vec!["web 10.97.0.1".to_owned()]));
    assert_eq!(from(""), Some(Vec::new()));
}

#[test]
fn of_several_services_the_clients_own_then_the_preferred_then_the_canonical_is_taken() {
    let of = |namespace: &str, n: u8| {
        let vip = format!("240.240.0.{n}");
        service(namespace, "api.example.com", &[vip.as_str()])
    };
    let mut canonical = of("c", 3);
    canonical.canonical = true;
    let mut hidden = of("a", 9);
    hidden.visibility = Visibility::Namespace;
    let mesh = snapshot(vec![of("z", 1), of("b", 2), canonical, hidden], Vec::new());
    let mut zone = zone();
    let from = |zone: &Zone, namespace: &str| {
        let client = (namespace, "");
        let got = ask_as(&mesh, zone, client, "api.example.com.", RecordType::A);
        got.unwrap()[0].clone()
    };
    assert_eq!(from(&zone, "demo"), "api.example.com 240.240.0.3");
    assert_eq!(from(&zone, "b"), "api.example.com 240.240.0.2");
    assert_eq!(from(&zone, "a"), "api.example.com 240.240.0.9");
    zone.preferred_namespace = Some("z".into());
    assert_eq!(from(&zone, "demo"), "api.example.com 240.240.0.1");
    assert_eq!(from(&zone, "b"), "api.example.com 240.240.0.2");
    zone.preferred_namespace = Some("a".into());
    assert_eq!(from(&zone, "demo"), "api.example.com 240.240.0.3");
}

#[test]
fn which_address_is_first_is_left_to_chance_and_an_answer_is_bounded() {
    let headless = service("demo", "db.demo.svc.cluster.local", &[]);
    let all = (0..1500u32).map(|n| {
        let [.., b, c] = n.to_be_bytes();
        let mut workload = endpoint(0, &headless, &[&format!("10.1.{b}.{c}")]);
        workload.uid = mesh_model::WorkloadUid(format!("{n}").into());
        workload
    });
    let mesh = snapshot(vec![headless.clone()], all.collect());
    let name: Name = "db.demo.svc.cluster.local.".parse().unwrap();
    let client = Client {
        namespace: "demo",
        network: "",
    };
    let question = (&name, RecordType::A, DNSClass::IN);
    let mut dice = Dice::seeded(3);
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let Decision::Answer(got) = answer(&mesh, &zone(), client, question, &mut dice) else {
            panic!("forwarded");
        };
        assert_eq!(got.records.len(), ANSWERS_MAX);
        firsts.insert(short(&got.records[0]));
    }
    assert!(firsts.len() > 10, "{firsts:?}");
}
