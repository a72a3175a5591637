//! A mesh on loopback: its state, its proxies, its applications.

use crate::outbound;
use crate::proxy::{Node, Parts};
use crate::settings::{Proxy, Role};
use crate::worker::{self, Worker};
use mesh_identity::{CertificateSource, Identities};
use mesh_l7::{HttpSettings, UpstreamSettings};
use mesh_model::{
    Action, AppProtocol, AuthorizationPolicy, Cidr, ObjectName, PORT_HBONE, PolicyClause,
    PolicyMatch, PolicyRule, PolicyScope, Resource, Service, ServiceName, ServicePort, Snapshot,
    SnapshotBuilder, SpiffeId, TunnelProtocol, Workload,
};
use mesh_net::{ConnectOptions, ListenOptions};
use mesh_proxy::WorkloadInfo;
use mesh_runtime::{Context, Drain, Readiness, Scope, Workers};
use mesh_telemetry::{Metrics, RecordTap, Tracer};
use serde_json::Value;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Nothing in these tests takes this long; a test that waits longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// Virtual address of the one service; nothing listens there.
pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Its port.
pub(super) const PORT: u16 = 80;

/// Runs a test on one thread with a local set, as a worker does.
pub(super) fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce(Mesh) -> F + 'static) {
    mesh_tls::install_provider();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        tokio::time::timeout(PATIENCE, test(Mesh::new()))
            .await
            .expect("the test hangs");
    });
}

pub(super) fn shop() -> ServiceName {
    ServiceName::new("demo", "shop.demo.svc.cluster.local")
}

/// The state of the mesh and where its parts live.
pub(super) struct Mesh {
    pub(super) scope: Scope,
    pub(super) drain: Drain,
    builder: SnapshotBuilder,
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// The third byte of our addresses; the second is the process's.
    block: u8,
}

/// One proxy.
pub(super) struct TestProxy {
    pub(super) worker: Rc<Worker>,
    tap: RecordTap,
    seen: Vec<Value>,
}

impl Mesh {
    fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        Self {
            scope: Scope::new(),
            drain: Drain::new(),
            builder: SnapshotBuilder::new(),
            snapshots: watch::channel(Arc::default()).0,
            block: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The n-th address of this test; of another process's tests with small chance only.
    pub(super) fn ip(&self, n: u8) -> IpAddr {
        let process = u8::try_from(std::process::id() % 120).unwrap();
        IpAddr::from([127, 100 + process, self.block, n])
    }

    pub(super) fn put(&mut self, resource: Resource) {
        self.builder.upsert(resource);
        self.snapshots.send_replace(self.builder.snapshot());
    }

    /// The service [`shop`], in front of pods that serve it on a port.
    pub(super) fn shop(&mut self, protocol: AppProtocol, change: impl FnOnce(&mut Service)) {
        let mut service = Service::new(shop(), "shop");
        service.vips = vec![("".into(), Cidr::host(IpAddr::V4(VIP)))];
        service.ports = vec![ServicePort {
            service_port: PORT,
            target_port: 0,
            app_protocol: protocol,
        }];
        change(&mut service);
        self.put(Resource::Service(Arc::new(service)));
    }

    /// A pod that speaks HBONE; `serves` is its port of [`shop`].
    pub(super) fn pod(&mut self, name: &str, n: u8, serves: Option<u16>) {
        let mut workload = Workload::new(name, "demo", name);
        workload.addresses = vec![self.ip(n)];
        workload.protocol = TunnelProtocol::Hbone;
        workload.service_account = name.into();
        if let Some(target_port) = serves {
            let port = ServicePort {
                service_port: PORT,
                target_port,
                app_protocol: AppProtocol::Unknown,
            };
            workload.services.insert(shop(), vec![port]);
        }
        self.put(Resource::Workload(Arc::new(workload)));
    }

    /// The pod of a name, an endpoint of one more service.
    pub(super) fn stands_behind(&mut self, name: &str, n: u8, service: ServiceName) {
        let mut workload = Workload::new(name, "demo", name);
        workload.addresses = vec![self.ip(n)];
        workload.protocol = TunnelProtocol::Hbone;
        workload.service_account = name.into();
        workload.services.insert(service, Vec::new());
        self.put(Resource::Workload(Arc::new(workload)));
    }

    /// A proxy of the pod of a name, its tunnel listener open.
    pub(super) fn proxy(&self, role: Role, name: &str, n: u8) -> TestProxy {
        let metrics = Metrics::new("test");
        let tap = metrics.tap_records(1024);
        let info = WorkloadInfo {
            namespace: "demo".into(),
            name: name.into(),
            service_account: name.into(),
        };
        let (known, local) = watch::channel(None);
        let follow = crate::local::follow(info.clone(), self.snapshots.subscribe(), known);
        self.scope.spawn("local", follow);
        let parts = Parts {
            snapshots: self.snapshots.subscribe(),
            local,
            identities: Identities::start(CertificateSource::SelfSigned, &self.scope),
            metrics,
            tracer: Tracer::off(),
        };
        let proxy = Proxy {
            role,
            identity: SpiffeId::new("cluster.local", "demo", name).unwrap(),
            info,
            network: "".into(),
            bind: self.ip(n),
            mark: None,
            connections_max: 1000,
            detect_grace: Duration::from_millis(2),
            pool: mesh_hbone::PoolSettings::default(),
            server: mesh_hbone::ServerSettings::default(),
            http: HttpSettings::default(),
            upstream: UpstreamSettings::default(),
        };
        let context = Context {
            workers: Workers::start(1, "unused").unwrap(),
            scope: self.scope.clone(),
            connections: self.scope.clone(),
            drain: self.drain.clone(),
            readiness: Readiness::new(),
        };
        let node = Arc::new(Node::new(proxy, parts, &context));
        let tunnels = worker::listen(&node, PORT_HBONE).unwrap();
        let worker = Rc::new(Worker::new(node));
        match role {
            Role::Sidecar => {
                let run = crate::inbound::run(worker.clone(), tunnels);
                self.scope.spawn_local("inbound", run);
            }
            Role::Waypoint => {
                let run = crate::waypoint::run(worker.clone(), tunnels);
                self.scope.spawn_local("waypoint", run);
            }
            Role::NetworkGateway => {
                let run = crate::network_gateway::run(worker.clone(), tunnels);
                self.scope.spawn_local("network gateway", run);
            }
        }
        TestProxy {
            worker,
            tap,
            seen: Vec::new(),
        }
    }

    /// Where an application connects, in place of the redirection, to reach an address through its
    /// sidecar.
    pub(super) fn captured(&self, proxy: &TestProxy, to: SocketAddr) -> SocketAddr {
        let worker = proxy.worker.clone();
        self.accept(self.ip(200), move |tcp, peer| {
            let worker = worker.clone();
            let at = tcp.local_addr().unwrap();
            outbound::serve(worker, tcp, peer, at, to)
        })
    }

    /// Accepts connections; each is handled in a task of its own.
    pub(super) fn accept<F: Future<Output = ()> + 'static>(
        &self,
        ip: IpAddr,
        handle: impl Fn(TcpStream, SocketAddr) -> F + 'static,
    ) -> SocketAddr {
        let listener: TcpListener =
            mesh_net::listen(&ListenOptions::new(SocketAddr::new(ip, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let scope = self.scope.clone();
        self.scope.spawn_local("accept", async move {
            while let Ok((tcp, peer)) = listener.accept().await {
                scope.spawn_local("connection", handle(tcp, peer));
            }
        });
        address
    }

    /// An application that answers each request with its name and the request's path.
    pub(super) fn http_app(&self, name: &'static str, n: u8) -> u16 {
        let handle = move |mut tcp: TcpStream, _| async move {
            loop {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    match tcp.read(&mut byte).await {
                        Ok(1) => head.push(byte[0]),
                        _ => return,
                    }
                }
                let head = String::from_utf8(head).unwrap();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let body = format!("{name} {path}");
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                tcp.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        self.accept(self.ip(n), handle).port()
    }

    /// An application that speaks first, then echoes.
    pub(super) fn greeter(&self, n: u8) -> u16 {
        let handle = |mut tcp: TcpStream, _| async move {
            tcp.write_all(b"220 ready\r\n").await.unwrap();
            let (mut read, mut write) = tcp.split();
            drop(tokio::io::copy(&mut read, &mut write).await);
            drop(write.shutdown().await);
        };
        self.accept(self.ip(n), handle).port()
    }
}

impl TestProxy {
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
}

/// A policy for everything in the namespace `demo`.
pub(super) fn policy(action: Action, matches: Vec<PolicyMatch>) -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: ObjectName::new("demo", "policy"),
        scope: PolicyScope::Namespace,
        action,
        rules: vec![PolicyRule {
            clauses: vec![PolicyClause { matches }],
        }],
        dry_run: false,
        targets: Vec::new(),
        invalid: None,
        http_dropped: false,
    }
}

pub(super) async fn dial(to: SocketAddr) -> TcpStream {
    mesh_net::connect(to, &ConnectOptions::default())
        .await
        .unwrap()
}

/// One GET on a connection of its own.
pub(super) async fn get(to: SocketAddr, path: &str) -> String {
    let mut tcp = dial(to).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    read_all(&mut tcp).await
}

/// Reads to the end, however it ends.
pub(super) async fn read_all(tcp: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    drop(tcp.read_to_end(&mut answer).await);
    String::from_utf8_lossy(&answer).into_owned()
}
