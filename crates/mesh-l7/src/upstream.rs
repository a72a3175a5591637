//! Connections to endpoints, kept and shared by the requests of one worker.

use crate::settings::UpstreamSettings;
use mesh_net::ConnectOptions;
use mesh_runtime::Scope;
use mesh_tls::CertificateReceiver;
use std::rc::Rc;

/// What is needed to reach endpoints by HBONE.
#[derive(Clone)]
pub struct Tunnels {
    /// The worker's tunnels.
    pub pool: mesh_hbone::Pool,
    /// Our own identity's certificate, the newest.
    pub certificate: CertificateReceiver,
}

/// The upstream connections of one worker and one identity. Cheap to clone; not `Send`.
#[derive(Clone)]
pub struct Upstream {
    inner: Rc<Inner>,
}

struct Inner {
    settings: UpstreamSettings,
    connect: ConnectOptions,
    tunnels: Option<Tunnels>,
    scope: Scope,
}

impl Upstream {
    /// A pool without connections. `connect` applies to plain connections and to the TCP
    /// connections of tunnels alike; `tunnels: None` makes every HBONE endpoint unreachable
    /// ([`mesh_model::Reason::NoIdentity`]). Tasks of connections belong to `scope`.
    pub fn new(
        settings: UpstreamSettings,
        connect: ConnectOptions,
        tunnels: Option<Tunnels>,
        scope: &Scope,
    ) -> Self {
        Self {
            inner: Rc::new(Inner {
                settings,
                connect,
                tunnels,
                scope: scope.clone(),
            }),
        }
    }
}
