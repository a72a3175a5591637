//! HTTP connections, handed to the HTTP room with what the edge knows of them.

use crate::listeners::Arrival;
use crate::worker::{self, Worker};
use mesh_l7::{Authorization, ConnectionContext, HttpVersion, OwnedScope, Role};
use mesh_telemetry::{Reporter, Security};
use mesh_tls::EdgeInfo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Serves an HTTP connection to its end; `tls` says what was agreed on when TLS ended here.
pub(crate) async fn serve<S>(worker: &Worker, io: S, arrival: Arrival, tls: Option<EdgeInfo>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let shared = &worker.shared;
    let workload = arrival.client.workload.as_ref();
    let context = ConnectionContext {
        snapshots: shared.snapshots.clone(),
        source: worker::source(&arrival),
        peer_address: arrival.peer,
        destination: arrival.local,
        scope: OwnedScope::Gateway {
            gateway: shared.edge.gateway.clone(),
            port: arrival.port,
        },
        authorization: Authorization::Gateway(workload.map(|w| w.uid.clone())),
        reporter: Reporter::Source,
        // What the client speaks with us is its own TLS, not the mesh's.
        security: Security::Unknown,
        version: match &tls {
            Some(info) if info.http2 => HttpVersion::Http2,
            Some(_) => HttpVersion::Http1,
            None => HttpVersion::Detect,
        },
        role: Role::Edge {
            secure: tls.is_some(),
        },
        server_name: tls.and_then(|info| info.server_name).map(Into::into),
        client: arrival.client,
    };
    // Each request is judged on the newest policies, so a change needs no cut here.
    let cut = std::future::pending();
    worker
        .http
        .serve_connection(io, context, cut, &shared.drain)
        .await;
}
