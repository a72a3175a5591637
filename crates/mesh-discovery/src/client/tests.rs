//! The client against a control plane that follows a script, over real sockets.

mod large;
mod policies;

use crate::codec::{TYPE_ADDRESS, TYPE_AUTHORIZATION, TYPES_L4, encode};
use crate::{Discovery, NodeInfo, Role, Source};
use mesh_grpc::{ChannelSettings, TextSource};
use mesh_model::{
    Action, AuthorizationPolicy, ObjectName, PolicyCompatibility, PolicyScope, Resource, Service,
    ServiceName, ServicePort, Snapshot, Workload, WorkloadUid,
};
use mesh_net::{ListenOptions, listen};
use mesh_proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use mesh_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};
use mesh_proto::security;
use mesh_runtime::{Readiness, Scope};
use mesh_telemetry::Metrics;
use prost::Message;
use prost_types::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// One stream, as the script sees it.
struct Session {
    authorization: Option<String>,
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

impl Session {
    async fn request(&mut self) -> DeltaDiscoveryRequest {
        self.requests.message().await.unwrap().unwrap()
    }

    /// Sends a response and gives the answer to it.
    async fn respond(&mut self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        self.responses.send(Ok(response)).await.unwrap();
        self.request().await
    }
}

struct Script(mpsc::Sender<Session>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Script {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let authorization = request.metadata().get("authorization");
        let authorization = authorization.map(|v| v.to_str().unwrap().to_owned());
        let (responses, receiver) = mpsc::channel(8);
        let session = Session {
            authorization,
            requests: request.into_inner(),
            responses,
        };
        self.0.send(session).await.unwrap();
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

struct World {
    metrics: Metrics,
    scope: Scope,
    readiness: Readiness,
    discovery: Discovery,
    sessions: mpsc::Receiver<Session>,
}

impl World {
    fn start() -> Self {
        Self::start_with(PolicyCompatibility::Strict)
    }

    fn start_with(compatibility: PolicyCompatibility) -> Self {
        let metrics = Metrics::new("test");
        let scope = Scope::new();
        let (sender, sessions) = mpsc::channel(4);
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listener = listen(&ListenOptions::new(any)).unwrap();
        let address = listener.local_addr().unwrap();
        scope.spawn("script", async move {
            tonic::transport::Server::builder()
                .add_service(AggregatedDiscoveryServiceServer::new(Script(sender)))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        let readiness = Readiness::new();
        let source = Source::Xds {
            channel: ChannelSettings {
                address: format!("http://{address}"),
                root: None,
                server_name: None,
                token: Some(TextSource::Literal("the-token".into())),
                metadata: Vec::new(),
                mark: None,
            },
            node: NodeInfo {
                role: Role::Ztunnel,
                ip: "10.0.0.1".into(),
                pod: "ztunnel-1".into(),
                namespace: "strata-system".into(),
                service_account: "ztunnel".into(),
                node: "node-1".into(),
                cluster: "Kubernetes".into(),
                network: String::new(),
                metadata: std::collections::BTreeMap::new(),
            },
            kinds: TYPES_L4.to_vec(),
        };
        let gate = readiness.gate("discovery");
        let discovery = crate::start_proxy(source, compatibility, &metrics, &scope, gate);
        Self {
            metrics,
            scope,
            readiness,
            discovery,
            sessions,
        }
    }

    /// The next stream, its first requests read.
    async fn session(&mut self) -> (Session, Vec<DeltaDiscoveryRequest>) {
        let mut session = self.sessions.recv().await.unwrap();
        let mut first = Vec::new();
        for _ in TYPES_L4 {
            first.push(session.request().await);
        }
        (session, first)
    }

    /// As [`Self::session`], each type answered once with nothing, so that changes are published.
    async fn settled(&mut self) -> Session {
        let (mut session, _) = self.session().await;
        for type_url in TYPES_L4 {
            session.respond(response(type_url, "0", Vec::new())).await;
        }
        session
    }

    async fn until(&mut self, condition: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let snapshots = &mut self.discovery.snapshots;
        snapshots.wait_for(|s| condition(s)).await.unwrap().clone()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

fn response(type_url: &str, nonce: &str, resources: Vec<WireResource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_url.into(),
        nonce: nonce.into(),
        resources,
        ..DeltaDiscoveryResponse::default()
    }
}

fn wire(resource: &Resource, version: &str) -> WireResource {
    let encoded = encode(resource);
    WireResource {
        name: encoded.name,
        version: version.into(),
        resource: Some(Any {
            type_url: encoded.type_url.into(),
            value: encoded.value,
        }),
        ..WireResource::default()
    }
}

fn workload(uid: &str) -> WireResource {
    let workload = Workload::new(uid, "demo", uid);
    wire(&Resource::Workload(Arc::new(workload)), "v1")
}

fn broken(type_url: &str, name: &str, value: Vec<u8>) -> WireResource {
    WireResource {
        name: name.into(),
        version: "v2".into(),
        resource: Some(Any {
            type_url: type_url.into(),
            value,
        }),
        ..WireResource::default()
    }
}

fn policy(action: Action) -> WireResource {
    let policy = AuthorizationPolicy {
        name: ObjectName::new("demo", "p"),
        scope: PolicyScope::Namespace,
        action,
        rules: Vec::new(),
        dry_run: false,
        targets: Vec::new(),
        invalid: None,
        http_dropped: false,
    };
    wire(&Resource::Policy(Arc::new(policy)), "v1")
}

/// A policy whose action is unknown.
fn broken_policy() -> WireResource {
    let message = security::Authorization {
        name: "p".into(),
        namespace: "demo".into(),
        scope: security::Scope::Namespace.into(),
        action: 9,
        ..security::Authorization::default()
    };
    broken(TYPE_AUTHORIZATION, "demo/p", message.encode_to_vec())
}

fn has(snapshot: &Snapshot, uid: &str) -> bool {
    snapshot.workload(&WorkloadUid(uid.into())).is_some()
}

#[tokio::test]
async fn the_first_requests_say_who_asks_and_for_everything() {
    let mut world = World::start();
    let (session, first) = world.session().await;
    assert_eq!(session.authorization.as_deref(), Some("Bearer the-token"));
    for (request, type_url) in first.iter().zip(TYPES_L4) {
        assert_eq!(request.type_url, type_url);
        assert!(request.resource_names_subscribe.is_empty());
        assert!(request.initial_resource_versions.is_empty());
        let node = request.node.as_ref().unwrap();
        let id = "ztunnel~10.0.0.1~ztunnel-1.strata-system~strata-system.svc.cluster.local";
        assert_eq!(node.id, id);
        let fields = &node.metadata.as_ref().unwrap().fields;
        assert!(fields.contains_key("NAMESPACE") && fields.contains_key("NODE_NAME"));
    }
}

#[tokio::test]
async fn readiness_waits_for_an_answer_of_each_type_even_an_empty_one() {
    let mut world = World::start();
    let (mut session, _) = world.session().await;
    let answer = session
        .respond(response(TYPE_ADDRESS, "1", vec![workload("a")]))
        .await;
    assert_eq!(
        (answer.response_nonce.as_str(), answer.error_detail),
        ("1", None)
    );
    assert!(!world.readiness.is_ready());
    session
        .respond(response(TYPE_AUTHORIZATION, "2", Vec::new()))
        .await;
    world.until(|s| has(s, "a")).await;
    assert!(world.readiness.is_ready());
}

#[tokio::test]
async fn no_workload_is_handed_out_without_the_policies_of_it() {
    let mut world = World::start();
    let (mut session, _) = world.session().await;
    session
        .respond(response(TYPE_ADDRESS, "1", vec![workload("a")]))
        .await;
    // The stream breaks before the policies came.
    drop(session);
    let (mut session, _) = world.session().await;
    let snapshots = &world.discovery.snapshots;
    assert!(!has(&snapshots.borrow(), "a"), "the policies are not known");
    let policies = vec![policy(Action::Deny)];
    session
        .respond(response(TYPE_AUTHORIZATION, "1", policies))
        .await;
    let snapshot = world.until(|s| has(s, "a")).await;
    assert_eq!(snapshot.policies().count(), 1);
}

#[tokio::test]
async fn the_good_resources_of_a_partly_bad_response_are_applied() {
    let mut world = World::start();
    let mut session = world.settled().await;
    let resources = vec![
        workload("a"),
        broken(TYPE_ADDRESS, "bad-one", vec![0xff]),
        broken(TYPE_ADDRESS, "bad-two", Vec::new()),
        workload("b"),
    ];
    let answer = session
        .respond(response(TYPE_ADDRESS, "7", resources))
        .await;
    assert_eq!(answer.response_nonce, "7");
    let error = answer.error_detail.unwrap().message;
    assert!(
        error.contains("bad-one") && error.contains("bad-two"),
        "{error}"
    );
    let snapshot = world.until(|s| has(s, "b")).await;
    assert!(has(&snapshot, "a"));
    assert_eq!(world.discovery.status.borrow().rejected.len(), 2);
}

#[tokio::test]
async fn state_outlives_the_stream_and_a_reconnect_tells_what_is_held() {
    let mut world = World::start();
    let mut session = world.settled().await;
    let resources = vec![workload("a"), workload("b")];
    session
        .respond(response(TYPE_ADDRESS, "1", resources))
        .await;
    let bad = broken(TYPE_ADDRESS, "b", vec![0xff]);
    session
        .respond(response(TYPE_ADDRESS, "2", vec![bad]))
        .await;
    drop(session);

    let (mut session, first) = world.session().await;
    assert!(
        has(&world.discovery.snapshots.borrow(), "b"),
        "the old version stays"
    );
    let held = &first[1].initial_resource_versions;
    assert_eq!(held.get("a").map(String::as_str), Some("v1"));
    assert_eq!(
        held.get("b").map(String::as_str),
        Some(""),
        "what was refused is to be sent again, and told of when it is gone"
    );
    let removal = DeltaDiscoveryResponse {
        removed_resources: vec!["a".into(), "never-seen".into()],
        ..response(TYPE_ADDRESS, "1", vec![workload("b")])
    };
    session.respond(removal).await;
    let snapshot = world.until(|s| !has(s, "a")).await;
    assert!(has(&snapshot, "b"));
    assert!(world.discovery.status.borrow().rejected.is_empty());
}

#[tokio::test]
async fn a_bad_update_of_a_policy_leaves_the_old_one() {
    let mut world = World::start();
    let mut session = world.settled().await;
    session
        .respond(response(
            TYPE_AUTHORIZATION,
            "1",
            vec![policy(Action::Allow)],
        ))
        .await;
    world.until(|s| s.policies().count() == 1).await;
    let resources = vec![broken_policy()];
    session
        .respond(response(TYPE_AUTHORIZATION, "2", resources))
        .await;
    session
        .respond(response(TYPE_ADDRESS, "3", vec![workload("a")]))
        .await;
    let snapshot = world.until(|s| has(s, "a")).await;
    let kept = snapshot.policies().next().unwrap();
    assert!(kept.action == Action::Allow && kept.invalid.is_none());
}

#[tokio::test]
async fn a_name_may_turn_from_workload_to_service() {
    let mut world = World::start();
    let mut session = world.settled().await;
    session
        .respond(response(TYPE_ADDRESS, "1", vec![workload("demo/x")]))
        .await;
    world.until(|s| has(s, "demo/x")).await;
    let name = "demo/x".parse().unwrap();
    let service = Resource::Service(Arc::new(Service::new(name, "x")));
    session
        .respond(response(TYPE_ADDRESS, "2", vec![wire(&service, "v2")]))
        .await;
    let snapshot = world.until(|s| s.services().count() == 1).await;
    assert!(!has(&snapshot, "demo/x"));
}

#[tokio::test]
async fn a_type_not_asked_for_is_taken_as_read() {
    let mut world = World::start();
    let mut session = world.settled().await;
    let odd = response("type.googleapis.com/odd", "1", vec![workload("a")]);
    let answer = session.respond(odd).await;
    assert_eq!(answer.error_detail, None);
    assert_eq!(answer.type_url, "type.googleapis.com/odd");
}

/// A workload behind a service.
fn endpoint(uid: &str, service: &ServiceName) -> WireResource {
    let mut workload = Workload::new(uid, "demo", uid);
    let port = ServicePort {
        service_port: 80,
        target_port: 8080,
        app_protocol: mesh_model::AppProtocol::Unknown,
    };
    workload.services.insert(service.clone(), vec![port]);
    wire(&Resource::Workload(Arc::new(workload)), "v1")
}

#[tokio::test]
async fn endpoints_wait_for_their_service_and_are_counted_as_they_go() {
    let mut world = World::start();
    let mut session = world.settled().await;
    let name = ServiceName::new("demo", "shop.demo");
    let count = |s: &Snapshot| s.endpoints(&ServiceName::new("demo", "shop.demo")).count();
    let early = vec![endpoint("a", &name), endpoint("b", &name)];
    session.respond(response(TYPE_ADDRESS, "1", early)).await;
    world
        .until(|s| count(s) == 2 && s.service(&name).is_none())
        .await;
    let service = Resource::Service(Arc::new(Service::new(name.clone(), "shop")));
    let late = vec![wire(&service, "v1"), endpoint("c", &name)];
    session.respond(response(TYPE_ADDRESS, "2", late)).await;
    world
        .until(|s| count(s) == 3 && s.service(&name).is_some())
        .await;
    // The service is sent anew: its endpoints stay. One of them leaves it, one is gone.
    let again = DeltaDiscoveryResponse {
        removed_resources: vec!["a".into()],
        ..response(TYPE_ADDRESS, "3", vec![wire(&service, "v2"), workload("b")])
    };
    session.respond(again).await;
    world.until(|s| count(s) == 1 && has(s, "b")).await;
    let gone = DeltaDiscoveryResponse {
        removed_resources: vec![service.key().name.to_string()],
        ..response(TYPE_ADDRESS, "4", Vec::new())
    };
    session.respond(gone).await;
    world
        .until(|s| s.service(&name).is_none() && count(s) == 1)
        .await;
}

#[tokio::test]
async fn messages_bytes_and_ended_streams_are_counted() {
    let mut world = World::start();
    let mut session = world.settled().await;
    let resources = vec![workload("a"), broken(TYPE_ADDRESS, "bad", vec![0xff])];
    session
        .respond(response(TYPE_ADDRESS, "1", resources))
        .await;
    drop(session);
    world.session().await;
    let text = world.metrics.encode();
    let address = r#"{url="type.googleapis.com/istio.workload.Address"}"#;
    let holds = |line: String| assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    holds(format!("istio_xds_message_total{address} 2"));
    holds(format!("strata_xds_resources_refused_total{address} 1"));
    assert!(text.contains(&format!("istio_xds_message_bytes_total{address} ")));
    let ended = text
        .lines()
        .find(|l| l.starts_with("istio_xds_connection_terminations_total"));
    assert!(ended.is_some_and(|l| l.ends_with(" 1")), "{text}");
}
