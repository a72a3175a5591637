//! A tunnel server on loopback, and clients of it.

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use mesh_hbone::{
    ConnectRequest, Dial, HboneStream, Incoming, Pool, ServerSettings, TunnelError, TunnelKey,
    serve_until,
};
use mesh_model::SpiffeId;
use mesh_net::{ConnectOptions, ListenOptions};
use mesh_runtime::{Drain, Scope};
use mesh_tls::{Expected, MeshStream, WorkloadCertificate};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::TcpStream;

/// Runs a test on one thread, as a worker would.
pub(crate) fn local<F: AsyncFnOnce(Scope)>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, test(Scope::new()));
}

/// The identity of a service account of the test mesh.
pub(crate) fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "demo", account).unwrap()
}

/// Of a service account of the test mesh.
pub(crate) fn certificate(account: &str) -> Arc<WorkloadCertificate> {
    Arc::new(WorkloadCertificate::self_signed(&id(account)).unwrap())
}

/// A dial as the client.
pub(crate) fn dial() -> Dial {
    Dial::once(ConnectOptions::default(), certificate("client"))
}

/// A CONNECT with one header.
pub(crate) fn request(authority: &str) -> ConnectRequest {
    let mut headers = HeaderMap::new();
    headers.insert("baggage", "a=b".parse().unwrap());
    ConnectRequest {
        authority: authority.into(),
        headers,
    }
}

/// Opens a stream to port 80.
pub(crate) async fn open(pool: &Pool, origin: &Origin) -> Result<HboneStream, TunnelError> {
    origin.open(pool, request("10.0.0.9:80")).await
}

/// Sends back what comes until it ends.
pub(crate) async fn echo(stream: HboneStream) {
    let (mut read, mut write) = tokio::io::split(stream);
    // A client that goes away in the middle is part of several tests.
    if tokio::io::copy(&mut read, &mut write).await.is_ok() {
        drop(tokio::io::AsyncWriteExt::shutdown(&mut write).await);
    }
}

/// A tunnel server.
pub(crate) struct Origin {
    address: SocketAddr,
    connections: Rc<Cell<usize>>,
    requests: Rc<Cell<usize>>,
    drain: Rc<RefCell<Drain>>,
    retired: Rc<RefCell<Drain>>,
}

impl Origin {
    /// Starts one that never drains.
    pub(crate) fn start<F, Fut>(scope: &Scope, handler: F) -> Self
    where
        F: Fn(Incoming) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        Self::start_with(scope, &Drain::new(), handler)
    }

    /// Starts one.
    pub(crate) fn start_with<F, Fut>(scope: &Scope, drain: &Drain, handler: F) -> Self
    where
        F: Fn(Incoming) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let any_port = ListenOptions::new("127.0.0.1:0".parse().unwrap());
        let listener = mesh_net::listen(&any_port).unwrap();
        let origin = Self {
            address: listener.local_addr().unwrap(),
            connections: Rc::default(),
            requests: Rc::default(),
            drain: Rc::new(RefCell::new(drain.clone())),
            retired: Rc::new(RefCell::new(Drain::new())),
        };
        let (connections, requests) = (origin.connections.clone(), origin.requests.clone());
        let (drain, tasks) = (origin.drain.clone(), scope.clone());
        let retired = origin.retired.clone();
        let handler = Rc::new(handler);
        scope.spawn_local("origin", async move {
            let certificate = certificate("server");
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                connections.set(connections.get() + 1);
                let (certificate, drain) = (certificate.clone(), drain.borrow().clone());
                let (handler, requests) = (handler.clone(), requests.clone());
                let (scope, retired) = (tasks.clone(), retired.borrow().clone());
                tasks.spawn_local("origin connection", async move {
                    let Ok((tls, _)) = mesh_tls::accept_mesh(tcp, &certificate).await else {
                        return;
                    };
                    let counted = |incoming| {
                        requests.set(requests.get() + 1);
                        handler(incoming)
                    };
                    let settings = ServerSettings::default();
                    let retire = retired.started();
                    let served = serve_until(tls, &settings, &drain, &scope, retire, counted);
                    drop(served.await);
                });
            }
        });
        origin
    }

    /// TCP connections taken so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.get()
    }

    /// Requests that reached the handler so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.get()
    }

    /// The drain of connections from now on.
    pub(crate) fn use_drain(&self, drain: &Drain) {
        *self.drain.borrow_mut() = drain.clone();
    }

    /// Takes no more streams on the connections there are.
    pub(crate) fn retire(&self) {
        self.retired.replace(Drain::new()).start();
    }

    /// The pool key of this server.
    pub(crate) fn key(&self) -> TunnelKey {
        TunnelKey {
            source: id("client"),
            expected: Expected::AnyOf(vec![id("server")]),
            address: self.address,
            source_ip: None,
        }
    }

    /// Opens a stream.
    pub(crate) async fn open(
        &self,
        pool: &Pool,
        request: ConnectRequest,
    ) -> Result<HboneStream, TunnelError> {
        pool.open(&self.key(), dial(), request).await
    }

    /// A TLS connection without HTTP/2 on it.
    pub(crate) async fn raw_tls(&self) -> MeshStream<TcpStream> {
        let tcp = mesh_net::connect(self.address, &ConnectOptions::default())
            .await
            .unwrap();
        let expected = Expected::AnyOf(vec![id("server")]);
        let (tls, _) = mesh_tls::connect_mesh(tcp, &certificate("client"), &expected)
            .await
            .unwrap();
        tls
    }

    /// An HTTP/2 client that sends what it is told, however wrong.
    pub(crate) async fn raw_h2(&self, scope: &Scope) -> h2::client::SendRequest<Bytes> {
        let (client, connection) = h2::client::handshake(self.raw_tls().await).await.unwrap();
        scope.spawn_local("raw client", async move {
            drop(connection.await);
        });
        client
    }
}

/// A CONNECT with an authority of any form.
pub(crate) fn connect(authority: &str) -> Request<()> {
    let uri = http::Uri::builder().authority(authority).build().unwrap();
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = uri;
    request
}
