//! A mesh of one service on loopback: origins, a proxy in front, clients, and the records.

use crate::context::{Authorization, ConnectionContext, HttpVersion, OwnedScope, Role};
use crate::exec::LocalExec;
use crate::{HttpProxy, HttpSettings, Upstream, UpstreamSettings};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_model::{
    AppProtocol, Backend, HttpRouteRule, ObjectName, ParentRef, Reason, Resource, RouteRuleName,
    RouteTimeouts, Service, ServiceName, ServicePort, Snapshot, SnapshotBuilder, WeightedBackend,
    Workload,
};
use mesh_net::{ConnectOptions, ListenOptions, listen};
use mesh_plan::Client;
use mesh_runtime::{Drain, Scope};
use mesh_telemetry::{Metrics, Party, RecordTap, Reporter, Security, Tracer};
use serde_json::Value;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Service-side port of the one service.
pub(super) const PORT: u16 = 80;
/// Nothing in these tests takes this long; a test that waits longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test on one thread with a local set, as a worker does.
pub(super) fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce(World) -> F + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let world = World::new();
        tokio::time::timeout(PATIENCE, test(world))
            .await
            .expect("the test hangs");
    });
}

pub(super) fn shop() -> ServiceName {
    ServiceName::new("demo", "shop.demo.svc.cluster.local")
}

pub(super) fn text(text: &str) -> Body {
    Full::new(Bytes::from(text.to_owned())).boxed_unsync()
}

pub(super) struct World {
    pub(super) scope: Scope,
    pub(super) drain: Drain,
    pub(super) settings: HttpSettings,
    pub(super) upstream: UpstreamSettings,
    pub(super) app_protocol: AppProtocol,
    pub(super) context: ConnectionContext,
    snapshots: watch::Sender<Arc<Snapshot>>,
    builder: SnapshotBuilder,
    tap: RecordTap,
    metrics: Metrics,
    seen: Vec<Value>,
}

impl World {
    fn new() -> Self {
        let (snapshots, receiver) = watch::channel(Arc::default());
        let metrics = Metrics::new("test");
        Self {
            scope: Scope::new(),
            drain: Drain::new(),
            settings: HttpSettings::default(),
            upstream: UpstreamSettings::default(),
            app_protocol: AppProtocol::Unknown,
            context: context(receiver),
            snapshots,
            builder: SnapshotBuilder::new(),
            tap: metrics.tap_records(1024),
            metrics,
            seen: Vec::new(),
        }
    }

    pub(super) fn put(&mut self, resource: Resource) {
        self.builder.upsert(resource);
        self.snapshots.send_replace(self.builder.snapshot());
    }

    /// Adds a service whose endpoints listen on loopback.
    pub(super) fn service(&mut self, name: &ServiceName, endpoints: &[SocketAddr]) {
        let mut service = Service::new(name.clone(), "shop");
        let port = |target_port| ServicePort {
            service_port: PORT,
            target_port,
            app_protocol: self.app_protocol,
        };
        service.ports = vec![port(0)];
        let workloads = endpoints.iter().map(|address| {
            let uid = format!("{}-{}", name.hostname, address.port());
            let mut workload = Workload::new(&uid, &name.namespace, &uid);
            workload.addresses = vec![address.ip()];
            workload
                .services
                .insert(name.clone(), vec![port(address.port())]);
            Resource::Workload(Arc::new(workload))
        });
        let workloads: Vec<Resource> = workloads.collect();
        self.put(Resource::Service(Arc::new(service)));
        for workload in workloads {
            self.put(workload);
        }
    }

    /// Adds a rule on the service [`shop`].
    pub(super) fn rule(&mut self, change: impl FnOnce(&mut HttpRouteRule)) {
        let mut rule = HttpRouteRule {
            name: RouteRuleName {
                route: ObjectName::new("demo", "route"),
                rule: 0,
            },
            created_unix_s: 0,
            parents: vec![ParentRef::Service {
                name: shop(),
                port: None,
            }],
            hostnames: Vec::new(),
            matches: Vec::new(),
            filters: Vec::new(),
            backends: vec![backend(&shop(), 1)],
            timeouts: RouteTimeouts::default(),
        };
        change(&mut rule);
        self.put(Resource::HttpRoute(Arc::new(rule)));
    }

    /// Starts the proxy and gives its address.
    pub(super) fn proxy(&self) -> SocketAddr {
        let connect = ConnectOptions::default();
        let upstream = Upstream::new(self.upstream.clone(), connect, None, &self.scope);
        let proxy = HttpProxy::new(
            self.settings.clone(),
            upstream,
            self.metrics.clone(),
            Tracer::off(),
            &self.scope,
        );
        let (context, drain) = (self.context.clone(), self.drain.clone());
        self.accept(move |tcp, peer| {
            let (proxy, drain, mut context) = (proxy.clone(), drain.clone(), context.clone());
            context.peer_address = peer;
            async move {
                let cut = std::future::pending::<Reason>();
                proxy.serve_connection(tcp, context, cut, &drain).await;
            }
        })
    }

    /// Accepts connections on loopback; each is handled in a task of its own.
    pub(super) fn accept<F: Future<Output = ()> + 'static>(
        &self,
        handle: impl Fn(TcpStream, SocketAddr) -> F + 'static,
    ) -> SocketAddr {
        let listener = listen(&ListenOptions::new(([127, 0, 0, 1], 0).into())).unwrap();
        let address = listener.local_addr().unwrap();
        let scope = self.scope.clone();
        self.scope.spawn_local("accept", async move {
            while let Ok((tcp, peer)) = listener.accept().await {
                scope.spawn_local("connection", handle(tcp, peer));
            }
        });
        address
    }

    /// An HTTP/1.1 origin.
    pub(super) fn origin<F>(&self, answer: impl Fn(Request<Incoming>) -> F + 'static) -> SocketAddr
    where
        F: Future<Output = Response<Body>> + 'static,
    {
        let answer = Rc::new(answer);
        self.accept(move |tcp, _| {
            let answer = answer.clone();
            async move {
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tcp), service);
                drop(served.await);
            }
        })
    }

    /// An HTTP/2 origin.
    pub(super) fn origin2<F>(&self, answer: impl Fn(Request<Incoming>) -> F + 'static) -> SocketAddr
    where
        F: Future<Output = Response<Body>> + 'static,
    {
        let (answer, exec) = (Rc::new(answer), LocalExec::new(&self.scope));
        self.accept(move |tcp, _| {
            let (answer, exec) = (answer.clone(), exec.clone());
            async move {
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let served = hyper::server::conn::http2::Builder::new(exec)
                    .serve_connection(TokioIo::new(tcp), service);
                drop(served.await);
            }
        })
    }

    /// A port that refuses connections.
    pub(super) fn refusing() -> SocketAddr {
        let listener = listen(&ListenOptions::new(([127, 0, 0, 1], 0).into())).unwrap();
        listener.local_addr().unwrap()
    }

    /// The metrics, as they are scraped.
    pub(super) fn encoded(&self) -> String {
        self.metrics.encode()
    }

    /// Waits until `count` records were given in all, and sees that no more come with them.
    pub(super) async fn records(&mut self, count: usize) -> Vec<Value> {
        while self.seen.len() < count {
            self.seen.extend(self.tap.take());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.seen.extend(self.tap.take());
        assert_eq!(self.seen.len(), count, "{:#?}", self.seen);
        self.seen.clone()
    }

    /// Waits for the first and only record.
    pub(super) async fn record(&mut self) -> Value {
        self.records(1).await.remove(0)
    }

    /// An HTTP/2 client of the proxy.
    pub(super) async fn client2(
        &self,
        proxy: SocketAddr,
    ) -> hyper::client::conn::http2::SendRequest<Body> {
        let io = TokioIo::new(dial(proxy).await);
        let (sender, connection) =
            hyper::client::conn::http2::handshake(LocalExec::new(&self.scope), io)
                .await
                .unwrap();
        self.scope.spawn_local("client", async move {
            drop(connection.await);
        });
        sender
    }
}

pub(super) fn backend(name: &ServiceName, weight: u32) -> WeightedBackend {
    WeightedBackend {
        backend: Backend::Service {
            name: name.clone(),
            port: PORT,
        },
        weight,
        filters: Vec::new(),
    }
}

fn context(snapshots: watch::Receiver<Arc<Snapshot>>) -> ConnectionContext {
    ConnectionContext {
        snapshots,
        client: Client::at("", "demo"),
        source: Party::default(),
        peer_address: ([127, 0, 0, 1], 1).into(),
        destination: ([10, 96, 0, 1], PORT).into(),
        scope: OwnedScope::Service {
            name: shop(),
            port: PORT,
        },
        authorization: Authorization::None,
        reporter: Reporter::Source,
        security: Security::Unknown,
        version: HttpVersion::Detect,
        role: Role::Mesh,
        server_name: None,
    }
}

pub(super) async fn dial(to: SocketAddr) -> TcpStream {
    mesh_net::connect(to, &ConnectOptions::default())
        .await
        .unwrap()
}

/// Sends text on a new connection and gives all that comes back until the proxy closes.
pub(super) async fn talk(to: SocketAddr, request: &str) -> String {
    let mut tcp = dial(to).await;
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    drop(tcp.read_to_end(&mut answer).await);
    String::from_utf8_lossy(&answer).into_owned()
}

/// One GET on a connection of its own.
pub(super) async fn get(to: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n");
    talk(to, &request).await
}

/// Reads until a text has come.
pub(super) async fn read_until(tcp: &mut TcpStream, end: &str) -> String {
    let mut all = Vec::new();
    let mut byte = [0];
    while !all.ends_with(end.as_bytes()) {
        assert_eq!(
            tcp.read(&mut byte).await.unwrap(),
            1,
            "closed after {all:?}"
        );
        all.extend_from_slice(&byte);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// The status of a raw answer.
pub(super) fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).unwrap_or_default();
    status
        .parse()
        .unwrap_or_else(|_| panic!("no answer: {answer:?}"))
}
