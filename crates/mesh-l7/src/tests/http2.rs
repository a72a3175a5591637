//! HTTP/2 both ways: one upstream connection for many requests, trailers, cut streams.

use super::support::{Body, get, run, shop, status, text};
use crate::context::Role;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use mesh_model::AppProtocol;
use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn request(path: &str, body: Body) -> Request<Body> {
    Request::post(format!("http://shop{path}"))
        .body(body)
        .unwrap()
}

fn nothing() -> Body {
    Empty::new().boxed_unsync()
}

/// Data, then trailers, as gRPC answers.
fn with_trailers(data: &'static str) -> Body {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "5".parse().unwrap());
    let frames = [
        Ok::<_, Infallible>(Frame::data(Bytes::from_static(data.as_bytes()))),
        Ok(Frame::trailers(trailers)),
    ];
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

#[test]
fn many_requests_share_one_upstream_connection() {
    run(|mut world| async move {
        let (all_here, wait) = tokio::sync::watch::channel(0);
        let all_here = Rc::new(all_here);
        let connections = Rc::new(Cell::new(0));
        let counted = connections.clone();
        let exec = crate::exec::LocalExec::new(&world.scope);
        let served = Rc::new(move |request: Request<hyper::body::Incoming>| {
            assert_eq!(request.version(), Version::HTTP_2);
            all_here.send_modify(|count| *count += 1);
            let mut wait = wait.clone();
            async move {
                // None is answered before all are here: they run side by side.
                wait.wait_for(|count| *count == 8).await.unwrap();
                Ok::<_, Infallible>(Response::new(text(request.uri().path())))
            }
        });
        let origin = world.accept(move |tcp, _| {
            counted.set(counted.get() + 1);
            let (served, exec) = (served.clone(), exec.clone());
            async move {
                let service = hyper::service::service_fn(move |request| served(request));
                let io = hyper_util::rt::TokioIo::new(tcp);
                let serving = hyper::server::conn::http2::Builder::new(exec);
                drop(serving.serve_connection(io, service).await);
            }
        });
        world.service(&shop(), &[origin]);
        let client = world.client2(world.proxy()).await;
        let calls = (0..8).map(|n| {
            let mut client = client.clone();
            async move {
                let response = client
                    .send_request(request(&format!("/{n}"), nothing()))
                    .await
                    .unwrap();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, format!("/{n}"));
            }
        });
        futures_util::future::join_all(calls).await;
        let records = world.records(8).await;
        assert!(records.iter().all(|r| r["protocol"] == "HTTP/2"));
        assert_eq!(connections.get(), 1);
    });
}

/// A gRPC message each: flag, length, text.
const ASK: &str = "\0\0\0\0\x03ask";
const ANSWER: &str = "\0\0\0\0\x06answer";

#[test]
fn grpc_trailers_pass_and_are_recorded() {
    run(|mut world| async move {
        let origin = world.origin2(|request| async move {
            assert_eq!(request.headers()["te"], "trailers");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, ASK);
            Response::new(with_trailers(ANSWER))
        });
        world.service(&shop(), &[origin]);
        // At the edge too, where an undeclared port is spoken to in HTTP/1.1 otherwise.
        world.context.role = Role::Edge { secure: false };
        let mut client = world.client2(world.proxy()).await;
        let mut call = request("/pkg.Service/Method", text(ASK));
        let headers = call.headers_mut();
        headers.insert("content-type", "application/grpc".parse().unwrap());
        headers.insert("te", "trailers".parse().unwrap());
        let response = client.send_request(call).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "5");
        assert_eq!(body.to_bytes(), ANSWER);
        let record = world.record().await;
        assert!(world.encoded().contains("istio_request_messages_total"));
        assert_eq!(record["grpc_status"], 5);
        assert_eq!(record["reason"], "ok");
    });
}

#[test]
fn the_edge_speaks_http1_to_an_undeclared_port() {
    run(|mut world| async move {
        let origin = world.origin(|request| async move {
            assert_eq!(request.version(), Version::HTTP_11);
            assert_eq!(request.headers()["cookie"], "a=1; b=2");
            assert_eq!(request.headers()["host"], "shop");
            Response::new(text("one"))
        });
        world.service(&shop(), &[origin]);
        world.context.role = Role::Edge { secure: false };
        let mut client = world.client2(world.proxy()).await;
        let mut call = request("/", nothing());
        call.headers_mut().append("cookie", "a=1".parse().unwrap());
        call.headers_mut().append("cookie", "b=2".parse().unwrap());
        let response = client.send_request(call).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "one");
        world.record().await;
    });
}

#[test]
fn a_declared_http2_port_is_spoken_to_in_http2() {
    run(|mut world| async move {
        let origin = world.origin2(|request| async move {
            assert_eq!(request.uri().authority().unwrap(), "shop");
            Response::new(text("two"))
        });
        world.app_protocol = AppProtocol::Http2;
        world.service(&shop(), &[origin]);
        let answer = get(world.proxy(), "/").await;
        assert_eq!(status(&answer), 200);
        assert!(answer.ends_with("two"), "{answer}");
    });
}

#[test]
fn a_stream_the_client_gives_up_ends_upstream_too() {
    run(|mut world| async move {
        let (arrived, mut wait) = tokio::sync::mpsc::channel(1);
        let gone = Rc::new(Cell::new(false));
        let told = gone.clone();
        struct OnDrop(Rc<Cell<bool>>);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.set(true);
            }
        }
        let origin = world.origin2(move |_| {
            let guard = OnDrop(told.clone());
            arrived.try_send(()).unwrap();
            async move {
                let _guard = guard;
                std::future::pending::<Response<Body>>().await
            }
        });
        world.service(&shop(), &[origin]);
        let mut client = world.client2(world.proxy()).await;
        {
            let call = client.send_request(request("/", nothing()));
            tokio::pin!(call);
            tokio::select! {
                _ = &mut call => panic!("an answer"),
                _ = wait.recv() => {}
            }
        }
        let record = world.record().await;
        assert_eq!(record["reason"], "downstream_reset");
        while !gone.get() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    });
}

/// A slow reader stops the origin: bytes under way are bounded by windows and buffers.
#[test]
fn a_reader_that_does_not_read_stops_the_origin() {
    run(|mut world| async move {
        let produced = Arc::new(AtomicUsize::new(0));
        let counted = produced.clone();
        let origin = world.origin2(move |_| {
            let counted = counted.clone();
            async move {
                let chunks = std::iter::repeat_with(move || {
                    counted.fetch_add(16384, Ordering::Relaxed);
                    Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0; 16384])))
                });
                Response::new(StreamBody::new(futures_util::stream::iter(chunks)).boxed_unsync())
            }
        });
        world.service(&shop(), &[origin]);
        let mut client = world.client2(world.proxy()).await;
        let response = client.send_request(request("/", nothing())).await.unwrap();
        // Until nothing moves any more.
        let mut last = usize::MAX;
        while last != produced.load(Ordering::Relaxed) {
            last = produced.load(Ordering::Relaxed);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert!(last < 16 << 20, "{last} bytes were taken from the origin");
        drop(response);
        assert_eq!(world.record().await["reason"], "downstream_reset");
    });
}

#[test]
fn too_many_headers_are_431_with_a_record() {
    run(|mut world| async move {
        world.service(&shop(), &[]);
        let mut client = world.client2(world.proxy()).await;
        let mut call = request("/", nothing());
        for n in 0..=world.settings.header_count_max {
            let name: http::HeaderName = format!("x-{n}").parse().unwrap();
            call.headers_mut().insert(name, "1".parse().unwrap());
        }
        let response = client.send_request(call).await.unwrap();
        assert_eq!(
            response.status(),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        );
        assert_eq!(world.record().await["reason"], "bad_request");
    });
}

/// A stream under way may end; a new one goes elsewhere.
#[test]
fn a_drain_lets_streams_end_and_says_goaway() {
    run(|mut world| async move {
        let (go, wait) = tokio::sync::watch::channel(false);
        let origin = world.origin2(move |_| {
            let mut wait = wait.clone();
            async move {
                wait.wait_for(|go| *go).await.unwrap();
                Response::new(text("done"))
            }
        });
        world.service(&shop(), &[origin]);
        let mut client = world.client2(world.proxy()).await;
        let call = client.send_request(request("/", nothing()));
        let drain = world.drain.clone();
        let draining = async {
            // The request is at the origin when it holds a receiver of its own.
            while go.receiver_count() < 2 {
                tokio::task::yield_now().await;
            }
            drain.start();
            go.send_replace(true);
        };
        let (response, ()) = tokio::join!(call, draining);
        let body = response.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "done");
        while !client.is_closed() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(world.record().await["reason"], "ok");
    });
}

/// The origin says GOAWAY after each answer: every request meets a connection that goes away or a
/// new one, and none is lost.
#[test]
fn an_upstream_that_goes_away_costs_no_request() {
    run(|mut world| async move {
        let exec = crate::exec::LocalExec::new(&world.scope);
        let origin = world.accept(move |tcp, _| {
            let exec = exec.clone();
            async move {
                let served = Rc::new(Cell::new(false));
                let told = served.clone();
                let service = hyper::service::service_fn(move |_| {
                    told.set(true);
                    async { Ok::<_, Infallible>(Response::new(text("ok"))) }
                });
                let io = hyper_util::rt::TokioIo::new(tcp);
                let serving =
                    hyper::server::conn::http2::Builder::new(exec).serve_connection(io, service);
                let mut serving = std::pin::pin!(serving);
                let mut leaving = false;
                drop(
                    std::future::poll_fn(|cx| {
                        let done = Future::poll(serving.as_mut(), cx);
                        if served.get() && !leaving {
                            leaving = true;
                            serving.as_mut().graceful_shutdown();
                            cx.waker().wake_by_ref();
                        }
                        done
                    })
                    .await,
                );
            }
        });
        world.service(&shop(), &[origin]);
        let mut client = world.client2(world.proxy()).await;
        for _ in 0..20 {
            let response = client.send_request(request("/", nothing())).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            response.into_body().collect().await.unwrap();
        }
        world.records(20).await;
    });
}
