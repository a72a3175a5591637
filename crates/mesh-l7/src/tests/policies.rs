//! Authorization of requests, and of those under way when policies change.

use super::support::{World, dial, get, read_until, run, status, text};
use crate::context::{Authorization, OwnedScope};
use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use mesh_model::{
    Action, AppProtocol, AuthorizationPolicy, HeaderCondition, ObjectName, PolicyClause,
    PolicyMatch, PolicyRule, PolicyScope, Resource, StringMatch, Workload, WorkloadUid,
};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Makes the proxy the sidecar of an application at an address.
fn sidecar_of(world: &mut World, app: SocketAddr) {
    let workload = Arc::new(Workload::new("app", "demo", "app"));
    world.put(Resource::Workload(workload.clone()));
    world.context.scope = OwnedScope::App {
        address: app,
        workload: Some(workload),
        service: None,
        app_protocol: AppProtocol::Unknown,
    };
    world.context.authorization = Authorization::Sidecar(WorkloadUid("app".into()));
}

fn deny(path: &str) -> Resource {
    deny_where(PolicyMatch {
        paths: vec![StringMatch::from_pattern(path)],
        ..PolicyMatch::default()
    })
}

fn deny_header(name: &str, value: &str) -> Resource {
    deny_where(PolicyMatch {
        headers: vec![HeaderCondition {
            name: name.into(),
            values: vec![StringMatch::from_pattern(value)],
            not_values: Vec::new(),
        }],
        ..PolicyMatch::default()
    })
}

fn deny_where(field: PolicyMatch) -> Resource {
    Resource::HttpPolicy(Arc::new(AuthorizationPolicy {
        name: ObjectName::new("demo", "no-admin"),
        scope: PolicyScope::Namespace,
        action: Action::Deny,
        rules: vec![PolicyRule {
            clauses: vec![PolicyClause {
                matches: vec![field],
            }],
        }],
        dry_run: false,
        targets: Vec::new(),
        invalid: None,
        http_dropped: false,
    }))
}

#[test]
fn a_denied_request_is_403_and_names_its_policy() {
    run(|mut world| async move {
        let app = world.origin(|_| async { Response::new(text("app")) });
        sidecar_of(&mut world, app);
        world.put(deny("/admin*"));
        let proxy = world.proxy();
        for evasion in ["/admin", "/x/../admin", "/%61dmin/y"] {
            let answer = get(proxy, evasion).await;
            assert_eq!(status(&answer), 403);
            assert!(answer.ends_with("RBAC: access denied"), "{answer}");
        }
        assert!(get(proxy, "/public").await.ends_with("app"));
        let records = world.records(4).await;
        assert_eq!(records[0]["reason"], "policy_denied");
        assert_eq!(records[0]["policy"], "demo/no-admin");
        assert_eq!(records[3]["reason"], "ok");
    });
}

#[test]
fn a_policy_may_name_parts_of_the_head_as_headers() {
    run(|mut world| async move {
        let app = world.origin(|_| async { Response::new(text("app")) });
        sidecar_of(&mut world, app);
        let proxy = world.proxy();
        let requests = [
            "GET /admin?x=1 HTTP/1.1\r\nhost: Shop.Example.\r\n\r\n",
            "GET http://shop.example/admin?x=1 HTTP/1.1\r\nhost: other\r\n\r\n",
        ];
        for (name, value) in [
            (":authority", "shop.example"),
            ("host", "shop.example"),
            (":path", "/admin?x=*"),
            (":method", "GET"),
        ] {
            world.put(deny_header(name, value));
            for request in requests {
                let mut client = dial(proxy).await;
                client.write_all(request.as_bytes()).await.unwrap();
                let head = read_until(&mut client, "\r\n\r\n").await;
                assert_eq!(status(&head), 403, "{name} {request}");
            }
        }
    });
}

#[test]
fn a_client_without_identity_claims_no_certificate() {
    run(|mut world| async move {
        let app = world.origin(|request| async move {
            let claimed = request.headers().contains_key("x-forwarded-client-cert");
            Response::new(text(if claimed { "claimed" } else { "nothing" }))
        });
        sidecar_of(&mut world, app);
        let request = "GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\
            x-forwarded-client-cert: URI=spiffe://cluster.local/ns/demo/sa/admin\r\n\r\n";
        for (identity, told) in [
            (None, "nothing"),
            (Some("spiffe://cluster.local/ns/demo/sa/a"), "claimed"),
        ] {
            world.context.source.identity = identity.map(|id| id.parse().unwrap());
            let mut client = dial(world.proxy()).await;
            client.write_all(request.as_bytes()).await.unwrap();
            read_until(&mut client, told).await;
        }
    });
}

#[test]
fn a_workload_nobody_knows_is_denied() {
    run(|mut world| async move {
        let app = world.origin(|_| async { Response::new(text("app")) });
        sidecar_of(&mut world, app);
        world.context.authorization = Authorization::Sidecar(WorkloadUid("gone".into()));
        assert_eq!(status(&get(world.proxy(), "/").await), 403);
        assert_eq!(world.record().await["reason"], "policy_unavailable");
    });
}

#[test]
fn a_policy_change_cuts_the_response_under_way() {
    run(|mut world| async move {
        let app = world.origin(|_| async {
            let first = futures_util::stream::iter([Ok::<_, Infallible>(Frame::data(
                Bytes::from_static(b"first"),
            ))]);
            let never = futures_util::stream::pending();
            let body = futures_util::StreamExt::chain(first, never);
            Response::new(StreamBody::new(body).boxed_unsync())
        });
        sidecar_of(&mut world, app);
        let mut client = dial(world.proxy()).await;
        let request = b"GET /admin HTTP/1.1\r\nhost: app\r\n\r\n";
        client.write_all(request).await.unwrap();
        read_until(&mut client, "first").await;
        // A policy about something else cuts nothing.
        world.put(deny("/other"));
        world.put(deny("/admin"));
        let mut rest = Vec::new();
        drop(client.read_to_end(&mut rest).await);
        assert!(!rest.ends_with(b"0\r\n\r\n"));
        let record = world.record().await;
        assert_eq!(record["reason"], "policy_revoked");
        assert_eq!(record["response_code"], 200);
    });
}

#[test]
fn a_policy_change_ends_a_request_that_has_no_answer_yet() {
    run(|mut world| async move {
        let (arrived, mut arrivals) = tokio::sync::mpsc::channel(1);
        let app = world.origin(move |_| {
            arrived.try_send(()).unwrap();
            std::future::pending()
        });
        sidecar_of(&mut world, app);
        let mut client = dial(world.proxy()).await;
        let head = b"POST /admin HTTP/1.1\r\nhost: app\r\ncontent-length: 9\r\n\r\nhalf";
        client.write_all(head).await.unwrap();
        arrivals.recv().await.unwrap();
        world.put(deny("/other"));
        world.put(deny("/admin"));
        let answer = read_until(&mut client, "\r\n\r\n").await;
        assert_eq!(status(&answer), 403);
        assert_eq!(world.record().await["reason"], "policy_revoked");
    });
}
