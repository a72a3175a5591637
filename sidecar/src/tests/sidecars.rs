//! Two pods with sidecars.

use super::support::{Mesh, PORT, TestProxy, VIP, dial, get, policy, read_all, run};
use crate::plaintext;
use crate::settings::Role;
use mesh_model::{Action, AppProtocol, PolicyMatch, Resource, StringMatch};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn vip() -> SocketAddr {
    SocketAddr::from((VIP, PORT))
}

fn paths(path: &str) -> PolicyMatch {
    PolicyMatch {
        paths: vec![StringMatch::from_pattern(path)],
        ..PolicyMatch::default()
    }
}

fn put_policy(mesh: &mut Mesh, action: Action, matches: Vec<PolicyMatch>) {
    mesh.put(Resource::HttpPolicy(Arc::new(policy(action, matches))));
}

/// `front` (address 1) in front of `shop` (address 2), which serves a port.
fn pair(mesh: &mut Mesh, protocol: AppProtocol, port: u16) -> (TestProxy, TestProxy) {
    mesh.pod("front", 1, None);
    mesh.pod("shop", 2, Some(port));
    mesh.shop(protocol, |_| {});
    (
        mesh.proxy(Role::Sidecar, "front", 1),
        mesh.proxy(Role::Sidecar, "shop", 2),
    )
}

#[test]
fn http_goes_through_both_and_is_recorded_at_both() {
    for protocol in [AppProtocol::Http11, AppProtocol::Unknown] {
        run(move |mut mesh| async move {
            let port = mesh.http_app("app", 2);
            let (mut front, mut shop) = pair(&mut mesh, protocol, port);
            let entry = mesh.captured(&front, vip());
            for path in ["/a", "/b"] {
                let answer = get(entry, path).await;
                assert!(answer.ends_with(&format!("app {path}")), "{answer}");
            }
            let at_source = front.records(2).await;
            let at_destination = shop.records(2).await;
            for record in at_source.iter().chain(&at_destination) {
                assert_eq!(record["response_code"], 200);
                assert_eq!(record["reason"], "ok");
                assert_eq!(record["dst.service"], "shop.demo.svc.cluster.local");
                assert_eq!(
                    record["src.identity"],
                    "spiffe://cluster.local/ns/demo/sa/front"
                );
            }
            assert_eq!(at_source[0]["reporter"], "source");
            assert_eq!(at_destination[0]["reporter"], "destination");
        });
    }
}

#[test]
fn a_path_is_denied_by_the_policy_and_the_rest_is_not() {
    run(|mut mesh| async move {
        let port = mesh.http_app("app", 2);
        let (front, mut shop) = pair(&mut mesh, AppProtocol::Unknown, port);
        put_policy(&mut mesh, Action::Allow, vec![paths("/open*")]);
        let entry = mesh.captured(&front, vip());
        assert!(get(entry, "/open/x").await.ends_with("app /open/x"));
        let denied = get(entry, "/closed").await;
        assert!(denied.starts_with("HTTP/1.1 403 "), "{denied}");
        assert!(denied.ends_with("RBAC: access denied"), "{denied}");
        let records = shop.records(2).await;
        assert_eq!(records[1]["reason"], "policy_denied");
        assert_eq!(records[1]["policy"], "demo/policy");
    });
}

#[test]
fn a_server_that_speaks_first_is_heard_on_an_undeclared_port() {
    run(|mut mesh| async move {
        let port = mesh.greeter(2);
        let (mut front, mut shop) = pair(&mut mesh, AppProtocol::Unknown, port);
        let mut client = dial(mesh.captured(&front, vip())).await;
        let mut greeting = [0; 11];
        client.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 ready\r\n");
        client.write_all(b"echo").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await, "echo");
        for record in [front.record().await, shop.record().await] {
            assert_eq!(record["reason"], "ok", "{record}");
            assert_eq!(record["message"], "connection complete");
        }
    });
}

/// Policies that only HTTP could meet must not be passed by keeping silent.
#[test]
fn a_server_first_protocol_does_not_pass_an_http_policy() {
    run(|mut mesh| async move {
        let port = mesh.greeter(2);
        let (front, mut shop) = pair(&mut mesh, AppProtocol::Unknown, port);
        put_policy(&mut mesh, Action::Allow, vec![paths("/open*")]);
        let mut client = dial(mesh.captured(&front, vip())).await;
        client.write_all(b"not http at all\r\n").await.unwrap();
        assert_eq!(read_all(&mut client).await, "");
        let record = shop.record().await;
        assert_eq!(record["reason"], "policy_denied");
        assert_eq!(record["policy"], "demo/policy");
    });
}

#[test]
fn a_policy_change_cuts_the_bytes_it_denies() {
    run(|mut mesh| async move {
        let port = mesh.greeter(2);
        let (front, mut shop) = pair(&mut mesh, AppProtocol::Tcp, port);
        let mut client = dial(mesh.captured(&front, vip())).await;
        let mut greeting = [0; 11];
        client.read_exact(&mut greeting).await.unwrap();
        put_policy(
            &mut mesh,
            Action::Deny,
            vec![PolicyMatch {
                principals: vec![StringMatch::Exact("cluster.local/ns/demo/sa/front".into())],
                ..PolicyMatch::default()
            }],
        );
        assert_eq!(read_all(&mut client).await, "");
        assert_eq!(shop.record().await["reason"], "policy_revoked");
    });
}

#[test]
fn an_application_that_refuses_is_told_apart() {
    run(|mut mesh| async move {
        let closed = mesh.accept(mesh.ip(3), |_, _| async {}).port();
        let (mut front, mut shop) = pair(&mut mesh, AppProtocol::Http11, closed);
        let answer = get(mesh.captured(&front, vip()), "/").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert_eq!(front.record().await["reason"], "tunnel_refused");
        assert_eq!(shop.record().await["reason"], "connect_failed");
    });
}

#[test]
fn plaintext_is_carried_and_a_policy_that_wants_an_identity_denies_it() {
    run(|mut mesh| async move {
        let port = mesh.http_app("app", 2);
        mesh.pod("shop", 2, Some(port));
        mesh.shop(AppProtocol::Unknown, |_| {});
        let mut shop = mesh.proxy(Role::Sidecar, "shop", 2);
        let (worker, to) = (shop.worker.clone(), SocketAddr::new(mesh.ip(2), port));
        let entry = mesh.accept(mesh.ip(201), move |tcp, peer| {
            plaintext::serve(worker.clone(), tcp, peer, to)
        });
        assert!(get(entry, "/x").await.ends_with("app /x"));

        // Somebody else's address, framed to us: not relayed.
        let (worker, neighbour) = (shop.worker.clone(), mesh.http_app("other", 7));
        let to = SocketAddr::new(mesh.ip(7), neighbour);
        let other = mesh.accept(mesh.ip(202), move |tcp, peer| {
            plaintext::serve(worker.clone(), tcp, peer, to)
        });
        assert_eq!(get(other, "/x").await, "");

        put_policy(
            &mut mesh,
            Action::Deny,
            vec![PolicyMatch {
                not_principals: vec![StringMatch::Presence],
                ..PolicyMatch::default()
            }],
        );
        assert_eq!(get(entry, "/x").await, "");
        let records = shop.records(3).await;
        assert_eq!(records[0]["response_code"], 200);
        assert_eq!(records[1]["reason"], "wrong_destination");
        assert_eq!(records[2]["reason"], "policy_denied");
    });
}

#[test]
fn what_is_no_service_passes_as_bytes() {
    run(|mut mesh| async move {
        mesh.pod("front", 1, None);
        let mut front = mesh.proxy(Role::Sidecar, "front", 1);
        let port = mesh.greeter(9);
        let to = SocketAddr::new(mesh.ip(9), port);
        let mut client = dial(mesh.captured(&front, to)).await;
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await, "220 ready\r\n");
        assert_eq!(front.record().await["reason"], "ok");
    });
}
