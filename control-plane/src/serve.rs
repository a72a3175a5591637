//! Delta ADS: answers the streams of the mesh's proxies (interop/xds-workload.md sections 1 to 4).
//!
//! A stream is level-triggered: it keeps what it has sent, and sends the difference to what is
//! published now. A slow reader therefore skips states in between instead of queueing them.

mod accept;
mod certificate;
mod stream;
mod subscription;
#[cfg(test)]
mod tests;

pub(crate) use accept::{Door, serve};
pub(crate) use certificate::{CertificateSettings, keep};

use crate::published::Published;
use crate::tokens::{Caller, Tokens};
use mesh_grpc::Usage;
use mesh_proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use mesh_runtime::Scope;
use std::sync::Arc;
use stream::Stream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// The largest request, in bytes: after a reconnect it names everything the peer has.
const REQUEST_BYTES_MAX: usize = 64 << 20;
/// Responses that may wait for a slow reader; each is a whole difference.
const RESPONSES_WAITING_MAX: usize = 4;

/// What the streams have in common.
pub(crate) struct Discovery {
    /// What is served.
    pub(crate) published: watch::Receiver<Arc<Published>>,
    /// Who may ask.
    pub(crate) tokens: Arc<Tokens>,
    /// Counts and refusals.
    pub(crate) status: Arc<crate::status::StreamStatus>,
    /// Owns the streams.
    pub(crate) scope: Scope,
    /// TLS keys may be sent: the transport is encrypted.
    pub(crate) keys_allowed: bool,
}

impl Discovery {
    fn authenticate<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let refused = |why: &str| {
            tracing::warn!(why, "discovery stream refused");
            self.status.refused();
            Status::unauthenticated("authentication failed")
        };
        let value = request.metadata().get("authorization");
        let token = value
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.strip_prefix("Bearer "))
            .ok_or_else(|| refused("no bearer token"))?;
        self.tokens
            .verify(token.trim())
            .map_err(|e| refused(&e.to_string()))
    }
}

/// The gRPC service.
#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<Discovery>);

impl Service {
    pub(crate) fn into_server(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(REQUEST_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let caller = self.0.authenticate(&request)?;
        // From here on the connection is one that is used.
        let in_use = request.extensions().get::<Usage>().map(Usage::begin);
        let (sender, receiver) = mpsc::channel(RESPONSES_WAITING_MAX);
        let stream = Stream::new(self.0.clone(), caller, sender);
        self.0.scope.spawn("discovery stream", async move {
            stream.run(request.into_inner()).await;
            drop(in_use);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
