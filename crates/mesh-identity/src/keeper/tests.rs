//! Fetching, renewing and forgetting against an authority under the test's control.

use super::*;
use crate::status::CertificateState;
use mesh_grpc::TextSource;
use mesh_proto::ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use mesh_proto::ca::{IstioCertificateRequest, IstioCertificateResponse};
use prost_types::value::Kind;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, KeyPair};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

/// What an authority saw of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    authorization: Option<String>,
    cluster: Option<String>,
    impersonated: Option<String>,
    validity_s: i64,
}

/// An authority that signs anything, as the test tells it.
#[derive(Clone)]
struct Fake {
    issuer: Arc<rcgen::Issuer<'static, KeyPair>>,
    root: Arc<str>,
    /// Ages of the certificates issued: how long valid already, and how long still.
    validity: Arc<Mutex<(Duration, Duration)>>,
    refuse: Arc<AtomicBool>,
    /// Requests wait for one of these.
    turns: Arc<Semaphore>,
    under_way: Arc<watch::Sender<usize>>,
    most: Arc<AtomicUsize>,
    /// Identities asked for, as the requests came.
    asked: Arc<Mutex<Vec<String>>>,
    /// Requests as they were served.
    seen: Arc<Mutex<Vec<Seen>>>,
}

#[tonic::async_trait]
impl IstioCertificateService for Fake {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let fields = request.get_ref().metadata.as_ref().map(|m| &m.fields);
        let impersonated = fields.map(|f| match &f["ImpersonatedIdentity"].kind {
            Some(Kind::StringValue(text)) => text.clone(),
            other => panic!("{other:?}"),
        });
        let name = impersonated.clone().unwrap_or_default();
        self.asked.lock().unwrap().push(name);
        self.under_way.send_modify(|n| *n += 1);
        let count = *self.under_way.borrow();
        self.most.fetch_max(count, Ordering::SeqCst);
        self.turns.acquire().await.unwrap().forget();
        self.under_way.send_modify(|n| *n -= 1);
        let text = |name: &str| {
            let value = request.metadata().get(name);
            value.map(|v| v.to_str().unwrap().to_owned())
        };
        self.seen.lock().unwrap().push(Seen {
            authorization: text("authorization"),
            cluster: text("clusterid"),
            impersonated,
            validity_s: request.get_ref().validity_duration,
        });
        if self.refuse.load(Ordering::SeqCst) {
            return Err(Status::unauthenticated("not today"));
        }
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: vec![self.sign(&request.get_ref().csr), self.root.to_string()],
        }))
    }
}

impl Fake {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Arc::new(rcgen::Issuer::new(params, key)),
            root: root.into(),
            validity: Arc::new(Mutex::new((
                Duration::from_secs(120),
                Duration::from_secs(3600),
            ))),
            refuse: Arc::default(),
            turns: Arc::new(Semaphore::new(1000)),
            under_way: Arc::new(watch::Sender::new(0)),
            most: Arc::default(),
            asked: Arc::default(),
            seen: Arc::default(),
        }
    }

    fn sign(&self, csr: &str) -> String {
        let mut csr = CertificateSigningRequestParams::from_pem(csr).unwrap();
        assert_eq!(csr.params.distinguished_name.iter().count(), 0, "no CN");
        let (age, left) = *self.validity.lock().unwrap();
        let now = SystemTime::now();
        csr.params.not_before = (now - age).into();
        csr.params.not_after = (now + left).into();
        csr.params.serial_number = Some(RandomState::new().hash_one(now).into());
        csr.signed_by(&self.issuer).unwrap().pem()
    }

    fn set_validity(&self, age_ms: u64, left_ms: u64) {
        *self.validity.lock().unwrap() = (
            Duration::from_millis(age_ms),
            Duration::from_millis(left_ms),
        );
    }

    /// Serves on a port of its own and gives the settings of a channel to it.
    fn serve(&self, scope: &Scope) -> ChannelSettings {
        let options = mesh_net::ListenOptions::new("127.0.0.1:0".parse().unwrap());
        let listener = mesh_net::listen(&options).unwrap();
        let address = listener.local_addr().unwrap();
        let service = IstioCertificateServiceServer::new(self.clone());
        scope.spawn("fake authority", async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        ChannelSettings {
            address: format!("http://{address}"),
            root: None,
            server_name: None,
            token: Some(TextSource::Literal("secret".into())),
            metadata: vec![("clusterid".into(), "Kubernetes".into())],
            mark: None,
        }
    }

    fn identities(&self, scope: &Scope, impersonate: bool) -> Identities {
        let source = CertificateSource::Ca {
            channel: self.serve(scope),
            impersonate,
            ttl: Duration::from_secs(86_400),
        };
        Identities::start(source, scope)
    }
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "demo", account).unwrap()
}

async fn next_certificate(receiver: &mut CertificateReceiver) -> Arc<WorkloadCertificate> {
    loop {
        receiver.changed().await.unwrap();
        if let Some(certificate) = receiver.borrow_and_update().clone() {
            return certificate;
        }
    }
}

#[tokio::test]
async fn a_certificate_is_fetched_once_and_shared() {
    let (scope, fake) = (Scope::new(), Fake::new());
    let identities = fake.identities(&scope, true);
    let first = identities.certificate(&id("a")).await.unwrap();
    let again = identities.certificate(&id("a")).await.unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    let expected = Seen {
        authorization: Some("Bearer secret".into()),
        cluster: Some("Kubernetes".into()),
        impersonated: Some(id("a").to_string()),
        validity_s: 86_400,
    };
    assert_eq!(*fake.seen.lock().unwrap(), [expected]);
    let list = identities.list();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].state, CertificateState::Available);
    assert_eq!(list[0].serial.as_deref(), Some(first.serial()));
    let text = serde_json::to_string(&list).unwrap();
    assert!(text.contains("\"available\"") && !text.contains("PRIVATE"));
    scope.cancel();
}

#[tokio::test]
async fn a_pod_proxy_asks_in_its_own_name() {
    let (scope, fake) = (Scope::new(), Fake::new());
    let identities = fake.identities(&scope, false);
    identities.certificate(&id("a")).await.unwrap();
    assert_eq!(fake.seen.lock().unwrap()[0].impersonated, None);
    scope.cancel();
}

#[tokio::test]
async fn at_most_eight_requests_are_under_way() {
    let (scope, fake) = (Scope::new(), Fake::new());
    fake.turns.forget_permits(1000);
    let identities = fake.identities(&scope, true);
    let names: Vec<SpiffeId> = (0..20).map(|n| id(&format!("a{n}"))).collect();
    let mut receivers: Vec<_> = names.iter().map(|n| identities.watch(n)).collect();
    let mut under_way = fake.under_way.subscribe();
    under_way.wait_for(|n| *n == FETCHES_MAX).await.unwrap();
    fake.turns.add_permits(20);
    for receiver in &mut receivers {
        receiver.wait_for(Option::is_some).await.unwrap();
    }
    assert_eq!(fake.most.load(Ordering::SeqCst), FETCHES_MAX);
    scope.cancel();
}

#[tokio::test]
async fn what_a_connection_waits_for_is_asked_for_first() {
    let (scope, fake) = (Scope::new(), Fake::new());
    fake.turns.forget_permits(1000);
    let identities = fake.identities(&scope, true);
    let names: Vec<SpiffeId> = (0..20).map(|n| id(&format!("a{n}"))).collect();
    let mut receivers: Vec<_> = names.iter().map(|n| identities.watch(n)).collect();
    let mut under_way = fake.under_way.subscribe();
    under_way.wait_for(|n| *n == FETCHES_MAX).await.unwrap();
    // All turns are taken and twelve wait; a connection needs the last of them, and then one that
    // nobody has asked for yet.
    let urgent = [names[19].clone(), id("new")];
    let waiting = async {
        let [last, new] = &urgent;
        let (a, b) = tokio::join!(identities.certificate(last), identities.certificate(new));
        (a.unwrap(), b.unwrap())
    };
    let granting = async {
        while identities.0.fetches.waiting(Priority::RealTime) < urgent.len() {
            tokio::task::yield_now().await;
        }
        // As many turns come free as are urgent: who comes to the authority now was given them.
        fake.turns.add_permits(urgent.len());
        while fake.asked.lock().unwrap().len() < FETCHES_MAX + urgent.len() {
            tokio::task::yield_now().await;
        }
        let mut next = fake.asked.lock().unwrap()[FETCHES_MAX..].to_vec();
        next.sort();
        let mut expected = urgent.each_ref().map(ToString::to_string);
        expected.sort();
        assert_eq!(next, expected);
        fake.turns.add_permits(100);
    };
    let (certificates, ()) = tokio::join!(waiting, granting);
    assert_eq!(certificates.0.identity(), &urgent[0]);
    for receiver in &mut receivers {
        receiver.wait_for(Option::is_some).await.unwrap();
    }
    scope.cancel();
}

#[tokio::test]
async fn a_certificate_is_renewed_at_half_life() {
    let (scope, fake) = (Scope::new(), Fake::new());
    // Half life is a moment away.
    fake.set_validity(100_000, 101_000);
    let identities = fake.identities(&scope, true);
    let mut receiver = identities.watch(&id("a"));
    let first = next_certificate(&mut receiver).await;
    fake.set_validity(100_000, 1_000_000);
    let second = next_certificate(&mut receiver).await;
    assert_ne!(first.serial(), second.serial());
    assert!(second.not_after() > first.not_after());
    scope.cancel();
}

#[tokio::test]
async fn a_failing_authority_is_asked_again_and_the_old_certificate_stays_to_its_end() {
    let (scope, fake) = (Scope::new(), Fake::new());
    fake.refuse.store(true, Ordering::SeqCst);
    let identities = fake.identities(&scope, true);
    let mut receiver = identities.watch(&id("a"));
    // The second try, a second later, succeeds with a certificate that ends soon.
    fake.set_validity(10_000, 3_000);
    while identities.list()[0].last_error.is_none() {
        tokio::task::yield_now().await;
    }
    let status = &identities.list()[0];
    assert_eq!(status.state, CertificateState::Initializing);
    let words = status.last_error.clone().unwrap();
    assert!(words.contains("not today"), "{words}");

    fake.refuse.store(false, Ordering::SeqCst);
    let certificate = next_certificate(&mut receiver).await;
    fake.refuse.store(true, Ordering::SeqCst);
    receiver.wait_for(Option::is_none).await.unwrap();
    assert!(SystemTime::now() >= certificate.not_after());
    assert_eq!(identities.list()[0].state, CertificateState::Expired);
    scope.cancel();
}

#[tokio::test]
async fn a_forgotten_identity_is_withdrawn_and_can_come_back() {
    let (scope, fake) = (Scope::new(), Fake::new());
    let identities = fake.identities(&scope, true);
    let kept = identities.certificate(&id("kept")).await.unwrap();
    let mut gone = identities.watch(&id("gone"));
    let first = next_certificate(&mut gone).await;
    identities.retain(&[id("kept")].into());
    assert!(gone.borrow_and_update().is_none());
    assert_eq!(identities.list().len(), 1);
    let still = identities.certificate(&id("kept")).await.unwrap();
    assert!(Arc::ptr_eq(&kept, &still));
    let back = identities.certificate(&id("gone")).await.unwrap();
    assert_ne!(back.serial(), first.serial());
    scope.cancel();
}

#[tokio::test(start_paused = true)]
async fn without_an_authority_the_wait_ends_with_its_reason() {
    let scope = Scope::new();
    let channel = ChannelSettings {
        address: "https://127.0.0.1:1".into(),
        root: Some(TextSource::File("/nonexistent/root.pem".into())),
        server_name: None,
        token: None,
        metadata: Vec::new(),
        mark: None,
    };
    let source = CertificateSource::Ca {
        channel,
        impersonate: true,
        ttl: Duration::from_secs(60),
    };
    let identities = Identities::start(source, &scope);
    let error = identities.certificate(&id("a")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::NoIdentity);
    let text = error.to_string();
    assert!(text.contains("/nonexistent/root.pem"), "{text}");
    assert!(text.contains(&id("a").to_string()), "{text}");
    scope.cancel();
}

#[tokio::test]
async fn a_process_can_sign_for_itself() {
    let scope = Scope::new();
    let identities = Identities::start(CertificateSource::SelfSigned, &scope);
    let certificate = identities.certificate(&id("a")).await.unwrap();
    assert_eq!(certificate.identity(), &id("a"));
    scope.cancel();
}

#[tokio::test]
async fn the_number_of_identities_is_bounded() {
    let scope = Scope::new();
    let identities = Identities::start(CertificateSource::SelfSigned, &scope);
    // No task runs in this loop, so nothing is signed for all these.
    for n in 0..IDENTITIES_MAX {
        drop(identities.watch(&id(&format!("a{n}"))));
    }
    let error = identities.certificate(&id("one-more")).await.unwrap_err();
    assert!(matches!(error, IdentityFetchError::NotKept(_)));
    assert!(identities.watch(&id("one-more")).has_changed().is_err());
    identities.retain(&BTreeSet::new());
    scope.cancel();
}
