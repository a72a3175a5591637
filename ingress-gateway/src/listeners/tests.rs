//! The table: what is served, what is refused, and what stays.

use super::*;
use mesh_hbone::PoolSettings;
use mesh_model::{ObjectName, Resource, TlsCertificatePem};
use mesh_testkit::resources::{Pod, snapshot};
use mesh_testkit::{Leaf, TestCa};

fn edge() -> Edge {
    Edge {
        key_exchange: KeyExchange::default(),
        gateway: ObjectName::new("edge", "front"),
        identity: "spiffe://cluster.local/ns/edge/sa/front".parse().unwrap(),
        pod_name: "front-1".into(),
        instance_ip: [10, 0, 0, 9].into(),
        network: "".into(),
        bind: [127, 0, 0, 1].into(),
        mark: None,
        worker_connections_max: 8,
        pool: PoolSettings::default(),
    }
}

fn listener(
    name: &str,
    port: u16,
    protocol: ListenerProtocol,
    host: Option<&str>,
) -> GatewayListener {
    GatewayListener {
        key: ListenerKey {
            gateway: ObjectName::new("edge", "front"),
            name: name.into(),
        },
        port,
        protocol,
        hostname: host.map(|h| h.parse().unwrap()),
        certificates: Vec::new(),
    }
}

fn https(name: &str, host: &str, certificate: TlsCertificatePem) -> GatewayListener {
    GatewayListener {
        certificates: vec![certificate],
        ..listener(name, 443, ListenerProtocol::Https, Some(host))
    }
}

fn update(builder: &mut Builder, listeners: &[GatewayListener]) -> Option<Arc<Table>> {
    let resources = listeners.iter().cloned().map(Arc::new);
    builder.update(&snapshot(resources.map(Resource::Listener)))
}

fn status<'a>(table: &'a Table, name: &str) -> &'a ListenerStatus {
    table.listeners.iter().find(|l| l.name == name).unwrap()
}

#[test]
fn listeners_come_and_go_and_nothing_new_is_no_table() {
    let mut builder = Builder::new(edge());
    let http = listener("http", 80, ListenerProtocol::Http, None);
    let tcp = listener("tcp", 9000, ListenerProtocol::Tcp, None);
    let table = update(&mut builder, &[http.clone(), tcp.clone()]).unwrap();
    assert!(matches!(*table.ports[&80], Port::Http));
    assert!(matches!(&*table.ports[&9000], Port::Tcp(l) if **l == tcp));
    assert!(update(&mut builder, &[http.clone(), tcp]).is_none());
    let table = update(&mut builder, &[http]).unwrap();
    assert_eq!(table.ports.keys().collect::<Vec<_>>(), [&80]);
}

#[test]
fn another_gateways_listener_is_not_ours() {
    let mut other = listener("http", 80, ListenerProtocol::Http, None);
    other.key.gateway = ObjectName::new("edge", "other");
    assert!(update(&mut Builder::new(edge()), &[other]).is_none());
}

#[test]
fn a_certificate_that_does_not_parse_leaves_the_last_good_one_in_use() {
    let ca = TestCa::new();
    let mut builder = Builder::new(edge());
    let good = https("a", "a.example", ca.issue(Leaf::new().dns("a.example")));
    let mut bad = good.clone();
    bad.certificates[0].chain_pem = "nonsense".into();

    let table = update(&mut builder, std::slice::from_ref(&bad)).unwrap();
    assert!(table.ports.is_empty(), "it was never good");
    assert!(!status(&table, "a").served);

    update(&mut builder, std::slice::from_ref(&good)).unwrap();
    let other = https("b", "b.example", ca.issue(Leaf::new().dns("b.example")));
    let table = update(&mut builder, &[bad, other]).unwrap();
    let (a, b) = (status(&table, "a"), status(&table, "b"));
    assert!(a.served && a.fault.is_some(), "{a:?}");
    assert!(b.served && b.fault.is_none(), "{b:?}");
    let Port::Tls(port) = &*table.ports[&443] else {
        panic!("not TLS");
    };
    assert_eq!(port.listeners.len(), 2);
    let kept = &port.listeners[0];
    assert_eq!(kept.certificates, good.certificates);
}

#[test]
fn a_key_of_another_certificate_is_refused_and_so_is_none_at_all() {
    let ca = TestCa::new();
    let mut mixed = https("a", "a.example", ca.issue(Leaf::new().dns("a.example")));
    mixed.certificates[0].key_pem = ca.issue(Leaf::new()).key_pem;
    let table = update(&mut Builder::new(edge()), &[mixed]).unwrap();
    assert!(status(&table, "a").fault.is_some());
    let none = listener("b", 443, ListenerProtocol::Https, None);
    let table = update(&mut Builder::new(edge()), &[none]).unwrap();
    let fault = status(&table, "b").fault.clone().unwrap();
    assert!(fault.contains("no certificate"), "{fault}");
}

#[test]
fn a_port_goes_to_the_first_of_those_that_cannot_share_it() {
    let mut builder = Builder::new(edge());
    let table = update(
        &mut builder,
        &[
            listener("a", 80, ListenerProtocol::Http, Some("a.example")),
            listener("b", 80, ListenerProtocol::Tcp, None),
            listener("c", 80, ListenerProtocol::Http, Some("c.example")),
            listener("d", 9000, ListenerProtocol::Tcp, None),
            listener("e", 9000, ListenerProtocol::Tcp, None),
        ],
    )
    .unwrap();
    let served = |name| status(&table, name).served;
    assert_eq!(
        ["a", "b", "c", "d", "e"].map(served),
        [true, false, true, true, false]
    );
    let fault = status(&table, "b").fault.clone().unwrap();
    assert!(fault.contains("edge/front/a"), "{fault}");
    // The way is free once the first is gone.
    let table = update(
        &mut builder,
        &[listener("b", 80, ListenerProtocol::Tcp, None)],
    )
    .unwrap();
    assert!(status(&table, "b").served);
}

#[test]
fn the_narrowest_host_takes_a_server_name() {
    let ca = TestCa::new();
    let pass = |name, host| listener(name, 443, ListenerProtocol::TlsPassthrough, host);
    let table = update(
        &mut Builder::new(edge()),
        &[
            pass("any", None),
            pass("wide", Some("*.example")),
            pass("wider", Some("*.b.example")),
            https(
                "precise",
                "x.b.example",
                ca.issue(Leaf::new().dns("x.b.example")),
            ),
        ],
    )
    .unwrap();
    let Port::Tls(port) = &*table.ports[&443] else {
        panic!("not TLS");
    };
    assert!(port.has_pass_through());
    let name = |server_name| match port.choose(server_name) {
        TlsChoice::Terminate => "precise".to_owned(),
        TlsChoice::PassThrough(l) => l.key.name.to_string(),
        TlsChoice::Nobody => "nobody".to_owned(),
    };
    assert_eq!(name(Some("x.b.example")), "precise");
    assert_eq!(name(Some("y.b.example")), "wider");
    assert_eq!(name(Some("y.example")), "wide");
    assert_eq!(name(Some("elsewhere")), "any");
    assert_eq!(name(None), "any");
}

#[test]
fn we_are_known_by_address_or_by_name() {
    let mut builder = Builder::new(edge());
    let at_home = Pod::new("edge", "front-1", "10.0.0.9").resource();
    let table = builder.update(&snapshot([at_home])).unwrap();
    assert!(table.client.workload.is_some());
    let moved = Pod::new("edge", "front-1", "10.0.0.10").with(|w| w.network = "west".into());
    let table = builder.update(&snapshot([moved.resource()])).unwrap();
    assert_eq!(&*table.client.network, "west");
    let stranger = Pod::new("edge", "other", "10.0.0.9").resource();
    let table = builder.update(&snapshot([stranger])).unwrap();
    assert!(table.client.workload.is_none());
    assert_eq!(&*table.client.namespace, "edge");
}
