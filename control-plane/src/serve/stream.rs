//! One stream: what its peer has, and the differences sent to it.

use super::Discovery;
use crate::published::{Account, OfType, Published, Served};
use crate::tokens::Caller;
use mesh_discovery::codec::{self, TYPE_AUTHORIZATION, TYPE_HTTP_POLICY, TYPE_LISTENER};
use mesh_model::{Dice, PolicyScope, Resource};
use mesh_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource as WireResource,
};
use prost_types::Any;
use prost_types::value::Kind;
use std::collections::{BTreeMap, BTreeSet};
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

/// What a peer has of one type: what was published when all of it had been sent, which costs a stream
/// nothing, and what it has beside or in place of that.
struct Subscription {
    /// What was published when all of it had been sent. Not for listeners, of which each peer may
    /// see others.
    level: Option<Arc<OfType>>,
    /// Versions, by name.
    beside: BTreeMap<String, String>,
}

impl Subscription {
    fn version(&self, name: &str) -> Option<&str> {
        let beside = self.beside.get(name).map(String::as_str);
        beside.or_else(|| Some(self.level.as_ref()?.get(name)?.version.as_str()))
    }

    /// The names to look at for a difference to what is published now.
    fn names(&self, published: &Published, type_url: &str, now: &OfType) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = self.beside.keys().cloned().collect();
        let level = self.level.as_ref();
        match level.and_then(|level| published.changed_since(type_url, level)) {
            Some(changed) => names.extend(changed.iter().cloned()),
            None => {
                names.extend(now.keys().cloned());
                names.extend(level.into_iter().flat_map(|l| l.keys()).cloned());
            }
        }
        names
    }

    /// Whether a policy would come to apply to fewer workloads of its own accord. The workloads that
    /// shall list it must have been told so before, or it would apply to none for a while.
    fn narrows(&self, name: &str, now: &Served) -> bool {
        let held = self.level.as_ref().and_then(|level| level.get(name));
        let reach = |served: &Served| match &served.resource {
            Resource::Policy(p) | Resource::HttpPolicy(p) => match p.scope {
                PolicyScope::Global => 2,
                PolicyScope::Namespace => 1,
                PolicyScope::WorkloadSelector | PolicyScope::Targets => 0,
            },
            _ => 0,
        };
        held.is_some_and(|held| reach(held) > reach(now))
    }
}

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
        let subscription = Subscription {
            level: None,
            beside: request.initial_resource_versions,
        };
        self.subscriptions.insert(type_url, subscription);
        let published = self.published.borrow().clone();
        // An empty answer counts too: a proxy is not ready before each type was answered.
        self.push(&published, type_url, Part::All, true).await
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
        for type_url in codec::TYPES_ALL.into_iter().filter(|t| is_policy(t)) {
            self.push(&published, type_url, Part::All, false).await?;
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
        let Some(of_type) = published.types.get(type_url) else {
            return Ok(());
        };
        let level = subscription.level.as_ref();
        if level.is_some_and(|level| Arc::ptr_eq(level, of_type)) {
            return Ok(());
        }
        let mut resources = Vec::new();
        let mut removed = Vec::new();
        for name in subscription.names(published, type_url, of_type) {
            let visible =
                published.visible(type_url, &name, &self.account, self.discovery.keys_allowed);
            match (visible, part) {
                (Some(served), Part::Changed) if subscription.narrows(&name, served) => {}
                (Some(served), _) => {
                    if subscription.version(&name) != Some(&served.version) {
                        resources.push(wire(type_url, &name, served));
                        let version = served.version.clone();
                        subscription.beside.insert(name, version);
                    }
                }
                (None, Part::All) if subscription.version(&name).is_some() => {
                    subscription.beside.remove(&name);
                    removed.push(name);
                }
                (None, _) => {}
            }
        }
        // Who may have a listener depends on more than the listeners.
        if part == Part::All && type_url != TYPE_LISTENER {
            subscription.beside = BTreeMap::new();
            subscription.level = Some(of_type.clone());
        }
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

fn wire(type_url: &str, name: &str, served: &Served) -> WireResource {
    WireResource {
        name: name.into(),
        version: served.version.clone(),
        resource: Some(Any {
            type_url: type_url.into(),
            value: served.value.clone(),
        }),
        ..WireResource::default()
    }
}

/// Which part of a difference is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// New and changed resources, but policies that come to apply to less.
    Changed,
    /// Removals too.
    All,
}

fn is_policy(type_url: &str) -> bool {
    type_url == TYPE_AUTHORIZATION || type_url == TYPE_HTTP_POLICY
}
