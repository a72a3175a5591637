//! A tunnel in a stream of another (double HBONE: interop/hbone.md), over real TLS on both levels.

use crate::support::{Origin, certificate, dial, echo, id, local, open, request};
use http::HeaderMap;
use mesh_hbone::{Incoming, Pool, PoolSettings, ServerSettings, TunnelError, serve_session};
use mesh_model::Reason;
use mesh_runtime::{Drain, Scope};
use mesh_tls::{Expected, Session};
use std::cell::Cell;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes of the large transfer.
const BODY: u32 = 8 << 20;

/// A gateway behind which a workload of the identity `inner` takes tunnels; `ended` counts streams of
/// the gateway that came to their end.
fn gateway(scope: &Scope, ended: &Rc<Cell<u32>>) -> Origin {
    let (tasks, ended) = (scope.clone(), ended.clone());
    Origin::start(scope, move |incoming: Incoming| {
        let (tasks, ended) = (tasks.clone(), ended.clone());
        async move {
            let outer = incoming.accept(&HeaderMap::new()).unwrap();
            if let Ok(session) = mesh_tls::accept_session(outer, &certificate("inner")).await {
                serve(session, &tasks).await;
            }
            ended.set(ended.get() + 1);
        }
    })
}

async fn serve(session: Session<mesh_hbone::HboneStream>, scope: &Scope) {
    assert_eq!(session.peer.identity, id("client"));
    let handler = async |incoming: Incoming| {
        assert_eq!(incoming.authority(), "web.demo.svc.cluster.local:80");
        let mut headers = HeaderMap::new();
        headers.insert("baggage", "inner=1".parse().unwrap());
        echo(incoming.accept(&headers).unwrap()).await;
    };
    let (settings, drain) = (ServerSettings::default(), Drain::new());
    let never = std::future::pending();
    let served = serve_session(session, &settings, &drain, scope, never, handler);
    served.await.unwrap();
}

fn inner_request() -> mesh_hbone::ConnectRequest {
    request("web.demo.svc.cluster.local:80")
}

#[test]
fn bytes_pass_both_levels_and_the_outer_stream_ends_with_the_inner_one() {
    local(async |scope| {
        let ended = Rc::default();
        let gateway = gateway(&scope, &ended);
        let pool = Pool::new(PoolSettings::default(), &scope);
        let outer = open(&pool, &gateway).await.unwrap();
        let expected = Expected::AnyOf(vec![id("inner")]);
        let (own, asked) = (dial(), inner_request());
        let inner = pool.open_within(outer, &own, &expected, &asked);
        let (mut inner, peer) = inner.await.unwrap();
        assert_eq!(peer, id("inner"));
        assert_eq!(inner.response_headers()["baggage"], "inner=1");
        let body: Vec<u8> = (0..BODY).map(|i| i.to_le_bytes()[1]).collect();
        let mut back = Vec::new();
        let (mut read, mut write) = tokio::io::split(&mut inner);
        let sending = async {
            write.write_all(&body).await.unwrap();
            write.shutdown().await.unwrap();
        };
        tokio::join!(sending, async {
            read.read_to_end(&mut back).await.unwrap();
        });
        assert!(back == body, "what came back is not what was sent");
        drop(inner);
        while ended.get() < 1 {
            tokio::task::yield_now().await;
        }
        // The gateway's tunnel goes on, for the next one.
        let _again = open(&pool, &gateway).await.unwrap();
        assert_eq!(gateway.connections(), 1);
        scope.cancel();
    });
}

#[test]
fn behind_the_right_gateway_the_wrong_peer_is_found_before_anything_is_sent() {
    local(async |scope| {
        let ended = Rc::default();
        let gateway = gateway(&scope, &ended);
        let pool = Pool::new(PoolSettings::default(), &scope);
        let outer = open(&pool, &gateway).await.unwrap();
        let expected = Expected::AnyOf(vec![id("somebody-else")]);
        let (own, asked) = (dial(), inner_request());
        let inner = pool.open_within(outer, &own, &expected, &asked).await;
        let error = inner.err().unwrap();
        assert_eq!(error.reason(), Reason::TlsFailure, "{error}");
        assert!(error.retry_is_safe());
        while ended.get() < 1 {
            tokio::task::yield_now().await;
        }
        scope.cancel();
    });
}

#[test]
fn a_gateway_that_ends_in_the_middle_is_an_error_not_an_end() {
    local(async |scope| {
        let origin = Origin::start(&scope, async |incoming: Incoming| {
            let mut outer = incoming.accept(&HeaderMap::new()).unwrap();
            // Takes the inner handshake's first bytes and goes away.
            outer.read_u8().await.unwrap();
            outer.reset();
        });
        let pool = Pool::new(PoolSettings::default(), &scope);
        let outer = open(&pool, &origin).await.unwrap();
        let expected = Expected::AnyOf(vec![id("inner")]);
        let (own, asked) = (dial(), inner_request());
        let inner = pool.open_within(outer, &own, &expected, &asked).await;
        let error = inner.err().unwrap();
        assert!(matches!(error, TunnelError::Tls(_)), "{error}");
        assert!(error.retry_is_safe(), "no request was sent");
        scope.cancel();
    });
}
