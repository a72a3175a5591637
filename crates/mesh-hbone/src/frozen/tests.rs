//! Tunnels taken apart in the middle of a transfer, over real TCP and TLS.

use super::*;
use crate::testing::{certificate, id, in_time, listen, request, tcp_pair};
use crate::{Dial, Incoming, Pool, PoolSettings, ServerSettings, TunnelKey, join, serve_session};
use http::HeaderMap;
use mesh_net::{ConnectOptions, Counters, PumpEnd, Side};
use mesh_runtime::{Drain, Scope};
use mesh_tls::Expected;
use std::cell::Cell;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes between two interruptions.
const STRIDE: u64 = 300_000;
/// Bytes each way.
const BODY: u32 = 16_000_003;
/// Interruptions of a side: each time a tunnel is taken up the peer is told to open no more streams,
/// and it bounds how often it is told.
const INTERRUPTIONS_MAX: u32 = 40;

/// Carries a session and takes its tunnel apart and up again every [`STRIDE`] bytes.
async fn interrupted(
    mut tcp: TcpStream,
    mut stream: HboneStream,
    side: Side,
    scope: &Scope,
    freezes: &Cell<u32>,
) -> PumpEnd {
    let counters = Counters::new();
    loop {
        let until = counters.sent() + counters.received() + STRIDE;
        let far_enough = async {
            while counters.sent() + counters.received() < until
                || freezes.get() == INTERRUPTIONS_MAX
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = far_enough => {}
            end = join(&mut tcp, &mut stream, side, &counters) => return end,
        }
        let number = stream.number();
        let headers = stream.response_headers();
        assert_eq!(headers.contains_key("baggage"), side == Side::Downstream);
        let Some(frozen) = stream.tunnel().freeze().await else {
            // The other side was done first.
            return PumpEnd::Complete;
        };
        drop(stream);
        freezes.set(freezes.get() + 1);
        // As it would travel to another process, the socket apart.
        let io = *frozen.io.downcast::<TcpStream>().unwrap();
        let state = serde_json::to_vec(&frozen.state).unwrap();
        let state = serde_json::from_slice(&state).unwrap();
        let revived = revive(io, state, KeepAlive::default()).unwrap();
        let (streams, task) = revived.into_parts();
        scope.spawn_local("revived tunnel", async move {
            drop(task.await);
        });
        let same = streams.into_iter().find(|(of, _)| *of == number);
        stream = same.unwrap().1;
        assert_eq!(stream.response_headers(), headers);
    }
}

async fn talk(mut tcp: TcpStream, say: Vec<u8>) -> Vec<u8> {
    let (mut read, mut write) = tcp.split();
    let mut heard = Vec::new();
    let writing = async {
        for piece in say.chunks(30_000) {
            write.write_all(piece).await.unwrap();
        }
        write.shutdown().await.unwrap();
    };
    tokio::join!(writing, async {
        read.read_to_end(&mut heard).await.unwrap();
    });
    heard
}

#[test]
fn a_transfer_goes_on_where_its_tunnel_was_taken_apart() {
    in_time(async |scope| {
        let listener = listen();
        let address = listener.local_addr().unwrap();
        let (app, server) = tcp_pair().await;
        let app = Rc::new(Cell::new(Some(app)));
        let far_freezes = Rc::new(Cell::new(0));
        let (tasks, freezes) = (scope.clone(), far_freezes.clone());
        scope.spawn_local("far side", async move {
            let (tcp, _) = mesh_net::accept(&listener).await.unwrap();
            let session = mesh_tls::accept_session(tcp, &certificate("server"))
                .await
                .unwrap();
            let (settings, drain) = (ServerSettings::default(), Drain::new());
            let handler = |incoming: Incoming| {
                let (app, freezes) = (app.take().unwrap(), freezes.clone());
                let scope = tasks.clone();
                async move {
                    let mut headers = HeaderMap::new();
                    for twice in ["a=b", "c=d"] {
                        headers.append("baggage", twice.parse().unwrap());
                    }
                    let stream = incoming.accept(&headers).unwrap();
                    interrupted(app, stream, Side::Upstream, &scope, &freezes).await;
                }
            };
            let never = std::future::pending();
            serve_session(session, &settings, &drain, &tasks, never, handler)
                .await
                .unwrap();
        });

        let pool = Pool::new(PoolSettings::default(), &scope);
        let key = TunnelKey {
            source: id("client"),
            expected: Expected::AnyOf(vec![id("server")]),
            address,
            source_ip: None,
        };
        let dial = Dial::once(ConnectOptions::default(), certificate("client"));
        let stream = pool.open(&key, dial, request()).await.unwrap();
        let (client, down) = tcp_pair().await;
        let near_freezes = Cell::new(0);
        let up: Vec<u8> = (0..BODY).map(|i| i.to_le_bytes()[1] ^ 0x55).collect();
        let back: Vec<u8> = (0..BODY).map(|i| i.to_le_bytes()[0]).collect();
        let (end, at_client, at_server) = tokio::join!(
            interrupted(down, stream, Side::Downstream, &scope, &near_freezes),
            talk(client, up.clone()),
            talk(server, back.clone()),
        );
        assert!(matches!(end, PumpEnd::Complete), "{end:?}");
        assert!(at_client == back && at_server == up);
        let freezes = (near_freezes.get(), far_freezes.get());
        assert!(freezes.0 > 10 && freezes.1 > 10, "{freezes:?}");
        scope.cancel();
    });
}
