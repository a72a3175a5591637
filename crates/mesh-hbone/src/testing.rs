//! What the tests of several modules start from.

use crate::{
    ConnectRequest, HboneStream, Incoming, Pool, PoolSettings, ServerSettings, TunnelError,
    TunnelKey, Windows, serve,
};
use http::HeaderMap;
use mesh_model::SpiffeId;
use mesh_net::{ConnectOptions, ListenOptions};
use mesh_runtime::{Drain, Scope};
use mesh_tls::{Expected, WorkloadCertificate};
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Runs a test on one thread, as a worker would, with a clock that jumps when nothing else is left to do.
pub(crate) fn paused<F: AsyncFnOnce(Scope)>(test: F) {
    run(true, test);
}

/// Runs a test with real sockets, for which time cannot stand still.
pub(crate) fn in_time<F: AsyncFnOnce(Scope)>(test: F) {
    run(false, test);
}

fn run<F: AsyncFnOnce(Scope)>(paused: bool, test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(paused)
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let scope = Scope::new();
        test(scope.clone()).await;
        scope.cancel();
    });
}

/// The identity of a service account.
pub(crate) fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "demo", account).unwrap()
}

/// Its certificate: self-signed, which those of one process believe each other.
pub(crate) fn certificate(account: &str) -> Arc<WorkloadCertificate> {
    Arc::new(WorkloadCertificate::self_signed(&id(account)).unwrap())
}

/// A tunnel from the client to somewhere.
pub(crate) fn key() -> TunnelKey {
    TunnelKey {
        source: id("client"),
        expected: Expected::TrustDomain,
        address: "10.0.0.1:15008".parse().unwrap(),
        source_ip: None,
    }
}

/// A CONNECT without headers.
pub(crate) fn request() -> ConnectRequest {
    ConnectRequest {
        authority: "10.0.0.1:80".into(),
        headers: HeaderMap::new(),
    }
}

/// Any port of the loopback.
pub(crate) fn listen() -> TcpListener {
    mesh_net::listen(&ListenOptions::new("127.0.0.1:0".parse().unwrap())).unwrap()
}

/// Both ends of a TCP connection.
pub(crate) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = listen();
    let to = listener.local_addr().unwrap();
    let client = mesh_net::connect(to, &ConnectOptions::default())
        .await
        .unwrap();
    let (server, _) = mesh_net::accept(&listener).await.unwrap();
    (client, server)
}

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

/// A tunnel over such a pipe.
pub(crate) struct Tunnel {
    pool: Pool,
    server: ServerSettings,
    writes: Rc<Cell<usize>>,
    accepted: mpsc::Receiver<HboneStream>,
    accept: mpsc::Sender<HboneStream>,
    scope: Scope,
}

impl Tunnel {
    pub(crate) fn new(scope: &Scope) -> Self {
        Self::with_windows(scope, Windows::default())
    }

    /// With the same windows on both sides.
    pub(crate) fn with_windows(scope: &Scope, windows: Windows) -> Self {
        let (accept, accepted) = mpsc::channel(100);
        let settings = PoolSettings {
            windows,
            ..PoolSettings::default()
        };
        Self {
            pool: Pool::new(settings, scope),
            server: ServerSettings {
                windows,
                ..ServerSettings::default()
            },
            writes: Rc::default(),
            accepted,
            accept,
            scope: scope.clone(),
        }
    }

    /// Writes of the client's end so far.
    pub(crate) fn writes(&self) -> usize {
        self.writes.get()
    }

    /// Connections that are open: one, or none.
    pub(crate) fn connections(&self) -> usize {
        self.pool.connections()
    }

    fn dial(&self) -> Counted {
        let (near, far) = duplex(1 << 22);
        let (scope, accept) = (self.scope.clone(), self.accept.clone());
        let settings = self.server.clone();
        self.scope.spawn_local("far side", async move {
            let hand_over = move |incoming: Incoming| {
                let accept = accept.clone();
                async move {
                    let stream = incoming.accept(&HeaderMap::new()).unwrap();
                    accept.send(stream).await.unwrap();
                }
            };
            drop(serve(far, &settings, &Drain::new(), &scope, hand_over).await);
        });
        Counted {
            pipe: near,
            writes: self.writes.clone(),
        }
    }

    /// Both ends of one more stream.
    pub(crate) async fn pair(&mut self) -> (HboneStream, HboneStream) {
        let dial = || std::future::ready(Ok::<_, TunnelError>(self.dial()));
        let near = self.pool.open_with(&key(), dial, &request()).await.unwrap();
        (near, self.accepted.recv().await.unwrap())
    }
}
