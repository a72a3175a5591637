//! Tunnels over real TLS on loopback: the pool and the server together, and the server against
//! peers that misbehave.

#[cfg(test)]
mod support;
#[cfg(test)]
mod trust;
#[cfg(test)]
mod within;

use http::{HeaderMap, Request, StatusCode};
use mesh_hbone::{HboneStream, Incoming, Pool, PoolSettings, TunnelError};
use mesh_model::Reason;
use mesh_runtime::Drain;
use support::{Origin, connect, echo, id, local, open, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn bytes_flow_both_ways_and_headers_are_seen() {
    local(async |scope| {
        let origin = Origin::start(&scope, async |incoming: Incoming| {
            assert_eq!(incoming.authority(), "10.0.0.9:80");
            assert_eq!(incoming.headers()["baggage"], "a=b");
            let mut headers = HeaderMap::new();
            headers.insert("baggage", "c=d".parse().unwrap());
            echo(incoming.accept(&headers).unwrap()).await;
        });
        let pool = Pool::new(PoolSettings::default(), &scope);
        let mut stream = open(&pool, &origin).await.unwrap();
        assert_eq!(stream.response_headers()["baggage"], "c=d");
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"hello");
        scope.cancel();
    });
}

#[test]
fn a_server_that_speaks_first_is_heard_and_each_direction_ends_alone() {
    local(async |scope| {
        let origin = Origin::start(&scope, async |incoming: Incoming| {
            let mut stream = incoming.accept(&HeaderMap::new()).unwrap();
            stream.write_all(b"220 ready").await.unwrap();
            // Our half ends first; the peer's goes on.
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"late words");
        });
        let pool = Pool::new(PoolSettings::default(), &scope);
        let mut stream = open(&pool, &origin).await.unwrap();
        let mut greeting = Vec::new();
        stream.read_to_end(&mut greeting).await.unwrap();
        assert_eq!(greeting, b"220 ready");
        stream.write_all(b"late words").await.unwrap();
        stream.shutdown().await.unwrap();
        scope.cancel();
    });
}

#[test]
fn concurrent_first_requests_share_one_dial_and_a_full_connection_is_passed_over() {
    local(async |scope| {
        let origin = Origin::start(&scope, async |incoming: Incoming| {
            echo(incoming.accept(&HeaderMap::new()).unwrap()).await;
        });
        let pool = Pool::new(PoolSettings::default(), &scope);
        let opens = (0..100).map(|_| open(&pool, &origin));
        let streams: Vec<HboneStream> = futures_util::future::try_join_all(opens).await.unwrap();
        assert_eq!(origin.connections(), 1, "100 streams fit one connection");
        let more = (0..150).map(|_| open(&pool, &origin));
        let more: Vec<HboneStream> = futures_util::future::try_join_all(more).await.unwrap();
        assert_eq!(origin.connections(), 3);
        drop(streams);
        let _again = open(&pool, &origin).await.unwrap();
        assert_eq!(origin.connections(), 3, "a stream that ended makes room");
        drop(more);
        scope.cancel();
    });
}

#[test]
fn large_transfers_pass_while_a_stream_nobody_reads_stands_still() {
    local(async |scope| {
        let origin = Origin::start(&scope, async |incoming: Incoming| {
            if incoming.authority().ends_with(":1") {
                // Accepts and never reads.
                let stream = incoming.accept(&HeaderMap::new()).unwrap();
                std::future::pending::<()>().await;
                drop(stream);
            } else {
                echo(incoming.accept(&HeaderMap::new()).unwrap()).await;
            }
        });
        let pool = Pool::new(PoolSettings::default(), &scope);
        let mut stuck = origin.open(&pool, request("10.0.0.9:1")).await.unwrap();
        let stream = open(&pool, &origin).await.unwrap();
        scope.spawn_local("stuck writer", async move {
            let chunk = vec![0; 64 << 10];
            while stuck.write_all(&chunk).await.is_ok() {}
        });
        let body: Vec<u8> = (0..24_u32 << 20).map(|i| i.to_le_bytes()[1]).collect();
        let (mut read, mut write) = tokio::io::split(stream);
        let sent = body.clone();
        scope.spawn_local("writer", async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut back = Vec::new();
        read.read_to_end(&mut back).await.unwrap();
        assert!(back == body, "what came back is not what was sent");
        scope.cancel();
    });
}

#[test]
fn a_refusal_is_told_with_its_status_and_nothing_is_sent_again() {
    local(async |scope| {
        let origin = Origin::start(&scope, async |incoming: Incoming| {
            incoming.refuse(Reason::PolicyDenied);
        });
        let pool = Pool::new(PoolSettings::default(), &scope);
        let error = open(&pool, &origin).await.err().unwrap();
        assert!(matches!(error, TunnelError::Refused(401)), "{error}");
        assert!(!error.retry_is_safe());
        assert_eq!(error.reason(), Reason::TunnelRefused);
        assert_eq!(origin.requests(), 1);
        scope.cancel();
    });
}

#[test]
fn the_wrong_peer_is_found_before_anything_is_sent() {
    local(async |scope| {
        let origin = Origin::start(&scope, async |_: Incoming| {});
        let pool = Pool::new(PoolSettings::default(), &scope);
        let mut key = origin.key();
        key.expected = mesh_tls::Expected::AnyOf(vec![id("somebody-else")]);
        let dial = support::dial();
        let error = pool.open(&key, dial, request("10.0.0.9:80")).await;
        let error = error.err().unwrap();
        assert_eq!(error.reason(), Reason::TlsFailure, "{error}");
        assert!(error.retry_is_safe());
        assert_eq!(pool.connections(), 0);
        scope.cancel();
    });
}

#[test]
fn after_a_goaway_streams_run_on_and_the_next_request_dials_anew() {
    local(async |scope| {
        let drain = Drain::new();
        let origin = Origin::start_with(&scope, &drain, async |incoming: Incoming| {
            echo(incoming.accept(&HeaderMap::new()).unwrap()).await;
        });
        let pool = Pool::new(PoolSettings::default(), &scope);
        let mut old = open(&pool, &origin).await.unwrap();
        drain.start();
        // The stream answers after the GOAWAY was sent, so once the echo is here, so is the GOAWAY.
        for _ in 0..3 {
            old.write_all(b"x").await.unwrap();
            assert_eq!(old.read_u8().await.unwrap(), b'x');
        }
        let other = Drain::new();
        origin.use_drain(&other);
        let _new = open(&pool, &origin).await.unwrap();
        assert_eq!(origin.connections(), 2);
        old.write_all(b"y").await.unwrap();
        assert_eq!(old.read_u8().await.unwrap(), b'y');
        drain.force();
        // The forced end closes the first tunnel; its stream ends one way or another.
        let mut rest = Vec::new();
        drop(old.read_to_end(&mut rest).await);
        assert!(rest.is_empty());
        scope.cancel();
    });
}

#[test]
fn a_retired_connection_takes_no_more_streams_and_those_there_run_on() {
    local(async |scope| {
        let origin = Origin::start(&scope, async |incoming: Incoming| {
            echo(incoming.accept(&HeaderMap::new()).unwrap()).await;
        });
        let pool = Pool::new(PoolSettings::default(), &scope);
        let mut old = open(&pool, &origin).await.unwrap();
        origin.retire();
        for _ in 0..3 {
            old.write_all(b"x").await.unwrap();
            assert_eq!(old.read_u8().await.unwrap(), b'x');
        }
        let mut new = open(&pool, &origin).await.unwrap();
        assert_eq!(origin.connections(), 2, "the peer proves itself anew");
        for stream in [&mut old, &mut new] {
            stream.write_all(b"y").await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'y');
        }
        scope.cancel();
    });
}

#[test]
fn what_is_not_a_connect_to_host_and_port_is_answered_400() {
    local(async |scope| {
        let origin = Origin::start(&scope, async |_: Incoming| {});
        let mut client = origin.raw_h2(&scope).await;
        let get = Request::get("https://10.0.0.9:80/").body(()).unwrap();
        let bad = [
            get,
            connect("10.0.0.9"),
            connect("10.0.0.9:0"),
            connect("[fd00::1]"),
            connect("user@10.0.0.9:80"),
            connect(&format!("{}:80", "a".repeat(400))),
        ];
        for request in bad {
            let shown = format!("{request:?}");
            let (answer, _send) = client.send_request(request, true).unwrap();
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{shown}");
            assert!(answer.body().is_end_stream(), "{shown}");
        }
        assert_eq!(origin.requests(), 0);
        scope.cancel();
    });
}

#[test]
fn huge_headers_are_refused_and_the_tunnel_lives_on() {
    local(async |scope| {
        let origin = Origin::start(&scope, async |incoming: Incoming| {
            echo(incoming.accept(&HeaderMap::new()).unwrap()).await;
        });
        let mut client = origin.raw_h2(&scope).await;
        let mut huge = connect("10.0.0.9:80");
        for n in 0..40 {
            let name: http::HeaderName = format!("x-{n}").parse().unwrap();
            let value = "v".repeat(2048).parse().unwrap();
            huge.headers_mut().insert(name, value);
        }
        let (answer, _send) = client.send_request(huge, true).unwrap();
        let status = answer.await.map(|a| a.status());
        assert!(
            !matches!(status, Ok(StatusCode::OK)),
            "huge headers were taken"
        );
        assert_eq!(origin.requests(), 0);
        let (answer, _send) = client.send_request(connect("10.0.0.9:80"), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
        scope.cancel();
    });
}

#[test]
fn garbage_and_truncated_frames_end_that_connection_only() {
    local(async |scope| {
        let origin = Origin::start(&scope, async |incoming: Incoming| {
            echo(incoming.accept(&HeaderMap::new()).unwrap()).await;
        });
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let garbage: [Vec<u8>; 4] = [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![0xff; 64],
            // SETTINGS of a length that is no multiple of 6, on a stream other than 0.
            [&preface[..], &[0, 0, 5, 4, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5]].concat(),
            // A HEADERS frame that says 100 bytes and brings 3.
            [
                &preface[..],
                &[0, 0, 0, 4, 0, 0, 0, 0, 0],
                &[0, 0, 100, 1, 4, 0, 0, 0, 1, 1, 2, 3],
            ]
            .concat(),
        ];
        for bytes in garbage {
            let mut tls = origin.raw_tls().await;
            tls.write_all(&bytes).await.unwrap();
            tls.shutdown().await.unwrap();
            // The server closes: reading comes to an end, in whatever way.
            let mut sink = Vec::new();
            drop(tls.read_to_end(&mut sink).await);
        }
        assert_eq!(origin.requests(), 0);
        let pool = Pool::new(PoolSettings::default(), &scope);
        let mut stream = open(&pool, &origin).await.unwrap();
        stream.write_all(b"still here").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"still here");
        scope.cancel();
    });
}

#[test]
fn resets_read_as_the_interop_document_says() {
    local(async |scope| {
        let origin = Origin::start(&scope, async |incoming: Incoming| {
            let port = incoming.authority().to_owned();
            let mut stream = incoming.accept(&HeaderMap::new()).unwrap();
            // The answer is on its way before the reset, which would overtake it.
            stream.read_u8().await.unwrap();
            if port.ends_with(":1") {
                // Dropped: h2 resets with CANCEL.
                drop(stream);
            } else {
                stream.reset();
            }
        });
        let pool = Pool::new(PoolSettings::default(), &scope);
        let mut rest = Vec::new();
        let mut cancelled = origin.open(&pool, request("10.0.0.9:1")).await.unwrap();
        cancelled.write_all(b"x").await.unwrap();
        assert_eq!(cancelled.read_to_end(&mut rest).await.unwrap(), 0);
        let mut reset = origin.open(&pool, request("10.0.0.9:2")).await.unwrap();
        reset.write_all(b"x").await.unwrap();
        let error = reset.read_to_end(&mut rest).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        assert!(reset.write_all(b"x").await.is_err());
        scope.cancel();
    });
}

#[test]
fn a_request_given_up_is_noticed_while_the_handler_works_on_it() {
    local(async |scope| {
        let (seen, mut noticed) = tokio::sync::mpsc::channel(1);
        let origin = Origin::start(&scope, move |mut incoming: Incoming| {
            let seen = seen.clone();
            async move {
                seen.send("started").await.unwrap();
                incoming.abandoned().await;
                seen.send("abandoned").await.unwrap();
            }
        });
        let pool = Pool::new(PoolSettings::default(), &scope);
        {
            let opening = open(&pool, &origin);
            tokio::pin!(opening);
            tokio::select! {
                _ = &mut opening => panic!("nobody answers"),
                got = noticed.recv() => assert_eq!(got, Some("started")),
            }
        }
        assert_eq!(noticed.recv().await, Some("abandoned"));
        scope.cancel();
    });
}
