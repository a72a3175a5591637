//! The authority as its callers meet it: real TLS sockets, real gRPC.

use super::*;
use crate::authenticate::tests::{Signer, claims, write_keys};
use crate::roots::{KEY_FILE, ROOT_FILE};
use crate::settings::Flags;
use clap::Parser;
use mesh_discovery::Source;
use mesh_grpc::{ChannelSettings, TextSource};
use mesh_identity::{CertificateSource, Identities};
use mesh_model::SpiffeId;
use mesh_proto::ca::IstioCertificateRequest;
use mesh_proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use mesh_tls::{Expected, WorkloadCertificate, accept_mesh, connect_mesh, new_csr};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Code, Status};

const A: &str = "spiffe://cluster.local/ns/demo/sa/a";
const B: &str = "spiffe://cluster.local/ns/demo/sa/b";

/// Two workloads on two nodes.
const MESH: &str = "
workloads:
- uid: Kubernetes//Pod/demo/a-1
  name: a-1
  namespace: demo
  serviceAccount: a
  trustDomain: cluster.local
  node: node-1
  workloadIps: [10.0.0.1]
  network: ''
- uid: Kubernetes//Pod/demo/b-1
  name: b-1
  namespace: demo
  serviceAccount: b
  trustDomain: cluster.local
  node: node-2
  workloadIps: [10.0.0.2]
  network: ''
";

/// An authority and what its callers need.
struct House {
    folder: tempfile::TempDir,
    signer: Signer,
    settings: Settings,
    inputs: Inputs,
    address: SocketAddr,
}

impl House {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (state, keys) = (folder.path().join("ca"), folder.path().join("keys.json"));
        let signer = Signer::new("one");
        write_keys(&keys, &[&signer]);
        let here = "127.0.0.1:0";
        let mut settings = Flags::parse_from([
            "mesh-ca",
            "--state",
            state.to_str().unwrap(),
            "--token-keys",
            keys.to_str().unwrap(),
            "--listen",
            here,
            "--admin-address",
            here,
            "--metrics-address",
            here,
            "--readiness-address",
            here,
            "--trusted-node-accounts",
            "strata-system/ztunnel",
            "--serving-names",
            "strata-system/mesh-control=localhost,mesh-control.strata-system.svc",
        ])
        .check()
        .unwrap();
        change(&mut settings);
        let inputs = Inputs {
            scope: Scope::new(),
            connections: Scope::new(),
            drain: Drain::new(),
            readiness: Readiness::new(),
            metrics: Metrics::new("mesh-ca"),
            log: None,
        };
        let address = start(&settings, &inputs).unwrap();
        Self {
            folder,
            signer,
            settings,
            inputs,
            address,
        }
    }

    fn root(&self) -> PathBuf {
        self.settings.state.join(ROOT_FILE)
    }

    fn channel(&self, token: Option<&str>) -> ChannelSettings {
        ChannelSettings {
            address: format!("https://localhost:{}", self.address.port()),
            root: Some(TextSource::File(self.root())),
            server_name: None,
            token: token.map(|t| TextSource::Literal(t.into())),
            metadata: vec![("clusterid".into(), "Kubernetes".into())],
            mark: None,
        }
    }

    async fn ask(
        &self,
        token: Option<&str>,
        request: IstioCertificateRequest,
    ) -> Result<Vec<String>, Status> {
        let settings = self.channel(token);
        let channel = settings.connect().await.unwrap();
        let mut request = tonic::Request::new(request);
        settings.authorize(&mut request).unwrap();
        let mut client = IstioCertificateServiceClient::new(channel);
        let answer = client.create_certificate(request).await?;
        Ok(answer.into_inner().cert_chain)
    }

    fn token(&self, namespace: &str, account: &str) -> String {
        self.signer.token(namespace, account, "node-1")
    }

    fn identities(&self, namespace: &str, account: &str, impersonate: bool) -> Identities {
        let source = CertificateSource::Ca {
            channel: self.channel(Some(&self.token(namespace, account))),
            impersonate,
            ttl: Duration::from_secs(3600),
        };
        Identities::start(source, &self.inputs.scope)
    }

    async fn stop(self) -> tempfile::TempDir {
        self.inputs.drain.force();
        self.inputs.connections.finished().await;
        self.inputs.scope.cancel();
        self.inputs.scope.finished().await;
        self.folder
    }
}

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn request_for(identity: &str) -> IstioCertificateRequest {
    IstioCertificateRequest {
        csr: new_csr(&id(identity)).unwrap().0,
        validity_duration: 3600,
        metadata: None,
    }
}

fn impersonating(identity: &str) -> IstioCertificateRequest {
    let kind = prost_types::value::Kind::StringValue(identity.into());
    let value = prost_types::Value { kind: Some(kind) };
    let fields = [("ImpersonatedIdentity".to_owned(), value)].into();
    IstioCertificateRequest {
        metadata: Some(prost_types::Struct { fields }),
        ..request_for(identity)
    }
}

/// Two workloads with certificates of the authority talk over a real socket.
async fn talk(server: Arc<WorkloadCertificate>, client: Arc<WorkloadCertificate>) -> String {
    let listener = listen(&ListenOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = async {
        let (stream, _) = mesh_net::accept(&listener).await.unwrap();
        let (mut stream, peer) = accept_mesh(stream, &server).await.unwrap();
        let text = peer.identity.to_string();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let connecting = async {
        let options = mesh_net::ConnectOptions::default();
        let stream = mesh_net::connect(address, &options).await.unwrap();
        let expected = Expected::AnyOf(vec![server.identity().clone()]);
        let (mut stream, _) = connect_mesh(stream, &client, &expected).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    tokio::join!(accepting, connecting).1
}

#[tokio::test]
async fn workloads_get_certificates_and_know_each_other() {
    let house = House::new(|_| {});
    let a = house.identities("demo", "a", false);
    let b = house.identities("demo", "b", false);
    let (id_a, id_b) = (id(A), id(B));
    let (a, b) = tokio::join!(a.certificate(&id_a), b.certificate(&id_b));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(
        a.roots_pem(),
        std::fs::read_to_string(house.root()).unwrap()
    );
    let validity = a.not_after().duration_since(a.not_before()).unwrap();
    assert_eq!(validity.as_secs(), 3600 + 120);
    assert_eq!(talk(a, b).await, B);
    assert!(house.inputs.readiness.is_ready());
    let metrics = house.inputs.metrics.encode();
    assert!(
        metrics.contains("mesh_ca_certificates_issued_total 2"),
        "{metrics}"
    );
    house.stop().await;
}

#[tokio::test]
async fn a_node_proxy_gets_the_certificates_of_its_node() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("mesh.yaml");
    std::fs::write(&state, MESH).unwrap();
    let house = House::new(|s| s.discovery = Some(Source::LocalFile(state)));
    let ztunnel = house.identities("strata-system", "ztunnel", true);
    let a = ztunnel.certificate(&id(A)).await.unwrap();
    assert_eq!(a.identity(), &id(A));

    let token = house.token("strata-system", "ztunnel");
    let refused = house.ask(Some(&token), impersonating(B)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(
        refused.message(),
        "request impersonation authentication failure",
        "the caller learns nothing of what runs where"
    );
    let stranger = house.token("demo", "b");
    let refused = house.ask(Some(&stranger), impersonating(A)).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    house.stop().await;
}

#[tokio::test]
async fn without_the_state_of_the_mesh_impersonation_is_unavailable() {
    let house = House::new(|_| {});
    let token = house.token("strata-system", "ztunnel");
    let refused = house.ask(Some(&token), impersonating(A)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    house.stop().await;
}

#[tokio::test]
async fn each_bad_token_is_unauthenticated_in_its_own_words() {
    let house = House::new(|_| {});
    let now = jsonwebtoken::get_current_timestamp();
    let signed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut claims = claims("demo", "a", "node-1");
        change(&mut claims);
        Some(house.signer.sign(&claims))
    };
    let cases = [
        (None, "no bearer token"),
        (Some("nonsense".to_owned()), "malformed"),
        (
            Some(Signer::new("one").token("demo", "a", "n")),
            "signature is wrong",
        ),
        (
            Some(Signer::new("two").token("demo", "a", "n")),
            "unknown key",
        ),
        (signed(&|c| c["exp"] = json!(now - 60)), "expired"),
        (signed(&|c| c["aud"] = json!(["x"])), "another audience"),
    ];
    for (token, words) in cases {
        let refused = house.ask(token.as_deref(), request_for(A)).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().contains(words), "{refused}");
        assert!(refused.message().contains("request authenticate failure"));
    }
    let good = house.token("demo", "a");
    house.ask(Some(&good), request_for(A)).await.unwrap();
    house.stop().await;
}

#[tokio::test]
async fn each_bad_request_is_refused_in_its_own_words() {
    let house = House::new(|_| {});
    let good = request_for(A);
    let mut cut = good.clone();
    cut.csr.truncate(120);
    let mut garbage = good.clone();
    garbage.csr = "garbage".into();
    let mut rsa1024 = good.clone();
    rsa1024.csr = include_str!("../csr/rsa1024.pem").into();
    let mut long_lived = good.clone();
    long_lived.validity_duration = 91 * 86_400;
    let mut hosts = good.clone();
    let names = ["localhost".to_owned()];
    hosts.csr = new_serving_csr(&id(A), &names).unwrap().0;
    let mut tampered = good.clone();
    tampered.csr = crate::csr::tests::tampered();
    let cases = [
        (cut, "not PEM"),
        (garbage, "not PEM"),
        (tampered, "does not prove possession"),
        (rsa1024, "RSA of 1024 bits"),
        (request_for(B), B),
        (long_lived, "lifetime"),
        (hosts, "localhost"),
    ];
    let token = house.token("demo", "a");
    for (request, words) in cases {
        let refused = house.ask(Some(&token), request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(words), "{refused}");
    }
    let mut huge = good;
    huge.csr = "x".repeat(MESSAGE_BYTES_MAX + 1);
    let refused = house.ask(Some(&token), huge).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    house.stop().await;
}

#[tokio::test]
async fn garbage_on_the_port_disturbs_nobody() {
    let house = House::new(|_| {});
    let options = mesh_net::ConnectOptions::default();
    let inputs: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[22, 3, 1, 0, 200, 1],
        b"",
        &[0; 64],
    ];
    for bytes in inputs {
        let mut stream = mesh_net::connect(house.address, &options).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A reset is as good an end as a FIN here.
        stream.read_to_end(&mut answer).await.ok();
    }
    let token = house.token("demo", "a");
    house.ask(Some(&token), request_for(A)).await.unwrap();
    house.stop().await;
}

#[tokio::test]
async fn a_connection_that_nobody_uses_is_cut() {
    let house = House::new(|_| {});
    let root = std::fs::read_to_string(house.root()).unwrap();
    let settings = mesh_tls::EdgeClientSettings::named("localhost", &root).alpn(&["h2"]);
    let connector = mesh_tls::EdgeConnector::new(&settings).unwrap();
    let options = mesh_net::ConnectOptions::default();
    for first in [
        &b""[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ] {
        let stream = mesh_net::connect(house.address, &options).await.unwrap();
        let (mut silent, _) = connector.connect(stream).await.unwrap();
        silent.write_all(first).await.unwrap();
        silent.flush().await.unwrap();
        // Nothing but time passes.
        tokio::time::pause();
        let mut answer = Vec::new();
        silent.read_to_end(&mut answer).await.ok();
        tokio::time::resume();
    }
    let token = house.token("demo", "a");
    house.ask(Some(&token), request_for(A)).await.unwrap();
    house.stop().await;
}

#[tokio::test]
async fn a_caller_that_trusts_another_root_does_not_connect() {
    let house = House::new(|_| {});
    let other = House::new(|_| {});
    let mut settings = house.channel(None);
    settings.root = Some(TextSource::File(other.root()));
    assert!(settings.connect().await.is_err());
    let mut settings = house.channel(None);
    settings.server_name = Some("bank.example".into());
    assert!(settings.connect().await.is_err());
    house.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_root_and_a_token_that_change_are_used_from_the_next_try_on() {
    let house = House::new(|_| {});
    let other = House::new(|_| {});
    let (root, token) = (house.folder.path().join("r"), house.folder.path().join("t"));
    std::fs::copy(other.root(), &root).unwrap();
    std::fs::write(&token, other.token("demo", "a")).unwrap();
    let mut channel = house.channel(None);
    channel.root = Some(TextSource::File(root.clone()));
    channel.token = Some(TextSource::File(token.clone()));
    let source = CertificateSource::Ca {
        channel,
        impersonate: false,
        ttl: Duration::from_secs(3600),
    };
    let identities = Identities::start(source, &house.inputs.scope);
    let mut receiver = identities.watch(&id(A));
    while identities.list()[0].failures == 0 {
        tokio::task::yield_now().await;
    }
    let why = identities.list()[0].last_error.clone().unwrap();
    assert!(why.contains("invalid peer certificate"), "{why}");
    std::fs::copy(house.root(), &root).unwrap();
    std::fs::write(&token, house.token("demo", "a")).unwrap();
    receiver.wait_for(Option::is_some).await.unwrap();
    house.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_root_and_trust() {
    let house = House::new(|_| {});
    let token = house.token("demo", "a");
    let first = house.ask(Some(&token), request_for(A)).await.unwrap();
    let mode = |name: &str| {
        let path = house.settings.state.join(name);
        path.metadata().unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(KEY_FILE), 0o600);
    assert_eq!(mode("."), 0o700);
    let settings = house.settings.clone();
    let _folder = house.stop().await;
    let again = House::new(|s| {
        s.state = settings.state;
        s.token_keys = settings.token_keys;
    });
    let second = again.ask(Some(&token), request_for(A)).await.unwrap();
    assert_eq!(first.last(), second.last());
    again.stop().await;
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_used_stops_the_start() {
    let house = House::new(|_| {});
    let (settings, inputs) = (house.settings.clone(), house.inputs.clone());
    let error = start(&settings, &inputs).unwrap_err();
    assert!(
        format!("{error:#}").contains("another process"),
        "{error:#}"
    );
    let _folder = house.stop().await;
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(settings.state.join(KEY_FILE), open).unwrap();
    let error = start(&settings, &inputs).unwrap_err();
    assert!(format!("{error:#}").contains("mode 644"), "{error:#}");
}

#[tokio::test]
async fn a_listed_server_gets_its_host_certificate() {
    let house = House::new(|_| {});
    let identity = id("spiffe://cluster.local/ns/strata-system/sa/mesh-control");
    let token = house.token("strata-system", "mesh-control");
    let names = ["localhost".to_owned()];
    let (csr, key) = new_serving_csr(&identity, &names).unwrap();
    let request = IstioCertificateRequest {
        csr,
        ..IstioCertificateRequest::default()
    };
    let chain = house.ask(Some(&token), request).await.unwrap();
    let certificate = ServingCertificate::from_chain(key, &chain).unwrap();
    assert_eq!(certificate.names(), names);
    house.stop().await;
}
