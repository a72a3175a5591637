//! A waypoint between a node proxy, played by the test, and a pod with a sidecar.

use super::support::{Mesh, PORT, TestProxy, VIP, policy, run, shop};
use crate::settings::Role;
use mesh_hbone::{ConnectRequest, Dial, HboneStream, Pool, PoolSettings, TunnelError, TunnelKey};
use mesh_model::{
    Action, AppProtocol, GatewayAddress, GatewayDestination, NetworkAddress, PORT_HBONE,
    PolicyMatch, PolicyScope, PolicyTarget, Resource, SpiffeId, StringMatch,
};
use mesh_net::ConnectOptions;
use mesh_tls::{Expected, WorkloadCertificate};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// `shop` (address 2) behind `way` (address 3).
pub(super) fn behind_waypoint(
    mesh: &mut Mesh,
    protocol: AppProtocol,
    port: u16,
) -> (TestProxy, TestProxy) {
    mesh.pod("shop", 2, Some(port));
    mesh.pod("way", 3, None);
    let at = GatewayAddress {
        destination: GatewayDestination::Address(NetworkAddress {
            network: "".into(),
            address: mesh.ip(3),
        }),
        hbone_port: PORT_HBONE,
    };
    mesh.shop(protocol, |service| service.waypoint = Some(at));
    (
        mesh.proxy(Role::Waypoint, "way", 3),
        mesh.proxy(Role::Sidecar, "shop", 2),
    )
}

/// A policy on the service for the waypoint.
fn put_policy(mesh: &mut Mesh, action: Action, matches: Vec<PolicyMatch>) {
    let mut policy = policy(action, matches);
    policy.scope = PolicyScope::Targets;
    policy.targets = vec![PolicyTarget {
        kind: "Service".into(),
        namespace: shop().namespace,
        name: shop().hostname,
    }];
    mesh.put(Resource::HttpPolicy(Arc::new(policy)));
}

/// Connects to the service through the waypoint as a workload of the account `client`.
async fn connect(mesh: &Mesh, authority: &str) -> Result<HboneStream, TunnelError> {
    let identity = SpiffeId::new("cluster.local", "demo", "client").unwrap();
    let certificate = WorkloadCertificate::self_signed(&identity).unwrap();
    let pool = Pool::new(PoolSettings::default(), &mesh.scope);
    let key = TunnelKey {
        source: identity,
        expected: Expected::AnyOf(vec![SpiffeId::new("cluster.local", "demo", "way").unwrap()]),
        address: SocketAddr::new(mesh.ip(3), PORT_HBONE),
        source_ip: None,
    };
    let dial = Dial::once(ConnectOptions::default(), Arc::new(certificate));
    let request = ConnectRequest {
        authority: authority.into(),
        headers: http::HeaderMap::new(),
    };
    pool.open(&key, dial, request).await
}

async fn get(mesh: &Mesh, path: &str) -> String {
    let mut stream = connect(mesh, &format!("{VIP}:{PORT}")).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    read_all(stream).await
}

async fn read_all(mut stream: HboneStream) -> String {
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8_lossy(&answer).into_owned()
}

fn from_client(paths: &str) -> PolicyMatch {
    PolicyMatch {
        principals: vec![StringMatch::Exact("cluster.local/ns/demo/sa/client".into())],
        paths: vec![StringMatch::from_pattern(paths)],
        ..PolicyMatch::default()
    }
}

#[test]
fn requests_are_authorized_as_the_client_and_sent_as_the_waypoint() {
    run(|mut mesh| async move {
        let port = mesh.http_app("app", 2);
        let (mut way, mut shop) = behind_waypoint(&mut mesh, AppProtocol::Http11, port);
        put_policy(&mut mesh, Action::Allow, vec![from_client("/open*")]);
        assert!(get(&mesh, "/open").await.ends_with("app /open"));
        let denied = get(&mesh, "/closed").await;
        assert!(denied.starts_with("HTTP/1.1 403 "), "{denied}");
        let records = way.records(2).await;
        assert_eq!(records[0]["reporter"], "waypoint");
        assert_eq!(records[0]["response_code"], 200);
        assert_eq!(
            records[0]["src.identity"],
            "spiffe://cluster.local/ns/demo/sa/client"
        );
        assert_eq!(records[1]["policy"], "demo/policy");
        let at_pod = shop.record().await;
        assert_eq!(
            at_pod["src.identity"],
            "spiffe://cluster.local/ns/demo/sa/way"
        );
    });
}

#[test]
fn bytes_pass_where_no_policy_speaks_and_are_recorded() {
    run(|mut mesh| async move {
        let port = mesh.greeter(2);
        let (mut way, _shop) = behind_waypoint(&mut mesh, AppProtocol::Unknown, port);
        let mut stream = connect(&mesh, &format!("{VIP}:{PORT}")).await.unwrap();
        let mut greeting = [0; 11];
        stream.read_exact(&mut greeting).await.unwrap();
        stream.write_all(b"echo").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(read_all(stream).await, "echo");
        let record = way.record().await;
        assert_eq!(
            (&record["reason"], &record["reporter"]),
            (&"ok".into(), &"waypoint".into())
        );
    });
}

#[test]
fn bytes_do_not_pass_an_http_policy() {
    run(|mut mesh| async move {
        let port = mesh.greeter(2);
        let (mut way, _shop) = behind_waypoint(&mut mesh, AppProtocol::Unknown, port);
        put_policy(&mut mesh, Action::Allow, vec![from_client("/open*")]);
        let mut stream = connect(&mesh, &format!("{VIP}:{PORT}")).await.unwrap();
        stream.write_all(b"HELO there\r\n").await.unwrap();
        assert_eq!(read_all(stream).await, "");
        assert_eq!(way.record().await["reason"], "policy_denied");
    });
}

#[test]
fn a_client_no_request_could_help_is_refused_with_401() {
    run(|mut mesh| async move {
        let port = mesh.http_app("app", 2);
        let (mut way, _shop) = behind_waypoint(&mut mesh, AppProtocol::Http11, port);
        let mut other = from_client("/open");
        other.principals = vec![StringMatch::Exact("cluster.local/ns/demo/sa/x".into())];
        put_policy(&mut mesh, Action::Allow, vec![other]);
        let refused = connect(&mesh, &format!("{VIP}:{PORT}")).await;
        assert!(matches!(refused, Err(TunnelError::Refused(401))));
        assert_eq!(way.record().await["reason"], "policy_denied");
    });
}

#[test]
fn what_is_not_bound_to_the_waypoint_is_refused() {
    run(|mut mesh| async move {
        let port = mesh.http_app("app", 2);
        let (mut way, _shop) = behind_waypoint(&mut mesh, AppProtocol::Http11, port);
        let elsewhere = format!("{}:{port}", mesh.ip(2));
        let refused = connect(&mesh, &elsewhere).await;
        assert!(matches!(refused, Err(TunnelError::Refused(400))));
        assert_eq!(way.record().await["reason"], "wrong_destination");
    });
}
