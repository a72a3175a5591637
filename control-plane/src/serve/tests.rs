//! The server with the mesh's own client, over real sockets, from the folder's file to the
//! client's snapshot.

use crate::app::{self, Inputs};
use crate::settings::Settings;
use crate::tokens::{Caller, Tokens};
use crate::translate::Mesh;
use mesh_discovery::{NodeInfo, Role, Source, codec};
use mesh_grpc::{ChannelSettings, TextSource};
use mesh_model::{ObjectName, ParentKey, Snapshot, WorkloadUid};
use mesh_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use mesh_runtime::{Readiness, Scope};
use mesh_telemetry::Metrics;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: gw, namespace: demo, labels: {gateway.networking.k8s.io/gateway-name: edge, app: gw}}
spec: {serviceAccountName: gateway, containers: [{name: app}]}
status: {podIP: 10.0.0.1}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: demo}
spec: {gatewayClassName: strata, listeners: [{name: http, port: 8080, protocol: HTTP}]}
";
const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: demo}
spec: {selector: {matchLabels: {app: gw}}, rules: [{}]}
";

struct World {
    dir: tempfile::TempDir,
    scope: Scope,
    readiness: Readiness,
    tokens: Tokens,
    address: SocketAddr,
}

impl World {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("config")).unwrap();
        std::fs::write(dir.path().join("config/pod.yaml"), POD).unwrap();
        let mut world = Self {
            tokens: Tokens::open(&dir.path().join("state")).unwrap(),
            dir,
            scope: Scope::new(),
            readiness: Readiness::new(),
            address: "127.0.0.1:0".parse().unwrap(),
        };
        world.run().await;
        world
    }

    /// Starts the control plane, or a new life of it on another port.
    async fn run(&mut self) {
        self.scope.cancel();
        self.scope = Scope::new();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let settings = Settings {
            key_exchange: mesh_tls::KeyExchange::default(),
            config: self.dir.path().join("config"),
            state: self.dir.path().join("state"),
            mesh: Mesh {
                trust_domain: "cluster.local".into(),
                cluster: "Kubernetes".into(),
                network: "".into(),
                root_namespace: "istio-system".into(),
                domain: "cluster.local".into(),
                encrypt_same_node: false,
            },
            listen: any,
            plaintext_listen: Some(any),
            dns_names: vec!["localhost".into()],
            identity: "spiffe://cluster.local/ns/s/sa/c".parse().unwrap(),
            authority: channel("http://127.0.0.1:1".into(), None),
            log: ("off".into(), mesh_telemetry::LogFormat::Plain),
            admin_address: any,
            metrics_address: any,
            readiness_address: any,
        };
        let inputs = Inputs {
            scope: self.scope.clone(),
            readiness: self.readiness.clone(),
            metrics: Metrics::new("test"),
            log: None,
        };
        let addresses = app::start(&settings, &inputs).await.unwrap();
        self.address = addresses.plaintext.unwrap();
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.config(name), text).unwrap();
    }

    fn config(&self, name: &str) -> PathBuf {
        self.dir.path().join("config").join(name)
    }

    fn token(&self, namespace: &str, service_account: &str) -> String {
        let caller = Caller {
            namespace: namespace.into(),
            service_account: service_account.into(),
            pod: None,
            node: None,
        };
        self.tokens.issue(&caller, Duration::from_secs(60)).unwrap()
    }

    /// The mesh's own client, as the given account of namespace `demo`.
    fn client(&self, account: &str) -> mesh_discovery::Discovery {
        let token = self.token("demo", account);
        let source = Source::Xds {
            channel: channel(format!("http://{}", self.address), Some(token)),
            node: NodeInfo {
                role: Role::Gateway,
                ip: "10.0.0.1".into(),
                pod: "gw".into(),
                namespace: "demo".into(),
                service_account: account.into(),
                node: String::new(),
                cluster: String::new(),
                network: String::new(),
                metadata: std::collections::BTreeMap::new(),
            },
            kinds: codec::TYPES_ALL.to_vec(),
        };
        mesh_discovery::start(source, &self.scope, self.readiness.gate("client"))
    }

    /// A stream driven by hand.
    async fn stream(
        &self,
        token: Option<String>,
        first: DeltaDiscoveryRequest,
    ) -> Result<Raw, Status> {
        let settings = channel(format!("http://{}", self.address), token);
        let mut client = AggregatedDiscoveryServiceClient::new(settings.connect().await.unwrap());
        let (requests, receiver) = mpsc::channel(8);
        requests.send(first).await.unwrap();
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        settings.authorize(&mut request).unwrap();
        let responses = client
            .delta_aggregated_resources(request)
            .await?
            .into_inner();
        Ok(Raw {
            requests,
            responses,
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

struct Raw {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Raw {
    async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        self.responses.message().await.map(Option::unwrap)
    }
}

fn channel(address: String, token: Option<String>) -> ChannelSettings {
    ChannelSettings {
        address,
        root: None,
        server_name: None,
        token: token.map(TextSource::Literal),
        metadata: Vec::new(),
        mark: None,
    }
}

fn node(namespace: &str, account: &str) -> Node {
    let text = |t: &str| prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(t.into())),
    };
    Node {
        id: "ztunnel~10.0.0.1~p.ns~ns.svc.cluster.local".into(),
        cluster: String::new(),
        metadata: Some(prost_types::Struct {
            fields: [
                ("NAMESPACE".to_owned(), text(namespace)),
                ("SERVICE_ACCOUNT".to_owned(), text(account)),
            ]
            .into(),
        }),
    }
}

fn subscribe(type_url: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(node("demo", "a")),
        type_url: type_url.into(),
        ..DeltaDiscoveryRequest::default()
    }
}

async fn until(
    discovery: &mut mesh_discovery::Discovery,
    condition: impl Fn(&Snapshot) -> bool,
) -> Arc<Snapshot> {
    let snapshots = &mut discovery.snapshots;
    snapshots.wait_for(|s| condition(s)).await.unwrap().clone()
}

fn gw(snapshot: &Snapshot) -> Option<&Arc<mesh_model::Workload>> {
    snapshot.workload(&WorkloadUid("Kubernetes//Pod/demo/gw".into()))
}

#[tokio::test]
async fn an_edit_reaches_the_clients_snapshot() {
    let world = World::start().await;
    let mut client = world.client("a");
    let snapshot = until(&mut client, |s| gw(s).is_some()).await;
    assert!(gw(&snapshot).unwrap().authorization_policies.is_empty());
    world.write("policy.yaml", POLICY);
    let snapshot = until(&mut client, |s| {
        gw(s).is_some_and(|w| !w.authorization_policies.is_empty())
    })
    .await;
    assert!(
        snapshot
            .policies_for(gw(&snapshot).unwrap())
            .missing
            .is_empty(),
        "policy before workload"
    );
    std::fs::remove_file(world.config("policy.yaml")).unwrap();
    let snapshot = until(&mut client, |s| {
        s.http_policies().count() == 0 && s.policies().count() == 0
    })
    .await;
    assert!(gw(&snapshot).unwrap().authorization_policies.is_empty());
}

#[tokio::test]
async fn a_broken_edit_changes_nothing_for_clients() {
    let world = World::start().await;
    world.write("policy.yaml", POLICY);
    let mut client = world.client("a");
    until(&mut client, |s| s.policies().count() == 1).await;
    world.write("policy.yaml", &POLICY.replace("selector", "selektor"));
    // The next edit comes through, so the broken one has been seen.
    world.write("more.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: demo}\nspec: {ports: [{port: 80}]}\n");
    let snapshot = until(&mut client, |s| s.services().count() == 1).await;
    assert_eq!(snapshot.policies().count(), 1);
}

#[tokio::test]
async fn listeners_go_to_their_own_gateway_only() {
    let world = World::start().await;
    let (mut own, mut other) = (world.client("gateway"), world.client("other"));
    let edge = ObjectName::new("demo", "edge");
    until(&mut own, |s| s.listeners(&edge).count() == 1).await;
    let snapshot = until(&mut other, |s| gw(s).is_some()).await;
    assert_eq!(snapshot.listeners(&edge).count(), 0);
    // Its pod turns into another account's: the listeners move.
    world.write(
        "pod.yaml",
        &POD.replace("serviceAccountName: gateway", "serviceAccountName: other"),
    );
    until(&mut own, |s| s.listeners(&edge).count() == 0).await;
    until(&mut other, |s| s.listeners(&edge).count() == 1).await;
}

#[tokio::test]
async fn routes_reach_the_gateway() {
    let world = World::start().await;
    let mut client = world.client("gateway");
    world.write(
        "route.yaml",
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: demo}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: gone, port: 80}]}]}
",
    );
    let parent = ParentKey::Gateway(ObjectName::new("demo", "edge"));
    until(&mut client, |s| s.http_routes(&parent).len() == 1).await;
}

#[tokio::test]
async fn a_connection_that_nobody_uses_is_cut() {
    let world = World::start().await;
    // A proxy's stream, which lives through all of it.
    let token = world.token("demo", "a");
    let mut used = world
        .stream(Some(token), subscribe(codec::TYPE_ADDRESS))
        .await
        .unwrap();
    used.next().await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let options = mesh_net::ConnectOptions::default();
    for first in [&b""[..], &preface[..10], preface] {
        let mut silent = mesh_net::connect(world.address, &options).await.unwrap();
        silent.write_all(first).await.unwrap();
        // From here on only what has a limit ends anything; nothing but time passes.
        tokio::time::pause();
        let mut answer = Vec::new();
        silent.read_to_end(&mut answer).await.ok();
        tokio::time::resume();
    }
    world.write("pod.yaml", &POD.replace("10.0.0.1", "10.0.0.9"));
    used.next().await.expect("the stream in use was cut");
}

#[tokio::test]
async fn strangers_are_turned_away() {
    let world = World::start().await;
    let first = || subscribe(codec::TYPE_ADDRESS);
    let code = async |token: Option<String>, first: DeltaDiscoveryRequest| match world
        .stream(token, first)
        .await
    {
        Err(status) => status.code(),
        Ok(mut raw) => raw.next().await.map_or_else(|s| s.code(), |_| Code::Ok),
    };
    assert_eq!(code(None, first()).await, Code::Unauthenticated);
    assert_eq!(
        code(Some("x.y.z".into()), first()).await,
        Code::Unauthenticated
    );
    assert_eq!(
        code(Some(world.token("other", "a")), first()).await,
        Code::PermissionDenied
    );
    assert_eq!(
        code(Some(world.token("demo", "b")), first()).await,
        Code::PermissionDenied
    );
    assert_eq!(
        code(Some(world.token("demo", "a")), first()).await,
        Code::Ok
    );
    let nameless = DeltaDiscoveryRequest {
        node: None,
        ..first()
    };
    assert_eq!(
        code(Some(world.token("demo", "a")), nameless).await,
        Code::InvalidArgument
    );
    let by_name = DeltaDiscoveryRequest {
        resource_names_subscribe: vec!["/10.0.0.1".into()],
        ..first()
    };
    assert_eq!(
        code(Some(world.token("demo", "a")), by_name).await,
        Code::Unimplemented
    );
}

#[tokio::test]
async fn an_empty_set_and_an_unknown_type_are_answered() {
    let world = World::start().await;
    let token = world.token("demo", "a");
    let mut raw = world
        .stream(Some(token), subscribe(codec::TYPE_TCP_ROUTE))
        .await
        .unwrap();
    let empty = raw.next().await.unwrap();
    assert_eq!(
        (empty.type_url.as_str(), empty.resources.len()),
        (codec::TYPE_TCP_ROUTE, 0)
    );
    raw.requests
        .send(subscribe("type.googleapis.com/odd"))
        .await
        .unwrap();
    assert_eq!(
        raw.next().await.unwrap().type_url,
        "type.googleapis.com/odd"
    );
}

#[tokio::test]
async fn only_what_has_changed_is_sent_also_after_a_restart() {
    let mut world = World::start().await;
    let token = world.token("demo", "a");
    let mut raw = world
        .stream(Some(token.clone()), subscribe(codec::TYPE_ADDRESS))
        .await
        .unwrap();
    let all = raw.next().await.unwrap();
    assert_eq!(all.resources.len(), 1);
    world.write("more.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: demo}\nspec: {ports: [{port: 80}]}\n");
    let more = raw.next().await.unwrap();
    let names: Vec<_> = more.resources.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["demo/s.demo.svc.cluster.local"], "only the new one");

    world.run().await;
    let held = DeltaDiscoveryRequest {
        initial_resource_versions: [
            (
                all.resources[0].name.clone(),
                all.resources[0].version.clone(),
            ),
            (more.resources[0].name.clone(), "an older one".into()),
            ("demo/gone".into(), "1".into()),
        ]
        .into(),
        ..subscribe(codec::TYPE_ADDRESS)
    };
    let mut raw = world.stream(Some(token), held).await.unwrap();
    let difference = raw.next().await.unwrap();
    let names: Vec<_> = difference
        .resources
        .iter()
        .map(|r| r.name.as_str())
        .collect();
    assert_eq!(names, ["demo/s.demo.svc.cluster.local"]);
    assert_eq!(difference.removed_resources, ["demo/gone"]);
}

#[tokio::test]
async fn a_policy_narrows_only_after_the_workloads_it_selects_list_it() {
    let world = World::start().await;
    let wide = POLICY.replace("selector: {matchLabels: {app: gw}}, ", "");
    world.write("policy.yaml", &wide);
    let mut client = world.client("a");
    until(&mut client, |s| s.policies().count() == 1).await;
    let token = world.token("demo", "a");
    let mut raw = world
        .stream(Some(token), subscribe(codec::TYPE_AUTHORIZATION))
        .await
        .unwrap();
    assert_eq!(raw.next().await.unwrap().resources.len(), 1);
    raw.requests
        .send(subscribe(codec::TYPE_ADDRESS))
        .await
        .unwrap();
    assert_eq!(raw.next().await.unwrap().type_url, codec::TYPE_ADDRESS);
    world.write("policy.yaml", POLICY);
    let (first, second) = (raw.next().await.unwrap(), raw.next().await.unwrap());
    assert_eq!(
        (first.type_url.as_str(), second.type_url.as_str()),
        (codec::TYPE_ADDRESS, codec::TYPE_AUTHORIZATION),
        "narrower: the workloads first"
    );
    world.write("policy.yaml", &wide);
    let (first, second) = (raw.next().await.unwrap(), raw.next().await.unwrap());
    assert_eq!(
        (first.type_url.as_str(), second.type_url.as_str()),
        (codec::TYPE_AUTHORIZATION, codec::TYPE_ADDRESS),
        "wider: the policy first"
    );
}

#[tokio::test]
async fn who_comes_back_has_a_policy_narrowed_after_the_workloads_too() {
    let world = World::start().await;
    let wide = POLICY.replace("selector: {matchLabels: {app: gw}}, ", "");
    let gone = wide.replace("name: ", "name: gone-");
    world.write("policy.yaml", &wide);
    world.write("gone.yaml", &gone);
    let mut client = world.client("a");
    until(&mut client, |s| s.policies().count() == 2).await;
    let token = world.token("demo", "a");
    let first = subscribe(codec::TYPE_AUTHORIZATION);
    let mut raw = world.stream(Some(token.clone()), first).await.unwrap();
    let held = raw.next().await.unwrap().resources;
    assert_eq!(held.len(), 2);
    drop(raw);
    world.write("policy.yaml", POLICY);
    std::fs::remove_file(world.config("gone.yaml")).unwrap();
    until(&mut client, |s| {
        s.policies().count() == 1
            && s.policies()
                .all(|p| p.scope != mesh_model::PolicyScope::Namespace)
    })
    .await;

    let versions = held.into_iter().map(|r| (r.name, r.version));
    let back = DeltaDiscoveryRequest {
        initial_resource_versions: versions.collect(),
        ..subscribe(codec::TYPE_AUTHORIZATION)
    };
    let mut raw = world.stream(Some(token), back).await.unwrap();
    let answer = raw.next().await.unwrap();
    assert_eq!(answer.type_url, codec::TYPE_AUTHORIZATION);
    assert!(answer.resources.is_empty() && answer.removed_resources.is_empty());
    let addresses = subscribe(codec::TYPE_ADDRESS);
    raw.requests.send(addresses).await.unwrap();
    assert_eq!(raw.next().await.unwrap().type_url, codec::TYPE_ADDRESS);
    let rest = raw.next().await.unwrap();
    assert_eq!(rest.type_url, codec::TYPE_AUTHORIZATION);
    assert_eq!((rest.resources.len(), rest.removed_resources.len()), (1, 1));
}
