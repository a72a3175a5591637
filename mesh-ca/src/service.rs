//! The gRPC service, top down: authenticate, read the CSR, decide, sign (interop/ca.md).

use crate::authenticate::{AuthError, Authenticator, Caller};
use crate::csr::{Csr, CsrError};
use crate::grant::{self, Asked, Grant, Refusal, Rules};
use crate::issuer::{self, IssueError, Issued};
use crate::roots::Authority;
use mesh_discovery::SnapshotReceiver;
use mesh_grpc::Usage;
use mesh_proto::ca::istio_certificate_service_server::IstioCertificateService;
use mesh_proto::ca::{IstioCertificateRequest, IstioCertificateResponse};
use mesh_runtime::ReadyGate;
use mesh_telemetry::{Counter, LabelledCounter, Metrics};
use prost_types::value::Kind;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tonic::{Code, Request, Response, Status};

/// How long a workload that is not known yet is waited for: state reaches node proxies and us at
/// about the same time, and a refusal costs the caller a second at least.
const SETTLE: Duration = Duration::from_secs(1);
/// Metadata key of the identity a node proxy asks in the name of.
const IMPERSONATED: &str = "ImpersonatedIdentity";

/// The state of the mesh, once it is known.
pub(crate) struct Mesh {
    /// Snapshots; the first is empty until the gate opens.
    pub(crate) snapshots: SnapshotReceiver,
    /// Opens with the first full state.
    pub(crate) known: ReadyGate,
}

/// What a request needs.
pub(crate) struct Service {
    pub(crate) authenticator: Authenticator,
    pub(crate) rules: Rules,
    pub(crate) authority: Arc<Authority>,
    pub(crate) mesh: Option<Mesh>,
    pub(crate) counts: Counts,
}

/// Metrics of the service.
pub(crate) struct Counts {
    issued: Counter,
    refused: LabelledCounter,
}

impl Counts {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            issued: metrics.counter("mesh_ca_certificates_issued", "Certificates issued"),
            refused: metrics.labelled_counter(
                "mesh_ca_requests_refused",
                "Certificate requests refused, by reason",
                "reason",
            ),
        }
    }
}

/// Why a request ends without a certificate.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Caller(#[from] AuthError),
    #[error("{0}")]
    Request(#[from] CsrError),
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("{0}")]
    Issue(#[from] IssueError),
}

impl Failure {
    /// The stable word of the metric.
    const fn code(&self) -> &'static str {
        match self {
            Self::Caller(e) => e.code(),
            Self::Request(_) => "csr",
            Self::Refused(r) => r.code(),
            Self::Issue(_) => "internal",
        }
    }

    /// The answer. What concerns other workloads is told to the log only: the caller must not
    /// learn what runs where.
    fn status(&self) -> Status {
        let impersonation = "request impersonation authentication failure";
        match self {
            Self::Caller(e) => {
                Status::unauthenticated(format!("request authenticate failure: {e}"))
            }
            Self::Request(e) => Status::invalid_argument(e.to_string()),
            Self::Refused(refusal) => match refusal {
                Refusal::NoSnapshot => Status::unavailable(refusal.to_string()),
                Refusal::Identity(_)
                | Refusal::NotTrusted(_)
                | Refusal::NoNode(_)
                | Refusal::NotOnNode { .. } => Status::new(Code::PermissionDenied, impersonation),
                Refusal::Account(_) => Status::permission_denied(refusal.to_string()),
                Refusal::OtherIdentity { .. } | Refusal::DnsName(_) | Refusal::Lifetime { .. } => {
                    Status::invalid_argument(refusal.to_string())
                }
            },
            Self::Issue(_) => Status::internal("the certificate could not be signed"),
        }
    }
}

impl Service {
    async fn answer(
        &self,
        authorization: Option<&str>,
        request: &IstioCertificateRequest,
    ) -> Result<Issued, Failure> {
        let caller = self.authenticator.authenticate(authorization)?;
        let csr = Csr::read(&request.csr)?;
        let asked = Asked {
            impersonated: impersonated(request),
            uris: csr.uris.clone(),
            dns_names: csr.dns_names.clone(),
            validity_s: request.validity_duration,
        };
        let grant = self.grant(&caller, &asked).await?;
        let issued = issuer::issue(&self.authority, &grant, &csr, SystemTime::now())?;
        tracing::info!(
            account = %caller.account,
            node = caller.node.as_deref().unwrap_or("-"),
            identity = %grant.identity,
            serial = issued.serial,
            ttl_s = issued.not_after.duration_since(SystemTime::now()).unwrap_or_default().as_secs(),
            "certificate issued"
        );
        Ok(issued)
    }

    /// Decides; a workload that is not known yet is waited for a moment, for the node proxy may
    /// have heard of it before us.
    async fn grant(&self, caller: &Caller, asked: &Asked) -> Result<Grant, Refusal> {
        let Some(mesh) = &self.mesh else {
            return grant::decide(&self.rules, caller, asked, None);
        };
        let mut snapshots = mesh.snapshots.clone();
        let settled = tokio::time::sleep(SETTLE);
        tokio::pin!(settled);
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let known = mesh.known.is_open();
            let snapshot = known.then_some(&*snapshot);
            let refusal = match grant::decide(&self.rules, caller, asked, snapshot) {
                Err(refusal @ (Refusal::NotOnNode { .. } | Refusal::NoSnapshot)) => refusal,
                decided => return decided,
            };
            tokio::select! {
                Ok(()) = snapshots.changed() => {}
                () = mesh.known.opened(), if !known => {}
                () = &mut settled => return Err(refusal),
            }
        }
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let usage = request.extensions().get::<Usage>();
        let peer = usage.map(Usage::peer);
        let authorization = request.metadata().get("authorization");
        // Bytes that are no text are no token either.
        let authorization = authorization.and_then(|value| value.to_str().ok());
        let answer = self.answer(authorization, request.get_ref()).await;
        // Of use is a connection whose peer is somebody.
        if !matches!(answer, Err(Failure::Caller(_))) {
            drop(usage.map(Usage::begin));
        }
        match answer {
            Ok(issued) => {
                self.counts.issued.inc();
                Ok(Response::new(IstioCertificateResponse {
                    cert_chain: issued.chain,
                }))
            }
            Err(failure) => {
                self.counts.refused.with(failure.code()).inc();
                tracing::warn!(
                    peer = peer.map(tracing::field::display),
                    reason = failure.code(),
                    error = %failure,
                    "certificate refused"
                );
                Err(failure.status())
            }
        }
    }
}

/// The identity asked for in the metadata; one that is no text is an identity that is none.
fn impersonated(request: &IstioCertificateRequest) -> Option<String> {
    let value = request.metadata.as_ref()?.fields.get(IMPERSONATED)?;
    match &value.kind {
        Some(Kind::StringValue(text)) if text.is_empty() => None,
        Some(Kind::StringValue(text)) => Some(text.clone()),
        _ => Some(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::{ObjectName, Resource, SnapshotBuilder, Workload};
    use tokio::sync::watch;

    const A: &str = "spiffe://cluster.local/ns/demo/sa/a";

    struct Room {
        _folder: tempfile::TempDir,
        service: Service,
        snapshots: watch::Sender<Arc<mesh_model::Snapshot>>,
        known: ReadyGate,
    }

    fn room() -> Room {
        let folder = tempfile::tempdir().unwrap();
        let (snapshots, receiver) = watch::channel(SnapshotBuilder::new().snapshot());
        let known = mesh_runtime::Readiness::new().gate("mesh");
        let state = folder.path().join("state");
        let algorithm = crate::roots::RootAlgorithm::P256;
        let authority = Authority::open(&state, "cluster.local", algorithm).unwrap();
        let service = Service {
            authenticator: Authenticator::new(&folder.path().join("k"), Vec::new(), Vec::new()),
            rules: Rules {
                trust_domain: "cluster.local".into(),
                trusted_node_accounts: [ObjectName::new("strata-system", "ztunnel")].into(),
                serving_names: std::collections::BTreeMap::new(),
                ttl_default: Duration::from_secs(3600),
                ttl_max: Duration::from_secs(3600),
            },
            authority: Arc::new(authority),
            mesh: Some(Mesh {
                snapshots: receiver,
                known: known.clone(),
            }),
            counts: Counts::new(&Metrics::new("mesh-ca")),
        };
        Room {
            _folder: folder,
            service,
            snapshots,
            known,
        }
    }

    impl Room {
        async fn ask(&self) -> Result<Grant, Refusal> {
            let caller = Caller {
                account: ObjectName::new("strata-system", "ztunnel"),
                pod: None,
                node: Some("node-1".into()),
            };
            let asked = Asked {
                impersonated: Some(A.into()),
                ..Asked::default()
            };
            self.service.grant(&caller, &asked).await
        }

        fn place_a(&self) {
            let mut workload = Workload::new("a-1", "demo", "a-1");
            workload.service_account = "a".into();
            workload.node = "node-1".into();
            let mut builder = SnapshotBuilder::new();
            builder.upsert(Resource::Workload(Arc::new(workload)));
            self.snapshots.send_replace(builder.snapshot());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_workload_that_just_came_is_waited_for() {
        let room = room();
        room.known.open();
        let (granted, ()) = tokio::join!(room.ask(), async { room.place_a() });
        assert_eq!(granted.unwrap().identity.to_string(), A);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_state_is_waited_for() {
        let room = room();
        let (granted, ()) = tokio::join!(room.ask(), async {
            room.place_a();
            room.known.open();
        });
        assert_eq!(granted.unwrap().identity.to_string(), A);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_with_the_refusal() {
        let room = room();
        assert_eq!(room.ask().await, Err(Refusal::NoSnapshot));
        room.known.open();
        assert!(matches!(room.ask().await, Err(Refusal::NotOnNode { .. })));
    }
}
