//! A gateway in this process, fed with resources by hand.

use super::super::Control;
use crate::listeners::Builder;
use crate::settings::Edge;
use crate::worker::{Shared, Unbound};
use mesh_hbone::PoolSettings;
use mesh_model::{
    Backend, GatewayListener, ListenerKey, ListenerProtocol, ParentRef, Reason, Resource,
    RouteRuleName, Snapshot, SnapshotBuilder, SpiffeId, TcpRouteRule, WeightedBackend,
};
use mesh_net::{ConnectError, ConnectOptions, ListenOptions, connect, listen};
use mesh_runtime::{Drain, Readiness, ReadyGate, Scope, Workers};
use mesh_telemetry::{Metrics, RecordTap, Tracer};
use mesh_testkit::resources::service_name;
use mesh_tls::WorkloadCertificate;
use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// The Gateway every test serves.
pub(super) const GATEWAY: &str = "edge/front";
/// How long anything may take: far longer than it does unless it is broken.
const WAIT: Duration = Duration::from_secs(10);
/// Pause between two looks at something that comes true in a moment.
const LOOK: Duration = Duration::from_millis(5);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(super) struct Gateway {
    pub(super) scope: Scope,
    pub(super) metrics: Metrics,
    pub(super) drain: Drain,
    shared: Arc<Shared>,
    builder: RefCell<SnapshotBuilder>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    configuration: ReadyGate,
    listeners: ReadyGate,
    records: RecordTap,
    _certificate: watch::Sender<Option<Arc<WorkloadCertificate>>>,
    _workers: Workers,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.drain.force();
        self.scope.cancel();
    }
}

impl Gateway {
    /// A gateway without a certificate.
    pub(super) fn start() -> Self {
        Self::start_with(|_| None)
    }

    pub(super) fn start_with(
        certificate: impl FnOnce(&SpiffeId) -> Option<WorkloadCertificate>,
    ) -> Self {
        let edge = Edge {
            key_exchange: mesh_tls::KeyExchange::default(),
            gateway: GATEWAY.parse().unwrap(),
            identity: "spiffe://cluster.local/ns/edge/sa/front".parse().unwrap(),
            pod_name: "front".into(),
            instance_ip: LOOPBACK,
            network: "".into(),
            bind: LOOPBACK,
            mark: None,
            worker_connections_max: 64,
            pool: PoolSettings::default(),
        };
        let held = certificate(&edge.identity).map(Arc::new);
        let (certificate_sender, certificate) = watch::channel(held);
        let (snapshots, receiver) = watch::channel(SnapshotBuilder::new().snapshot());
        let builder = Builder::new(edge.clone());
        let (sender, table) = watch::channel(builder.current());
        let metrics = Metrics::new("test");
        let (scope, drain, readiness) = (Scope::new(), Drain::new(), Readiness::new());
        let records = metrics.tap_records(256);
        let shared = Arc::new(Shared {
            ejector: mesh_l4::Ejector::new(&metrics),
            edge,
            snapshots: receiver.clone(),
            table,
            certificate,
            metrics: metrics.clone(),
            tracer: Tracer::off(),
            drain: drain.clone(),
            scope: scope.clone(),
            connections: scope.child(),
            unbound: Unbound::default(),
        });
        let workers = Workers::start(2, "test").unwrap();
        let control = Control {
            builder,
            sender,
            workers: workers.clone(),
            shared: shared.clone(),
        };
        let configuration = readiness.gate("configuration");
        let listeners = readiness.gate("listeners");
        scope.spawn(
            "listeners",
            control.run(receiver, configuration.clone(), listeners.clone()),
        );
        Self {
            scope,
            metrics,
            drain,
            shared,
            builder: RefCell::default(),
            snapshots,
            configuration,
            listeners,
            records,
            _certificate: certificate_sender,
            _workers: workers,
        }
    }

    /// Adds or replaces resources; [`Self::publish`] makes them known.
    pub(super) fn put(&self, resources: impl IntoIterator<Item = Resource>) {
        for resource in resources {
            self.builder.borrow_mut().upsert(resource);
        }
    }

    pub(super) fn publish(&self) {
        self.snapshots
            .send_replace(self.builder.borrow().snapshot());
        self.configuration.open();
    }

    pub(super) async fn ready(&self) {
        let opened = self.listeners.opened();
        tokio::time::timeout(WAIT, opened).await.unwrap();
    }

    /// A port nobody listens on now.
    pub(super) fn free_port(&self) -> u16 {
        let any = ListenOptions::new(SocketAddr::new(LOOPBACK, 0));
        listen(&any).unwrap().local_addr().unwrap().port()
    }

    /// Waits for an end record with the reason; those before it are passed over.
    pub(super) async fn ended(&self, reason: Reason) {
        let looking = async {
            loop {
                match self.records.next(Duration::ZERO) {
                    Some(record) if record.to_string().contains(&format!("\"{reason}\"")) => return,
                    Some(_) => {}
                    None => tokio::time::sleep(LOOK).await,
                }
            }
        };
        tokio::time::timeout(WAIT, looking).await.unwrap();
    }

    /// Waits until the newest state of a listener is refused.
    pub(super) async fn listener_faulty(&self, name: &str) {
        let mut table = self.shared.table.clone();
        let faulty = table.wait_for(|table| {
            let named = |l: &&crate::listeners::ListenerStatus| l.name == name;
            table
                .listeners
                .iter()
                .find(named)
                .is_some_and(|l| l.fault.is_some())
        });
        tokio::time::timeout(WAIT, faulty).await.unwrap().unwrap();
    }
}

pub(super) fn listener(
    name: &str,
    port: u16,
    protocol: ListenerProtocol,
    host: Option<&str>,
) -> Resource {
    Resource::Listener(Arc::new(GatewayListener {
        key: ListenerKey {
            gateway: GATEWAY.parse().unwrap(),
            name: name.into(),
        },
        port,
        protocol,
        hostname: host.map(|h| h.parse().unwrap()),
        certificates: Vec::new(),
    }))
}

/// A rule that sends all of a listener to a service of `demo`.
pub(super) fn tcp_rule(route: &str, parent: ParentRef, service: &str, port: u16) -> Resource {
    Resource::TcpRoute(Arc::new(TcpRouteRule {
        name: RouteRuleName {
            route: route.parse().unwrap(),
            rule: 0,
        },
        created_unix_s: 0,
        parents: vec![parent],
        backends: vec![WeightedBackend {
            backend: Backend::Service {
                name: service_name("demo", service),
                port,
            },
            weight: 1,
            filters: Vec::new(),
        }],
    }))
}

/// A client of the gateway, over TCP or what was put over it.
pub(super) struct Client<S> {
    stream: S,
}

impl Client<TcpStream> {
    pub(super) async fn to(port: u16) -> Result<Self, ConnectError> {
        let address = SocketAddr::new(LOOPBACK, port);
        let stream = connect(address, &ConnectOptions::default()).await?;
        Ok(Self { stream })
    }

    /// Connects as soon as the port is open.
    pub(super) async fn to_soon(port: u16) -> Self {
        let trying = async {
            loop {
                match Self::to(port).await {
                    Ok(client) => return client,
                    Err(_) => tokio::time::sleep(LOOK).await,
                }
            }
        };
        tokio::time::timeout(WAIT, trying).await.unwrap()
    }

    /// Waits until the port is closed.
    pub(super) async fn refused_soon(port: u16) {
        let trying = async {
            while Self::to(port).await.is_ok() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(WAIT, trying).await.unwrap();
    }

    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(super) fn over(stream: S) -> Self {
        Self { stream }
    }

    /// Sends a text and reads as much.
    pub(super) async fn echo(&mut self, text: &str) -> io::Result<String> {
        self.stream.write_all(text.as_bytes()).await?;
        let mut back = vec![0; text.len()];
        self.stream.read_exact(&mut back).await?;
        Ok(String::from_utf8_lossy(&back).into_owned())
    }

    /// Reads to the end; a reset is an end too.
    pub(super) async fn rest(&mut self) -> String {
        let mut all = Vec::new();
        let reading = self.stream.read_to_end(&mut all);
        tokio::time::timeout(WAIT, reading).await.unwrap().ok();
        String::from_utf8_lossy(&all).into_owned()
    }

    /// One request; gives the whole answer, in lower case but for its status line.
    pub(super) async fn get(&mut self, host: &str, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await.unwrap();
        self.rest().await
    }
}
