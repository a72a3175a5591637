//! HTTP/1.1 both ways: reuse, bodies, headers, stale connections, drain.

use super::support::{Body, dial, get, read_until, run, shop, status, talk, text};
use crate::context::Role;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn echo(request: Request<Incoming>) -> Response<Body> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Response::new(http_body_util::Full::new(body).boxed_unsync())
}

#[test]
fn both_connections_are_kept_between_requests() {
    run(|mut world| async move {
        let connections = Rc::new(Cell::new(0));
        let counted = connections.clone();
        let origin = world.accept(move |mut tcp, _| {
            counted.set(counted.get() + 1);
            async move {
                loop {
                    read_until(&mut tcp, "\r\n\r\n").await;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    tcp.write_all(answer).await.unwrap();
                }
            }
        });
        world.service(&shop(), &[origin]);
        let mut client = dial(world.proxy()).await;
        for _ in 0..3 {
            client
                .write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n")
                .await
                .unwrap();
            read_until(&mut client, "\r\n\r\nok").await;
        }
        let records = world.records(3).await;
        assert_eq!(connections.get(), 1);
        for record in records {
            assert_eq!(record["response_code"], 200);
            assert_eq!(record["reason"], "ok");
            assert_eq!(record["bytes_sent"], 2);
        }
    });
}

#[test]
fn bodies_stream_both_ways_and_are_counted() {
    run(|mut world| async move {
        let origin = world.origin(echo);
        world.service(&shop(), &[origin]);
        let size = 1 << 20;
        let mut client = dial(world.proxy()).await;
        let (mut read, mut write) = client.split();
        let head = format!(
            "POST /x HTTP/1.1\r\nhost: shop\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n"
        );
        let sending = async {
            write.write_all(head.as_bytes()).await.unwrap();
            write.write_all(&vec![b'x'; size]).await.unwrap();
        };
        let mut answer = Vec::new();
        let (_, read) = tokio::join!(sending, read.read_to_end(&mut answer));
        read.unwrap();
        assert!(answer.len() > size);
        let record = world.record().await;
        assert_eq!(record["bytes_received"], size);
        assert_eq!(record["bytes_sent"], size);
    });
}

#[test]
fn chunked_bodies_keep_their_trailers() {
    run(|world| async move {
        let origin = world.accept(|mut tcp, _| async move {
            let head = read_until(&mut tcp, "\r\n\r\n").await;
            assert!(head.contains("te: trailers"), "{head}");
            let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n";
            tcp.write_all(answer).await.unwrap();
        });
        let mut world = world;
        world.service(&shop(), &[origin]);
        let request = "GET / HTTP/1.1\r\nhost: shop\r\nte: trailers\r\n\
            connection: te, close\r\n\r\n";
        let answer = talk(world.proxy(), request).await;
        assert!(
            answer.ends_with("2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"),
            "{answer}"
        );
    });
}

#[test]
fn hop_by_hop_headers_stay_and_the_host_goes_on() {
    run(|mut world| async move {
        let seen = Rc::new(RefCell::new(None));
        let keep = seen.clone();
        let origin = world.origin(move |request| {
            keep.replace(Some(request.map(|_| ())));
            async {
                let mut response = Response::new(text("ok"));
                let headers = response.headers_mut();
                headers.insert("keep-alive", "timeout=5".parse().unwrap());
                headers.insert("x-app", "1".parse().unwrap());
                response
            }
        });
        world.service(&shop(), &[origin]);
        let request = "GET /a/%2e%2e/b?q=1 HTTP/1.1\r\nhost: Shop.demo:80\r\n\
            connection: close, x-hop\r\nx-hop: 1\r\nproxy-connection: x\r\nx-end: 1\r\n\
            x-forwarded-for: 1.2.3.4\r\n\r\n";
        let answer = talk(world.proxy(), request).await;
        assert_eq!(status(&answer), 200);
        assert!(
            answer.contains("x-app: 1") && !answer.contains("keep-alive"),
            "{answer}"
        );
        let seen = seen.borrow_mut().take().unwrap();
        assert_eq!(seen.uri(), "/b?q=1");
        let headers = seen.headers();
        assert_eq!(headers["host"], "Shop.demo:80");
        assert_eq!(headers["x-end"], "1");
        assert_eq!(headers["x-forwarded-for"], "1.2.3.4");
        for gone in [
            "x-hop",
            "proxy-connection",
            "connection",
            "x-forwarded-proto",
        ] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        let id = headers["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!(world.record().await["request_id"], id);
    });
}

#[test]
fn the_edge_writes_who_asks_and_how() {
    run(|mut world| async move {
        let origin = world.origin(|request| async move {
            let headers = request.headers();
            let of = |name: &str| headers[name].to_str().unwrap().to_owned();
            Response::new(text(&format!(
                "{}|{}",
                of("x-forwarded-for"),
                of("x-forwarded-proto")
            )))
        });
        world.service(&shop(), &[origin]);
        world.context.role = Role::Edge { secure: true };
        let answer = get(world.proxy(), "/").await;
        assert!(answer.ends_with("127.0.0.1|https"), "{answer}");
    });
}

#[test]
fn head_answers_keep_their_length_and_one_record() {
    run(|mut world| async move {
        let origin = world.accept(|mut tcp, _| async move {
            read_until(&mut tcp, "\r\n\r\n").await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n";
            tcp.write_all(answer).await.unwrap();
            drop(tcp.read(&mut [0]).await);
        });
        world.service(&shop(), &[origin]);
        let request = "HEAD / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";
        let answer = talk(world.proxy(), request).await;
        assert!(answer.contains("content-length: 1234"), "{answer}");
        assert_eq!(world.record().await["reason"], "ok");
    });
}

/// The origin closes each connection after one answer, without saying so: a kept connection is
/// found dead, and the request goes over a new one.
#[test]
fn a_connection_closed_while_kept_costs_no_request() {
    run(|mut world| async move {
        let origin = world.accept(|mut tcp, _| async move {
            read_until(&mut tcp, "\r\n\r\n").await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            tcp.write_all(answer).await.unwrap();
        });
        world.service(&shop(), &[origin]);
        let proxy = world.proxy();
        let mut client = dial(proxy).await;
        for _ in 0..20 {
            client
                .write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n")
                .await
                .unwrap();
            let answer = read_until(&mut client, "\r\n\r\nok").await;
            assert_eq!(status(&answer), 200);
        }
        world.records(20).await;
    });
}

#[test]
fn a_drain_lets_the_request_in_flight_end_and_closes() {
    run(|mut world| async move {
        let (go, wait) = tokio::sync::watch::channel(false);
        let origin = world.origin(move |_| {
            let mut wait = wait.clone();
            async move {
                wait.wait_for(|go| *go).await.unwrap();
                Response::new(text("done"))
            }
        });
        world.service(&shop(), &[origin]);
        let drain = world.drain.clone();
        let mut client = dial(world.proxy()).await;
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n")
            .await
            .unwrap();
        // The request is at the origin when it holds a receiver of its own.
        while go.receiver_count() < 2 {
            tokio::task::yield_now().await;
        }
        drain.start();
        go.send_replace(true);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("connection: close"), "{answer}");
        assert!(answer.ends_with("done"), "{answer}");
        assert_eq!(world.record().await["reason"], "ok");
    });
}

#[test]
fn a_forced_drain_cuts_and_says_so() {
    run(|mut world| async move {
        let origin = world.origin(|_| std::future::pending::<Response<Body>>());
        world.service(&shop(), &[origin]);
        let drain = world.drain.clone();
        let mut client = dial(world.proxy()).await;
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n")
            .await
            .unwrap();
        let forcing = async {
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            drain.force();
        };
        let mut answer = Vec::new();
        let (read, ()) = tokio::join!(client.read_to_end(&mut answer), forcing);
        drop(read);
        assert_eq!(answer, b"");
        assert_eq!(world.record().await["reason"], "drained");
    });
}

#[test]
fn a_client_that_goes_away_is_recorded_as_such() {
    run(|mut world| async move {
        let (arrived, mut wait) = tokio::sync::mpsc::channel(1);
        let origin = world.origin(move |_| {
            arrived.try_send(()).unwrap();
            std::future::pending::<Response<Body>>()
        });
        world.service(&shop(), &[origin]);
        let mut client = dial(world.proxy()).await;
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n")
            .await
            .unwrap();
        wait.recv().await.unwrap();
        drop(client);
        let record = world.record().await;
        assert_eq!(record["reason"], "downstream_reset");
        assert_eq!(record["response_flags"], "DC");
    });
}

/// Two framings of one body: whichever the origin believed, it must see the same requests as we.
#[test]
fn a_request_with_two_lengths_is_sent_with_one() {
    run(|mut world| async move {
        let origin = world.origin(|request| async move {
            let headers = request.headers();
            assert!(!headers.contains_key("content-length"));
            assert_eq!(headers["transfer-encoding"], "chunked");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, "hello");
            Response::new(text("one"))
        });
        world.service(&shop(), &[origin]);
        let request = "POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 3\r\n\
            transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n\
            GET /smuggled HTTP/1.1\r\nhost: shop\r\n\r\n";
        let answer = talk(world.proxy(), request).await;
        assert!(answer.ends_with("one"), "{answer}");
        world.record().await;
    });
}
