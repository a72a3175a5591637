//! The gateway whole, over real sockets: listeners that follow the snapshot, each kind of traffic,
//! plain and tunnelled backends.

mod backend;
mod harness;

use backend::{echo, hbone_pod, http_backend, refuse_all};
use harness::{Client, GATEWAY, Gateway, listener, tcp_rule};
use mesh_model::{
    AppProtocol, Host, ListenerProtocol, ParentRef, Reason, Resource, TlsCertificatePem,
};
use mesh_testkit::resources::{Pod, Svc, http_rule, service_name};
use mesh_testkit::{Leaf, TestCa};
use mesh_tls::{EdgeClientSettings, EdgeConnector};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The service `shop` with one plain endpoint.
fn shop_at(address: SocketAddr) -> Vec<Resource> {
    let name = service_name("demo", "shop");
    vec![
        Svc::new("demo", "shop", "10.96.0.1")
            .port(80, address.port(), AppProtocol::Unknown)
            .resource(),
        Pod::new("demo", "shop-1", &address.ip().to_string())
            .plain()
            .serves(&name, 80, address.port())
            .resource(),
    ]
}

fn parent(section: Option<&str>) -> ParentRef {
    ParentRef::Gateway {
        name: GATEWAY.parse().unwrap(),
        section: section.map(Into::into),
        port: None,
    }
}

fn shop_route() -> Resource {
    let name = service_name("demo", "shop");
    let rule = http_rule("demo/shop", 0, parent(None), &[(&name, 80, 1)]);
    Resource::HttpRoute(Arc::new(rule))
}

fn https(name: &str, port: u16, host: &str, certificate: TlsCertificatePem) -> Resource {
    let Resource::Listener(plain) = listener(name, port, ListenerProtocol::Https, Some(host))
    else {
        panic!("not a listener");
    };
    let mut listener = (*plain).clone();
    listener.certificates = vec![certificate];
    Resource::Listener(Arc::new(listener))
}

#[tokio::test]
async fn before_the_first_configuration_the_pages_say_what_is_missing() {
    use clap::Parser;
    let context = mesh_runtime::Context {
        workers: mesh_runtime::Workers::start(1, "test").unwrap(),
        scope: mesh_runtime::Scope::new(),
        connections: mesh_runtime::Scope::new(),
        drain: mesh_runtime::Drain::new(),
        readiness: mesh_runtime::Readiness::new(),
    };
    // Port 1 of loopback: no control plane there.
    let flags = crate::settings::Flags::parse_from([
        "ingress-gateway",
        "--gateway=edge/front",
        "--fake-ca=true",
        "--xds-address=http://127.0.0.1:1",
        "--xds-root=none",
        "--auth-token=none",
        "--admin-address=127.0.0.1:0",
        "--metrics-address=127.0.0.1:0",
        "--readiness-address=127.0.0.1:0",
    ]);
    let pages = super::start(flags.check().unwrap(), &context, None).unwrap();

    let get = async |at: SocketAddr, path: &str| {
        let mut client = Client::to(at.port()).await.unwrap();
        client.get("localhost", path).await
    };
    let ready = get(pages.readiness, "/healthz/ready").await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(ready.contains("configuration"), "{ready}");
    let dump = get(pages.admin, "/config_dump").await;
    assert!(dump.contains("\"gateway\": \"edge/front\""), "{dump}");
    let stats = get(pages.metrics, "/stats/prometheus").await;
    assert!(stats.contains("component=\"ingress-gateway\""), "{stats}");
    context.scope.cancel();
}

#[tokio::test]
async fn a_tcp_listener_carries_bytes_to_a_plain_backend() {
    let gateway = Gateway::start();
    let port = gateway.free_port();
    let backend = echo(&gateway.scope);
    gateway.put(shop_at(backend));
    gateway.put([tcp_rule("demo/tcp", parent(Some("tcp")), "shop", 80)]);
    gateway.put([listener("tcp", port, ListenerProtocol::Tcp, None)]);
    gateway.publish();
    gateway.ready().await;

    let mut client = Client::to(port).await.unwrap();
    assert_eq!(client.echo("hello").await.unwrap(), "hello");
    let open = gateway.metrics.open_connections();
    assert_eq!(open.len(), 1);
    assert_eq!(
        open[0].service.as_deref(),
        Some("shop.demo.svc.cluster.local")
    );
    drop(client);
    gateway.ended(Reason::Ok).await;
}

#[tokio::test]
async fn sockets_open_and_close_with_the_listeners() {
    let gateway = Gateway::start();
    let (first, second) = (gateway.free_port(), gateway.free_port());
    let backend = echo(&gateway.scope);
    gateway.put(shop_at(backend));
    gateway.put([tcp_rule("demo/tcp", parent(None), "shop", 80)]);
    gateway.put([listener("tcp", first, ListenerProtocol::Tcp, None)]);
    gateway.publish();
    gateway.ready().await;
    let mut old = Client::to(first).await.unwrap();
    assert_eq!(old.echo("one").await.unwrap(), "one");

    gateway.put([listener("tcp", second, ListenerProtocol::Tcp, None)]);
    gateway.publish();
    let mut new = Client::to_soon(second).await;
    assert_eq!(new.echo("two").await.unwrap(), "two");
    Client::refused_soon(first).await;
    // What was under way goes on.
    assert_eq!(old.echo("three").await.unwrap(), "three");
}

#[tokio::test]
async fn a_policy_that_now_denies_cuts_what_it_allowed() {
    let gateway = Gateway::start();
    let port = gateway.free_port();
    let backend = echo(&gateway.scope);
    gateway.put(shop_at(backend));
    gateway.put([tcp_rule("demo/tcp", parent(None), "shop", 80)]);
    gateway.put([listener("tcp", port, ListenerProtocol::Tcp, None)]);
    gateway.publish();
    gateway.ready().await;
    let mut client = Client::to(port).await.unwrap();
    assert_eq!(client.echo("hello").await.unwrap(), "hello");

    gateway.put([refuse_all(GATEWAY)]);
    gateway.publish();
    assert_eq!(client.rest().await, "");
    gateway.ended(Reason::PolicyRevoked).await;
    let mut late = Client::to(port).await.unwrap();
    assert_eq!(late.rest().await, "");
    gateway.ended(Reason::PolicyDenied).await;
}

#[tokio::test]
async fn every_tcp_failure_has_its_reason() {
    let gateway = Gateway::start();
    let (port, nowhere) = (gateway.free_port(), gateway.free_port());
    gateway.put([listener("tcp", port, ListenerProtocol::Tcp, None)]);
    gateway.publish();
    gateway.ready().await;
    assert_eq!(Client::to(port).await.unwrap().rest().await, "");
    gateway.ended(Reason::NoRoute).await;

    gateway.put(shop_at(SocketAddr::from(([127, 0, 0, 1], nowhere))));
    gateway.put([tcp_rule("demo/tcp", parent(None), "shop", 80)]);
    gateway.publish();
    assert_eq!(Client::to(port).await.unwrap().rest().await, "");
    gateway.ended(Reason::ConnectFailed).await;
}

#[tokio::test]
async fn http_goes_by_route_to_a_plain_backend() {
    let gateway = Gateway::start();
    let port = gateway.free_port();
    let backend = http_backend(&gateway.scope);
    gateway.put(shop_at(backend));
    gateway.put([
        shop_route(),
        listener("http", port, ListenerProtocol::Http, None),
    ]);
    gateway.publish();
    gateway.ready().await;

    let mut client = Client::to(port).await.unwrap();
    let answer = client.get("shop.example", "/cart").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("GET /cart"), "{answer}");
    assert!(answer.contains("x-forwarded-proto: http"), "{answer}");
}

#[tokio::test]
async fn https_is_chosen_by_server_name_and_a_bad_certificate_changes_nothing() {
    let gateway = Gateway::start();
    let port = gateway.free_port();
    let backend = http_backend(&gateway.scope);
    let ca = TestCa::new();
    let a = ca.issue(Leaf::new().dns("a.example"));
    let b = ca.issue(Leaf::new().dns("b.example"));
    gateway.put(shop_at(backend));
    gateway.put([shop_route()]);
    gateway.put([
        https("a", port, "a.example", a),
        https("b", port, "b.example", b.clone()),
    ]);
    gateway.publish();
    gateway.ready().await;

    for round in 0..2 {
        for host in ["a.example", "b.example"] {
            let settings = EdgeClientSettings::named(host, ca.root_pem());
            let connector = EdgeConnector::new(&settings).unwrap();
            let tcp = Client::to(port).await.unwrap().into_stream();
            let (tls, agreed) = connector.connect(tcp).await.unwrap();
            assert_eq!(agreed.server_names, [host]);
            let answer = Client::over(tls).get(host, "/").await;
            assert!(
                answer.starts_with("HTTP/1.1 200"),
                "round {round}: {answer}"
            );
            assert!(answer.contains("x-forwarded-proto: https"), "{answer}");
        }
        let mut broken = b.clone();
        broken.key_pem = "not a key".into();
        gateway.put([https("b", port, "b.example", broken)]);
        gateway.publish();
        gateway.listener_faulty("b").await;
    }

    // A name nobody serves ends in the handshake, on record.
    let settings = EdgeClientSettings::named("c.example", ca.root_pem());
    let connector = EdgeConnector::new(&settings).unwrap();
    let tcp = Client::to(port).await.unwrap().into_stream();
    assert!(connector.connect(tcp).await.is_err());
    gateway.ended(Reason::TlsFailure).await;
}

#[tokio::test]
async fn tls_passes_through_beside_https_on_one_port() {
    let gateway = Gateway::start();
    let port = gateway.free_port();
    let ca = TestCa::new();
    let inner = ca.issue(Leaf::new().dns("pass.example"));
    let host: Host = "pass.example".parse().unwrap();
    let backend = backend::tls_echo(&gateway.scope, host, inner);
    gateway.put(shop_at(backend));
    gateway.put([
        tcp_rule("demo/tls", parent(Some("pass")), "shop", 80),
        listener(
            "pass",
            port,
            ListenerProtocol::TlsPassthrough,
            Some("pass.example"),
        ),
        https(
            "end",
            port,
            "end.example",
            ca.issue(Leaf::new().dns("end.example")),
        ),
    ]);
    gateway.publish();
    gateway.ready().await;

    let connect = async |name: &str| {
        let settings = EdgeClientSettings::named(name, ca.root_pem());
        let connector = EdgeConnector::new(&settings).unwrap();
        let tcp = Client::to(port).await.unwrap().into_stream();
        connector.connect(tcp).await
    };
    let (mut tls, agreed) = connect("pass.example").await.unwrap();
    assert_eq!(agreed.server_names, ["pass.example"]);
    tls.write_all(b"through").await.unwrap();
    let mut got = [0; 7];
    tls.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"through");

    let (_, agreed) = connect("end.example").await.unwrap();
    assert_eq!(agreed.server_names, ["end.example"]);
    assert!(connect("nobody.example").await.is_err());
    gateway.ended(Reason::NoRoute).await;
}

#[tokio::test]
async fn backends_of_the_mesh_are_reached_by_tunnel_as_ourselves() {
    tokio::task::LocalSet::new().run_until(tunnelled()).await;
}

async fn tunnelled() {
    let ca = TestCa::new();
    let gateway = Gateway::start_with(|identity| Some(ca.workload(identity)));
    let (http, tcp) = (gateway.free_port(), gateway.free_port());
    let backend = http_backend(&gateway.scope);
    let echo = echo(&gateway.scope);
    // The pod's address is its own part of loopback: port 15008 there is nobody else's.
    let pod_ip = "127.61.8.2";
    let identity = "spiffe://cluster.local/ns/demo/sa/shop-1".parse().unwrap();
    let seen = hbone_pod(
        &gateway.scope,
        pod_ip,
        ca.workload(&identity),
        [backend, echo],
    );
    let name = service_name("demo", "shop");
    gateway.put([
        Svc::new("demo", "shop", "10.96.0.1")
            .port(80, backend.port(), AppProtocol::Http11)
            .port(90, echo.port(), AppProtocol::Tcp)
            .resource(),
        Pod::new("demo", "shop-1", pod_ip)
            .serves(&name, 80, backend.port())
            .serves(&name, 90, echo.port())
            .resource(),
        shop_route(),
        tcp_rule("demo/tcp", parent(Some("tcp")), "shop", 90),
        listener("http", http, ListenerProtocol::Http, None),
        listener("tcp", tcp, ListenerProtocol::Tcp, None),
    ]);
    gateway.publish();
    gateway.ready().await;

    let answer = Client::to(http)
        .await
        .unwrap()
        .get("shop.example", "/")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut client = Client::to(tcp).await.unwrap();
    assert_eq!(client.echo("tunnelled").await.unwrap(), "tunnelled");
    drop(client);
    gateway.ended(Reason::Ok).await;
    let seen = seen.borrow();
    let ours = "spiffe://cluster.local/ns/edge/sa/front";
    assert!(seen.iter().all(|s| s.peer == ours), "{seen:?}");
    let asked = |port: u16| format!("{pod_ip}:{port}");
    assert!(seen.iter().any(|s| s.authority == asked(backend.port())));
    let stream = seen.iter().find(|s| s.authority == asked(echo.port()));
    let forwarded = &stream.unwrap().forwarded;
    assert!(
        forwarded.contains("host=shop.demo.svc.cluster.local"),
        "{forwarded}"
    );
}

#[tokio::test]
async fn without_a_certificate_the_mesh_is_not_reached_in_plain() {
    let gateway = Gateway::start();
    let port = gateway.free_port();
    let name = service_name("demo", "shop");
    gateway.put([
        Svc::new("demo", "shop", "10.96.0.1")
            .port(80, 8080, AppProtocol::Tcp)
            .resource(),
        Pod::new("demo", "shop-1", "127.61.8.3")
            .serves(&name, 80, 8080)
            .resource(),
        tcp_rule("demo/tcp", parent(None), "shop", 80),
        listener("tcp", port, ListenerProtocol::Tcp, None),
    ]);
    gateway.publish();
    gateway.ready().await;
    assert_eq!(Client::to(port).await.unwrap().rest().await, "");
    gateway.ended(Reason::NoIdentity).await;
}

#[tokio::test]
async fn a_drain_closes_the_sockets_and_lets_sessions_run() {
    let gateway = Gateway::start();
    let port = gateway.free_port();
    let backend = echo(&gateway.scope);
    gateway.put(shop_at(backend));
    gateway.put([
        tcp_rule("demo/tcp", parent(None), "shop", 80),
        listener("tcp", port, ListenerProtocol::Tcp, None),
    ]);
    gateway.publish();
    gateway.ready().await;
    let mut client = Client::to(port).await.unwrap();
    assert_eq!(client.echo("before").await.unwrap(), "before");
    gateway.drain.start();
    Client::refused_soon(port).await;
    assert_eq!(client.echo("after").await.unwrap(), "after");
    gateway.drain.force();
    assert_eq!(client.rest().await, "");
    gateway.ended(Reason::Drained).await;
}
