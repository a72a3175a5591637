//! The proxy of one worker: serves downstream connections.

use crate::context::ConnectionContext;
use crate::settings::HttpSettings;
use crate::upstream::Upstream;
use mesh_model::Reason;
use mesh_runtime::{Drain, Scope};
use mesh_telemetry::{Metrics, Tracer};
use std::future::Future;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite};

/// Serves HTTP connections on one worker. Cheap to clone; not `Send`.
#[derive(Clone)]
pub struct HttpProxy {
    inner: Rc<Inner>,
}

struct Inner {
    settings: HttpSettings,
    upstream: Upstream,
    metrics: Metrics,
    tracer: Tracer,
    scope: Scope,
}

impl HttpProxy {
    /// A proxy that sends through `upstream`. Tasks of HTTP/2 streams belong to `scope`.
    pub fn new(
        settings: HttpSettings,
        upstream: Upstream,
        metrics: Metrics,
        tracer: Tracer,
        scope: &Scope,
    ) -> Self {
        Self {
            inner: Rc::new(Inner {
                settings,
                upstream,
                metrics,
                tracer,
                scope: scope.clone(),
            }),
        }
    }

    /// Serves one connection to its end: until either side closes it, it is idle for too long,
    /// `cut` gives a reason (a policy change that now denies the peer; pass
    /// `std::future::pending()` when there is none), or the drain deadline passes. When the drain
    /// starts, requests in flight are finished and the connection is closed.
    ///
    /// Never fails: every request has exactly one record, and a connection that never became a
    /// request has one too when it was at fault (malformed head, slow head).
    pub async fn serve_connection<S>(
        &self,
        io: S,
        context: ConnectionContext,
        cut: impl Future<Output = Reason>,
        drain: &Drain,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let _ = (io, context, cut, drain);
    }
}
