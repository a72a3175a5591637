//! One stream: what its peer has, and the differences sent to it.

use super::Discovery;
use super::subscription::{Difference, Part, Subscription, is_policy};
use crate::published::{Account, Published};
use crate::tokens::Caller;
use mesh_discovery::codec::{self, TYPE_ADDRESS};
use mesh_model::Dice;
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use prost_types::value::Kind;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tonic::{Code, Status, Streaming};

/// A stream ends at about this age, so that its token is verified anew and load spreads over
/// replicas.
const STREAM_AGE: Duration = Duration::from_secs(25 * 60);
/// Up to this much is added to the age, lest the proxies of a mesh all come back at once.
const STREAM_AGE_SPREAD_S: u64 = 10 * 60;
/// A peer that takes nothing for this long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// One stream.
pub(super) struct Stream {
    discovery: Arc<Discovery>,
    published: watch::Receiver<Arc<Published>>,
    caller: Caller,
    account: Account,
    subscriptions: BTreeMap<&'static str, Subscription>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    nonce: u64,
    node_id: String,
}

impl Stream {
    pub(super) fn new(
        discovery: Arc<Discovery>,
        caller: Caller,
        responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    ) -> Self {
        Self {
            published: discovery.published.clone(),
            account: (
                caller.namespace.as_str().into(),
                caller.service_account.as_str().into(),
            ),
            discovery,
            caller,
            subscriptions: BTreeMap::new(),
            responses,
            nonce: 0,
            node_id: String::new(),
        }
    }

    /// Serves until the peer leaves, misbehaves or the stream is old.
    pub(super) async fn run(mut self, requests: Streaming<DeltaDiscoveryRequest>) {
        let status = self.discovery.status.clone();
        status.opened();
        let mut dice = Dice::seeded(RandomState::new().hash_one(&self.account));
        let age = STREAM_AGE + Duration::from_secs(dice.below(STREAM_AGE_SPREAD_S));
        if let Ok(Err(end)) = tokio::time::timeout(age, self.exchange(requests)).await {
            let (node, code, why) = (&self.node_id, end.code(), end.message());
            if is_refusal(code) {
                tracing::warn!(node, ?code, why, "discovery stream refused");
            } else {
                tracing::info!(node, ?code, why, "discovery stream ended");
            }
            // The peer may be gone already.
            self.responses.try_send(Err(end)).ok();
        }
        status.closed();
    }

    async fn exchange(
        &mut self,
        mut requests: Streaming<DeltaDiscoveryRequest>,
    ) -> Result<(), Status> {
        loop {
            tokio::select! {
                message = requests.message() => match message? {
                    Some(request) => self.take(request).await?,
                    None => return Ok(()),
                },
                changed = self.published.changed() => {
                    if changed.is_err() {
                        return Err(Status::unavailable("the control plane is going down"));
                    }
                    self.push_all().await?;
                }
            }
        }
    }

    async fn take(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        if let Some(node) = &request.node {
            self.check_node(node)?;
        } else if self.node_id.is_empty() {
            return Err(Status::invalid_argument(
                "the first request carries no node",
            ));
        }
        let Some(type_url) = codec::TYPES_ALL
            .into_iter()
            .find(|t| *t == request.type_url)
        else {
            return self.answer_unknown(request.type_url).await;
        };
        if let Some(error) = request.error_detail {
            tracing::warn!(
                node = self.node_id,
                type_url,
                why = error.message,
                "resources refused by a proxy"
            );
            self.discovery
                .status
                .rejected(&self.node_id, type_url, &error.message);
        }
        if self.subscriptions.contains_key(type_url) {
            return Ok(());
        }
        let wildcard = match request.resource_names_subscribe.as_slice() {
            [] => true,
            [star] => star == "*" && request.resource_names_unsubscribe.is_empty(),
            _ => false,
        };
        if !wildcard {
            return Err(Status::unimplemented(
                "subscriptions by name are not supported; leave XDS_ON_DEMAND unset",
            ));
        }
        let subscription = Subscription::new(request.initial_resource_versions);
        self.subscriptions.insert(type_url, subscription);
        let published = self.published.borrow().clone();
        // One that comes back may have policies that are narrower by now, or gone.
        let waits = is_policy(type_url) && !self.subscriptions.contains_key(TYPE_ADDRESS);
        let part = if waits { Part::Changed } else { Part::All };
        // An empty answer counts too: a proxy is not ready before each type was answered.
        self.push(&published, type_url, part, true).await?;
        if type_url == TYPE_ADDRESS {
            self.push_rest(&published).await?;
        }
        Ok(())
    }

    /// A type this control plane does not have: an empty set, so that its subscriber gets ready.
    async fn answer_unknown(&mut self, type_url: String) -> Result<(), Status> {
        tracing::info!(
            node = self.node_id,
            type_url,
            "subscription to an unknown type"
        );
        let response = DeltaDiscoveryResponse {
            nonce: self.next_nonce(),
            type_url,
            ..DeltaDiscoveryResponse::default()
        };
        self.send(response).await
    }

    /// A node may only speak for the account its token is for.
    fn check_node(&mut self, node: &Node) -> Result<(), Status> {
        let text = |name: &str| {
            let value = node.metadata.as_ref().and_then(|m| m.fields.get(name));
            match value.and_then(|v| v.kind.as_ref()) {
                Some(Kind::StringValue(text)) => Some(text.as_str()),
                _ => None,
            }
        };
        let differs = |name: &str, own: &str| text(name).is_some_and(|t| t != own);
        if text("NAMESPACE").is_none() || differs("NAMESPACE", &self.caller.namespace) {
            return Err(Status::permission_denied(
                "node metadata NAMESPACE is not the token's namespace",
            ));
        }
        if differs("SERVICE_ACCOUNT", &self.caller.service_account) {
            return Err(Status::permission_denied(
                "node metadata SERVICE_ACCOUNT is not the token's service account",
            ));
        }
        self.node_id = node.id.chars().take(256).collect();
        Ok(())
    }

    /// Sends what has changed. What is referred to goes first: policies before the workloads that
    /// list them, and away, or to a narrower scope, after them.
    async fn push_all(&mut self) -> Result<(), Status> {
        let published = self.published.borrow_and_update().clone();
        for type_url in codec::TYPES_ALL {
            let part = if is_policy(type_url) {
                Part::Changed
            } else {
                Part::All
            };
            self.push(&published, type_url, part, false).await?;
        }
        self.push_rest(&published).await
    }

    /// What of the policies goes out after the workloads.
    async fn push_rest(&mut self, published: &Published) -> Result<(), Status> {
        for type_url in codec::TYPES_ALL.into_iter().filter(|t| is_policy(t)) {
            self.push(published, type_url, Part::All, false).await?;
        }
        Ok(())
    }

    async fn push(
        &mut self,
        published: &Published,
        type_url: &'static str,
        part: Part,
        even_empty: bool,
    ) -> Result<(), Status> {
        let Some(subscription) = self.subscriptions.get_mut(type_url) else {
            return Ok(());
        };
        let visible = |name: &str| {
            published.visible(type_url, name, &self.account, self.discovery.keys_allowed)
        };
        let Difference { resources, removed } =
            subscription.difference(published, type_url, part, visible);
        if resources.is_empty() && removed.is_empty() && !even_empty {
            return Ok(());
        }
        self.discovery
            .status
            .pushed(resources.len() + removed.len());
        let response = DeltaDiscoveryResponse {
            nonce: self.next_nonce(),
            type_url: type_url.into(),
            resources,
            removed_resources: removed,
            ..DeltaDiscoveryResponse::default()
        };
        self.send(response).await
    }

    fn next_nonce(&mut self) -> String {
        self.nonce += 1;
        self.nonce.to_string()
    }

    async fn send(&self, response: DeltaDiscoveryResponse) -> Result<(), Status> {
        let gone = || Status::cancelled("the peer is gone");
        match self
            .responses
            .send_timeout(Ok(response), SEND_TIMEOUT)
            .await
        {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(gone()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                Err(Status::deadline_exceeded("the peer takes nothing"))
            }
        }
    }
}

/// Ends that are the peer's mistake.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument | Code::PermissionDenied | Code::Unimplemented
    )
}
