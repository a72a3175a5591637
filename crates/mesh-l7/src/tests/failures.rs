//! Every way a request fails: its status, its reason, its one record.

use super::support::{Body, World, dial, get, read_until, run, shop, status, talk, text};
use http::Response;
use http_body_util::BodyExt;
use mesh_model::{Backend, HttpMatch, PathMatch, WeightedBackend};
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn assert_failed(answer: &str, record: &Value, code: u16, reason: &str) {
    assert_eq!(status(answer), code, "{answer}");
    assert!(
        answer.contains(&format!("x-strata-reason: {reason}\r\n")),
        "{answer}"
    );
    assert!(answer.contains("server: strata\r\n"), "{answer}");
    assert_eq!(record["response_code"], code);
    assert_eq!(record["reason"], reason);
}

#[test]
fn a_refused_endpoint_costs_no_request() {
    run(|mut world| async move {
        let good = world.origin(|_| async { Response::new(text("good")) });
        world.service(&shop(), &[World::refusing(), good, World::refusing()]);
        let proxy = world.proxy();
        for _ in 0..20 {
            let answer = get(proxy, "/").await;
            assert!(answer.ends_with("good"), "{answer}");
        }
        let records = world.records(20).await;
        assert!(records.iter().all(|r| r["reason"] == "ok"));
    });
}

#[test]
fn a_body_is_whole_at_the_second_endpoint() {
    run(|mut world| async move {
        let good = world.origin(|request| async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, "hello");
            Response::new(text("good"))
        });
        world.service(&shop(), &[World::refusing(), good]);
        let request = "POST / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\
            content-length: 5\r\n\r\nhello";
        for _ in 0..8 {
            let answer = talk(world.proxy(), request).await;
            assert!(answer.ends_with("good"), "{answer}");
        }
    });
}

#[test]
fn all_endpoints_refusing_is_503() {
    run(|mut world| async move {
        world.service(&shop(), &[World::refusing(), World::refusing()]);
        let answer = get(world.proxy(), "/").await;
        assert_failed(&answer, &world.record().await, 503, "connect_failed");
    });
}

#[test]
fn no_endpoint_is_503() {
    run(|mut world| async move {
        world.service(&shop(), &[]);
        let answer = get(world.proxy(), "/").await;
        assert_failed(&answer, &world.record().await, 503, "no_endpoint");
    });
}

#[test]
fn no_route_is_404() {
    run(|mut world| async move {
        world.service(&shop(), &[World::refusing()]);
        world.rule(|rule| {
            rule.matches = vec![HttpMatch {
                path: Some(PathMatch::Exact("/only".into())),
                ..HttpMatch::default()
            }];
        });
        let answer = get(world.proxy(), "/other").await;
        assert_failed(&answer, &world.record().await, 404, "no_route");
    });
}

#[test]
fn an_invalid_backend_is_500() {
    run(|mut world| async move {
        world.service(&shop(), &[World::refusing()]);
        world.rule(|rule| {
            rule.backends = vec![WeightedBackend {
                backend: Backend::Invalid {
                    why: "no such service".into(),
                },
                weight: 1,
                filters: Vec::new(),
            }];
        });
        let answer = get(world.proxy(), "/").await;
        assert_failed(&answer, &world.record().await, 500, "backend_invalid");
    });
}

#[test]
fn a_request_timeout_is_504() {
    run(|mut world| async move {
        let origin = world.origin(|_| std::future::pending::<Response<Body>>());
        world.service(&shop(), &[origin]);
        world.rule(|rule| rule.timeouts.request = Some(Duration::from_millis(30)));
        let answer = get(world.proxy(), "/").await;
        assert_failed(&answer, &world.record().await, 504, "request_timeout");
    });
}

#[test]
fn a_backend_timeout_is_504() {
    run(|mut world| async move {
        let origin = world.origin(|_| std::future::pending::<Response<Body>>());
        world.service(&shop(), &[origin]);
        world.rule(|rule| rule.timeouts.backend_request = Some(Duration::from_millis(30)));
        let answer = get(world.proxy(), "/").await;
        assert_failed(&answer, &world.record().await, 504, "request_timeout");
    });
}

/// The head is gone, so the answer cannot change: the body is cut and the client sees it.
#[test]
fn a_body_that_is_late_is_cut() {
    run(|mut world| async move {
        let origin = world.accept(|mut tcp, _| async move {
            read_until(&mut tcp, "\r\n\r\n").await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome";
            tcp.write_all(answer).await.unwrap();
            drop(tcp.read(&mut [0]).await);
        });
        world.service(&shop(), &[origin]);
        world.rule(|rule| rule.timeouts.request = Some(Duration::from_millis(50)));
        let answer = get(world.proxy(), "/").await;
        assert!(answer.ends_with("\r\n\r\nsome"), "{answer}");
        let record = world.record().await;
        assert_eq!(record["reason"], "request_timeout");
        assert_eq!(record["response_code"], 200);
        assert_eq!(record["bytes_sent"], 4);
    });
}

#[test]
fn an_upstream_that_dies_before_the_head_is_502() {
    run(|mut world| async move {
        let origin = world.accept(|mut tcp, _| async move {
            read_until(&mut tcp, "\r\n\r\n").await;
        });
        world.service(&shop(), &[origin]);
        let answer = get(world.proxy(), "/").await;
        assert_failed(&answer, &world.record().await, 502, "upstream_reset");
    });
}

#[test]
fn an_upstream_that_dies_within_the_body_is_told() {
    run(|mut world| async move {
        let origin = world.accept(|mut tcp, _| async move {
            read_until(&mut tcp, "\r\n\r\n").await;
            let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n";
            tcp.write_all(answer).await.unwrap();
        });
        world.service(&shop(), &[origin]);
        let answer = get(world.proxy(), "/").await;
        assert!(
            answer.contains("2\r\nok\r\n") && !answer.contains("0\r\n\r\n"),
            "{answer}"
        );
        assert_eq!(world.record().await["reason"], "upstream_reset");
    });
}

#[test]
fn connect_is_refused() {
    run(|mut world| async move {
        world.service(&shop(), &[World::refusing()]);
        let request = "CONNECT shop:80 HTTP/1.1\r\nhost: shop:80\r\nconnection: close\r\n\r\n";
        let answer = talk(world.proxy(), request).await;
        assert_failed(&answer, &world.record().await, 405, "bad_request");
    });
}

#[test]
fn a_request_without_host_is_400() {
    run(|mut world| async move {
        world.service(&shop(), &[World::refusing()]);
        let request = "GET / HTTP/1.1\r\nconnection: close\r\n\r\n";
        let answer = talk(world.proxy(), request).await;
        assert_failed(&answer, &world.record().await, 400, "bad_request");
    });
}

#[test]
fn a_malformed_head_is_400_with_a_record() {
    run(|mut world| async move {
        let answer = talk(world.proxy(), "GET / HTTP/1.1\r\nbad header\r\n\r\n").await;
        assert_eq!(status(&answer), 400);
        let record = world.record().await;
        assert_eq!(
            (&record["response_code"], &record["reason"]),
            (&400.into(), &"bad_request".into())
        );
    });
}

#[test]
fn too_many_headers_are_431() {
    run(|mut world| async move {
        world.settings.header_count_max = 10;
        let many: String = (0..11).map(|n| format!("x-{n}: 1\r\n")).collect();
        let request = format!("GET / HTTP/1.1\r\nhost: shop\r\n{many}\r\n");
        assert_eq!(status(&talk(world.proxy(), &request).await), 431);
        assert_eq!(world.record().await["response_code"], 431);
    });
}

#[test]
fn headers_too_large_are_431() {
    run(|mut world| async move {
        let large = "x".repeat(world.settings.header_bytes_max);
        let request = format!("GET / HTTP/1.1\r\nhost: shop\r\nx-large: {large}\r\n\r\n");
        assert_eq!(status(&talk(world.proxy(), &request).await), 431);
        let record = world.record().await;
        assert_eq!(
            (&record["response_code"], &record["reason"]),
            (&431.into(), &"bad_request".into())
        );
    });
}

#[test]
fn a_slow_head_is_408() {
    run(|mut world| async move {
        world.settings.header_read_timeout = Duration::from_millis(50);
        let mut client = dial(world.proxy()).await;
        client.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_failed(&answer, &world.record().await, 408, "bad_request");
    });
}

#[test]
fn an_idle_client_is_let_go_without_a_record() {
    run(|mut world| async move {
        let origin = world.origin(|_| async { Response::new(text("ok")) });
        world.service(&shop(), &[origin]);
        world.settings.idle_timeout = Duration::from_millis(50);
        let mut client = dial(world.proxy()).await;
        let request = b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("ok"), "{answer}");
        world.records(1).await;
    });
}

#[test]
fn connections_to_one_endpoint_are_bounded() {
    run(|mut world| async move {
        world.upstream.connections_per_endpoint_max = 1;
        let (arrived, mut wait) = tokio::sync::mpsc::channel(1);
        let origin = world.origin(move |_| {
            arrived.try_send(()).unwrap();
            std::future::pending::<Response<Body>>()
        });
        world.service(&shop(), &[origin]);
        let proxy = world.proxy();
        let mut first = dial(proxy).await;
        first
            .write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n")
            .await
            .unwrap();
        wait.recv().await.unwrap();
        let answer = get(proxy, "/").await;
        assert_failed(&answer, &world.record().await, 503, "overloaded");
    });
}
