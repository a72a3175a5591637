//! The proxy of one worker: serves downstream connections.

use crate::context::{ConnectionContext, HttpVersion};
use crate::serve;
use crate::settings::HttpSettings;
use crate::upstream::Upstream;
use mesh_model::{Dice, Reason};
use mesh_net::{Prefixed, Protocol};
use mesh_runtime::{Drain, Scope};
use mesh_telemetry::{Metrics, Tracer};
use std::cell::RefCell;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite};

/// Serves HTTP connections on one worker. Cheap to clone; not `Send`.
#[derive(Clone)]
pub struct HttpProxy {
    shared: Rc<Shared>,
}

/// What all connections of a worker share.
pub(crate) struct Shared {
    pub(crate) settings: HttpSettings,
    pub(crate) upstream: Upstream,
    pub(crate) metrics: Metrics,
    pub(crate) tracer: Tracer,
    pub(crate) scope: Scope,
    pub(crate) dice: RefCell<Dice>,
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
        // The hasher's keys are the standard library's way to a random number of the system's.
        let seed = RandomState::new().hash_one(std::process::id());
        Self {
            shared: Rc::new(Shared {
                settings,
                upstream,
                metrics,
                tracer,
                scope: scope.clone(),
                dice: RefCell::new(Dice::seeded(seed)),
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
        let mut cut = std::pin::pin!(cut);
        let (http2, io) = match context.version {
            HttpVersion::Http1 => (false, Prefixed::new(io, Vec::new())),
            HttpVersion::Http2 => (true, Prefixed::new(io, Vec::new())),
            HttpVersion::Detect => {
                let limit = self.shared.settings.idle_timeout;
                let detected = tokio::select! {
                    detected = tokio::time::timeout(limit, mesh_net::detect(io)) => detected,
                    _ = cut.as_mut() => return,
                    () = drain.started() => return,
                };
                match detected {
                    Ok(Ok((protocol, io))) => (protocol == Protocol::Http2, io),
                    // It went, or stayed silent, before it asked for anything.
                    Ok(Err(_)) | Err(_) => return,
                }
            }
        };
        let connection = serve::Serving::new(self.shared.clone(), context);
        if http2 {
            connection.http2(io, cut, drain).await;
        } else {
            connection.http1(io, cut, drain).await;
        }
    }
}
