//! The delta ADS client (interop/xds-workload.md sections 1 to 4).
//!
//! One task, one stream at a time. State outlives the stream: while the control plane is away the
//! last state stays in use, and a reconnect asks only for what has changed since.

mod backoff;
mod counts;
mod state;

pub(crate) use counts::Counts;

use crate::NodeInfo;
use crate::hub::Hub;
use backoff::Backoff;
use mesh_grpc::{ChannelError, ChannelSettings};
use mesh_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status as WireStatus};
use state::Held;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// The largest message taken, in bytes: a full state of a large mesh is one message.
const MESSAGE_BYTES_MAX: usize = 200 << 20;
/// The longest text of a refusal, in bytes: it must fit a request of any control plane.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// Requests that may wait for the transport: one a type, and an answer a response.
const REQUESTS_WAITING_MAX: usize = 16;
/// Changes within this time come as one notice.
const COALESCE: Duration = Duration::from_millis(20);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("{}: {}", .0.code(), .0.message())]
    Call(Status),
    #[error("the control plane ended the stream")]
    Ended,
}

impl SessionError {
    /// The reason in `istio_xds_connection_terminations_total` (interop/telemetry.md section 3).
    fn reason(&self) -> &'static str {
        match self {
            Self::Channel(_) => "ConnectionError",
            // What ends a stream as streams do end: the next try follows at once.
            Self::Call(status) => match status.code() {
                Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => "Reconnect",
                Code::Unavailable if is_going_away(status.message()) => "Reconnect",
                _ => "Error",
            },
            Self::Ended => "Complete",
        }
    }
}

fn is_going_away(message: &str) -> bool {
    ["transport is closing", "received prior goaway"]
        .iter()
        .any(|text| message.contains(text))
}

/// Keeps the hub up to date until the task is ended.
pub(crate) async fn run(
    channel: ChannelSettings,
    node: NodeInfo,
    kinds: Vec<&'static str>,
    hub: Hub,
    counts: Counts,
) {
    let mut client = Client {
        channel,
        node,
        held: Held::new(kinds),
        hub,
        counts,
        served: false,
    };
    let mut backoff = Backoff::new();
    loop {
        client.served = false;
        let Err(error) = client.session().await;
        client.counts.ended(error.reason());
        // A stream that gave something ended as streams do (a server's connection age, a restart);
        // the next try follows at once.
        let wait = backoff.next(client.served);
        tracing::info!(%error, wait_ms = wait.as_millis(), "discovery stream ended");
        client.hub.publish();
        client.hub.set_status(|s| {
            s.connected = false;
            s.last_error = Some(error.to_string());
        });
        tokio::time::sleep(wait).await;
    }
}

struct Client {
    channel: ChannelSettings,
    node: NodeInfo,
    held: Held,
    hub: Hub,
    counts: Counts,
    /// The stream under way has given a response.
    served: bool,
}

impl Client {
    /// One stream, from dial to end.
    async fn session(&mut self) -> Result<std::convert::Infallible, SessionError> {
        let (requests, mut responses) = self.open().await?;
        self.hub.set_status(|s| {
            s.connected = true;
            s.sessions += 1;
            s.last_error = None;
        });
        tracing::info!(address = %self.channel.address, "discovery stream open");
        let mut publish_at: Option<Instant> = None;
        loop {
            let due = publish_at.unwrap_or_else(Instant::now);
            tokio::select! {
                () = tokio::time::sleep_until(due), if publish_at.is_some() => {
                    publish_at = None;
                    self.hub.publish();
                }
                message = responses.message() => {
                    let response = message.map_err(SessionError::Call)?.ok_or(SessionError::Ended)?;
                    let answer = self.take(response);
                    requests.send(answer).await.map_err(|_| SessionError::Ended)?;
                    if self.hub.is_changed() && publish_at.is_none() {
                        publish_at = Some(Instant::now() + COALESCE);
                    }
                }
            }
        }
    }

    async fn open(
        &self,
    ) -> Result<
        (
            mpsc::Sender<DeltaDiscoveryRequest>,
            Streaming<DeltaDiscoveryResponse>,
        ),
        SessionError,
    > {
        let channel = self.channel.connect().await?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (sender, receiver) = mpsc::channel(REQUESTS_WAITING_MAX);
        for type_url in self.held.kinds() {
            // Every first request of a type carries the node, as istiod expects.
            let request = DeltaDiscoveryRequest {
                node: Some(self.node.wire()),
                type_url: type_url.into(),
                initial_resource_versions: self.held.versions(type_url),
                ..DeltaDiscoveryRequest::default()
            };
            sender
                .send(request)
                .await
                .map_err(|_| SessionError::Ended)?;
        }
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        self.channel.authorize(&mut request)?;
        let response = client
            .delta_aggregated_resources(request)
            .await
            .map_err(SessionError::Call)?;
        Ok((sender, response.into_inner()))
    }

    /// Applies a response and gives the answer to it. Good resources are applied even when others
    /// of the same response are refused.
    fn take(&mut self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        self.served = true;
        self.counts.received(&response);
        let DeltaDiscoveryResponse {
            type_url,
            nonce,
            resources,
            removed_resources,
            ..
        } = response;
        let mut errors = Vec::new();
        if self.held.knows(&type_url) {
            for resource in resources {
                if let Err(error) = self.held.apply(&mut self.hub, &type_url, resource) {
                    errors.push(error);
                }
            }
            for name in removed_resources {
                self.held.forget(&mut self.hub, &type_url, &name);
            }
            if self.held.answered(&type_url) {
                self.hub.open_gate();
            }
        } else {
            tracing::warn!(
                type_url,
                "resources of a type not subscribed to are ignored"
            );
        }
        self.hub.set_status(|_| {});
        self.counts.refused(&type_url, errors.len());
        let refusal = refusal_text(&errors);
        if !refusal.is_empty() {
            tracing::warn!(type_url, refusal, "resources refused");
        }
        DeltaDiscoveryRequest {
            type_url,
            response_nonce: nonce,
            error_detail: (!refusal.is_empty()).then_some(WireStatus {
                code: 0,
                message: refusal,
            }),
            ..DeltaDiscoveryRequest::default()
        }
    }
}

/// Names each refused resource, as far as the text may go.
fn refusal_text(errors: &[String]) -> String {
    let mut text = String::new();
    for (n, error) in errors.iter().enumerate() {
        if text.len() + error.len() > REFUSAL_BYTES_MAX {
            let more = errors.len() - n;
            // Writing to a String cannot fail.
            let _infallible = write!(text, "; and {more} more");
            break;
        }
        if n > 0 {
            text.push_str("; ");
        }
        text.push_str(error);
    }
    text
}

#[cfg(test)]
mod tests;
