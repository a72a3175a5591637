//! What the connections of one worker share.

use crate::listeners::{Arrival, Table};
use crate::settings::Edge;
use mesh_discovery::SnapshotReceiver;
use mesh_l4::{Dialer, Ejector};
use mesh_l7::{HttpProxy, HttpSettings, Upstream, UpstreamSettings};
use mesh_model::{Dice, Reason};
use mesh_net::ConnectOptions;
use mesh_runtime::{Drain, Scope};
use mesh_telemetry::{
    ConnectionFacts, ConnectionRecord, Direction, Metrics, Party, Reporter, Tracer,
};
use mesh_tls::CertificateReceiver;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, watch};

/// What all workers share.
pub(crate) struct Shared {
    /// Settings of the data path.
    pub(crate) edge: Edge,
    /// The state of the mesh.
    pub(crate) snapshots: SnapshotReceiver,
    /// The ports.
    pub(crate) table: watch::Receiver<Arc<Table>>,
    /// Our certificate.
    pub(crate) certificate: CertificateReceiver,
    /// Metrics.
    pub(crate) metrics: Metrics,
    /// The endpoints it lately failed to reach.
    pub(crate) ejector: Ejector,
    /// Traces.
    pub(crate) tracer: Tracer,
    /// Told when the process goes down.
    pub(crate) drain: Drain,
    /// Owns sockets, tunnels and upstream connections.
    pub(crate) scope: Scope,
    /// Owns client connections.
    pub(crate) connections: Scope,
    /// The ports that cannot be bound, and why.
    pub(crate) unbound: Unbound,
}

/// The ports that cannot be bound, and why. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unbound(Arc<Mutex<BTreeMap<u16, String>>>);

impl Unbound {
    /// Notes how the last try went.
    pub(crate) fn note(&self, port: u16, fault: Option<String>) {
        let mut ports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match fault {
            Some(why) => ports.insert(port, why),
            None => ports.remove(&port),
        };
    }

    /// The ports and why.
    pub(crate) fn list(&self) -> BTreeMap<u16, String> {
        let ports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ports.clone()
    }
}

/// One worker's part.
pub(crate) struct Worker {
    /// What all workers share.
    pub(crate) shared: Arc<Shared>,
    /// Serves HTTP.
    pub(crate) http: HttpProxy,
    /// Reaches the backends of byte streams.
    pub(crate) dialer: Dialer,
    /// Chance, for the choice among backends and endpoints.
    pub(crate) dice: RefCell<Dice>,
    /// Room for client connections.
    pub(crate) places: Arc<Semaphore>,
}

impl Worker {
    /// Makes the worker's part, on its thread.
    pub(crate) fn new(shared: Arc<Shared>) -> Rc<Self> {
        let connect = ConnectOptions {
            mark: shared.edge.mark,
            ..ConnectOptions::default()
        };
        // One pool of tunnels for both: a backend's HTTP and TCP ports share a connection.
        let retired = mesh_proxy::tunnels_retired(&shared.metrics);
        let count = move |reason: Reason| retired.with(reason.code()).inc();
        let settings = shared.edge.pool.clone();
        let pool = mesh_hbone::Pool::counting(settings, &shared.scope, count);
        let upstream = Upstream::new(
            UpstreamSettings::default(),
            connect.clone(),
            Some(mesh_l7::Tunnels {
                pool: pool.clone(),
                certificate: shared.certificate.clone(),
            }),
            &shared.scope,
        );
        let http = HttpProxy::new(
            HttpSettings::default(),
            upstream,
            shared.metrics.clone(),
            shared.tracer.clone(),
            &shared.connections,
        );
        Rc::new(Self {
            http,
            dialer: Dialer {
                connect,
                tunnels: Some(mesh_l4::Tunnels {
                    pool,
                    certificate: shared.certificate.clone(),
                }),
            },
            dice: RefCell::new(Dice::seeded(RandomState::new().build_hasher().finish())),
            places: Arc::new(Semaphore::new(shared.edge.worker_connections_max)),
            shared,
        })
    }

    /// Begins the record of a client's connection. We report as the source: to the mesh the client
    /// is us.
    pub(crate) fn record(&self, arrival: &Arrival) -> ConnectionRecord {
        let mut facts = ConnectionFacts::new(Reporter::Source, Direction::Outbound);
        facts.source = source(arrival);
        facts.destination.address = Some(arrival.local);
        self.shared.metrics.connection(facts)
    }

    /// The one exit of a connection that ends before it is served.
    pub(crate) fn refuse(&self, arrival: &Arrival, reason: Reason, detail: impl Into<String>) {
        self.record(arrival).end(reason, Some(detail.into()));
    }
}

/// The client: our workload, for to the mesh it is us who asks, and the client's address. Nobody
/// proved an identity.
pub(crate) fn source(arrival: &Arrival) -> Party {
    Party {
        workload: arrival.client.workload.clone(),
        identity: None,
        address: Some(arrival.peer),
    }
}
