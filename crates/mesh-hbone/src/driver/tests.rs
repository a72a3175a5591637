//! How a connection's task treats its streams, over memory.

use crate::pool::{ConnectRequest, Pool, TunnelKey};
use crate::{HboneStream, Incoming, PoolSettings, ServerSettings, TunnelError, serve};
use http::HeaderMap;
use mesh_model::SpiffeId;
use mesh_runtime::{Drain, Scope};
use mesh_tls::Expected;
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::sync::mpsc;

/// A pipe that counts what is written to it.
struct Counted {
    pipe: DuplexStream,
    writes: Rc<Cell<usize>>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.set(self.writes.get() + 1);
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

pub(crate) struct Tunnel {
    pool: Pool,
    writes: Rc<Cell<usize>>,
    accepted: mpsc::Receiver<HboneStream>,
    accept: mpsc::Sender<HboneStream>,
    scope: Scope,
}

impl Tunnel {
    pub(crate) fn new(scope: &Scope) -> Self {
        let (accept, accepted) = mpsc::channel(100);
        Self {
            pool: Pool::new(PoolSettings::default(), scope),
            writes: Rc::default(),
            accepted,
            accept,
            scope: scope.clone(),
        }
    }

    fn dial(&self) -> Counted {
        let (near, far) = duplex(1 << 22);
        let (scope, accept) = (self.scope.clone(), self.accept.clone());
        self.scope.spawn_local("far side", async move {
            let hand_over = move |incoming: Incoming| {
                let accept = accept.clone();
                async move {
                    let stream = incoming.accept(HeaderMap::new()).unwrap();
                    accept.send(stream).await.unwrap();
                }
            };
            let settings = ServerSettings::default();
            drop(serve(far, &settings, &Drain::new(), &scope, hand_over).await);
        });
        Counted {
            pipe: near,
            writes: self.writes.clone(),
        }
    }

    /// Both ends of one more stream.
    pub(crate) async fn pair(&mut self) -> (HboneStream, HboneStream) {
        let key = TunnelKey {
            source: SpiffeId::new("cluster.local", "demo", "client").unwrap(),
            expected: Expected::TrustDomain,
            address: "10.0.0.1:15008".parse().unwrap(),
            source_ip: None,
        };
        let request = ConnectRequest {
            authority: "10.0.0.1:80".into(),
            headers: HeaderMap::new(),
        };
        let dial = || std::future::ready(Ok::<_, TunnelError>(self.dial()));
        let near = self.pool.open_with(&key, dial, &request).await.unwrap();
        (near, self.accepted.recv().await.unwrap())
    }
}

fn local<F: AsyncFnOnce(Scope)>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let scope = Scope::new();
        test(scope.clone()).await;
        scope.cancel();
    });
}

/// Runs a test with real sockets, for which time cannot stand still.
pub(crate) fn local_with_time<F: AsyncFnOnce(Scope)>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let scope = Scope::new();
        test(scope.clone()).await;
        scope.cancel();
    });
}

#[test]
fn small_messages_of_many_streams_leave_in_one_write() {
    local(async |scope| {
        let mut tunnel = Tunnel::new(&scope);
        let mut pairs = Vec::new();
        for _ in 0..50 {
            pairs.push(tunnel.pair().await);
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        let before = tunnel.writes.get();
        for (near, _) in &mut pairs {
            // Taken at once: the connection's task does not run in between.
            near.write_all(&[7; 100]).await.unwrap();
        }
        for (_, far) in &mut pairs {
            let mut message = [0; 100];
            far.read_exact(&mut message).await.unwrap();
            assert_eq!(message, [7; 100]);
        }
        assert_eq!(tunnel.writes.get() - before, 1);
    });
}

#[test]
fn what_was_written_before_a_stream_was_dropped_arrives() {
    local(async |scope| {
        let mut tunnel = Tunnel::new(&scope);
        let (mut near, mut far) = tunnel.pair().await;
        near.write_all(&[3; 200_000]).await.unwrap();
        drop(near);
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        assert!(all == [3; 200_000], "{} bytes", all.len());
        drop(far);
        // And the stream is gone on both sides: the connection is released as an idle one.
        let idle = PoolSettings::default().idle_release;
        tokio::time::sleep(idle * 2).await;
        assert_eq!(tunnel.pool.connections(), 0);
    });
}

#[test]
fn a_dropped_stream_that_cannot_be_sent_is_reset_in_time() {
    local(async |scope| {
        let mut tunnel = Tunnel::new(&scope);
        let (mut near, far) = tunnel.pair().await;
        let window = usize::try_from(ServerSettings::default().windows.stream_bytes).unwrap();
        near.write_all(&vec![3; window + 1000]).await.unwrap();
        drop(near);
        // Nobody reads at the far side: the rest waits, and is thrown away in the end.
        let idle = PoolSettings::default().idle_release;
        tokio::time::sleep(idle * 2).await;
        assert_eq!(tunnel.pool.connections(), 0);
        drop(far);
    });
}

#[test]
fn a_keep_alive_is_answered_and_an_idle_tunnel_with_a_stream_lives_on() {
    local(async |scope| {
        let mut tunnel = Tunnel::new(&scope);
        let (mut near, mut far) = tunnel.pair().await;
        let before = tunnel.writes.get();
        tokio::time::sleep(std::time::Duration::from_secs(1000)).await;
        // A PING of ours and the answer to one of theirs, every ten seconds.
        let writes = tunnel.writes.get() - before;
        assert!((90..=210).contains(&writes), "{writes} writes");
        far.write_all(b"still here").await.unwrap();
        let mut word = [0; 10];
        near.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"still here");
    });
}
