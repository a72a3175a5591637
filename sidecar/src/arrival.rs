//! A connection for the local application, whichever way it came: let in, connected, carried.

use crate::admission::{Admission, Denial, Kind};
use crate::detect::{self, Declared, Found};
use crate::session::Pending;
use crate::worker::Worker;
use mesh_l7::{Authorization, ConnectionContext, HttpVersion, OwnedScope, Role};
use mesh_model::{Snapshot, SpiffeId, Workload};
use mesh_net::Prefixed;
use mesh_plan::{Client, Refusal};
use mesh_telemetry::ConnectionFacts;
use mesh_tls::PeerTrust;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Who comes, for what.
pub(crate) struct Caller<'a> {
    /// Our workload.
    pub(crate) workload: &'a Arc<Workload>,
    /// The TCP peer.
    pub(crate) peer: SocketAddr,
    /// The peer's identity as TLS proved it; none on plaintext.
    pub(crate) identity: Option<&'a SpiffeId>,
    /// What that rests on.
    pub(crate) trust: Option<Rc<PeerTrust>>,
    /// The application.
    pub(crate) destination: SocketAddr,
}

/// A connection that was let in, with the application connected.
pub(crate) struct Arrival {
    client: Client,
    peer: SocketAddr,
    admission: Admission,
    allowed_by: Arc<Snapshot>,
    declared: Declared,
    app: TcpStream,
}

impl Arrival {
    /// Lets a connection in and connects the application; each failure is one refusal.
    ///
    /// # Errors
    /// By policy, or because the application does not take it.
    pub(crate) async fn admit(
        worker: &Rc<Worker>,
        snapshot: Arc<Snapshot>,
        caller: Caller<'_>,
        facts: &mut ConnectionFacts,
    ) -> Result<Self, Refusal> {
        let (workload, destination) = (caller.workload, caller.destination);
        let app_protocol = mesh_plan::inbound_protocol(&snapshot, workload, destination.port());
        let declared = Declared::from(app_protocol);
        let admission = Admission {
            authorization: Authorization::Sidecar(workload.uid.clone()),
            scope: OwnedScope::App {
                address: destination,
                workload: Some(workload.clone()),
                service: facts.service.as_ref().map(|s| s.name.clone()),
                app_protocol,
            },
            identity: caller.identity.cloned(),
            source_ip: caller.peer.ip(),
            destination,
            snapshots: worker.node.snapshots.clone(),
            trust: caller.trust,
        };
        let kind = match declared {
            Declared::Bytes => Kind::Bytes,
            Declared::Http | Declared::Unknown => Kind::Any,
        };
        let policy = admission.check(&snapshot, kind).map_err(|denial| {
            facts.policy = denial.policy.map(|p| p.to_string());
            denial.refusal
        })?;
        facts.policy = policy.map(|p| p.to_string());
        Ok(Self {
            client: Client::of(workload),
            peer: caller.peer,
            admission,
            allowed_by: snapshot,
            declared,
            app: worker.connect_app(destination).await?,
        })
    }

    /// Carries the connection to its end, and gives its record or those of its requests.
    pub(crate) async fn carry<D>(self, worker: &Rc<Worker>, down: D, mut pending: Pending)
    where
        D: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let revocable = self.admission.clone();
        let revoked = revocable.revoked(self.allowed_by.clone(), Kind::Any);
        let (admission, allowed_by) = (self.admission.clone(), self.allowed_by.clone());
        let (client, peer) = (self.client.clone(), self.peer);
        let finding = self.find(Prefixed::new(down, Vec::new()));
        let found = tokio::select! {
            found = finding => found,
            reason = revoked => Err(Denial {
                refusal: Refusal::new(reason, "it may not go on"),
                policy: None,
            }),
        };
        match found {
            Ok(Found::Http(version, down, app)) => {
                let context = context(&admission, client, peer, version, &pending.facts);
                pending.leave_to_requests();
                if let Some(app) = app.filter(|app| app.prefix().is_empty()) {
                    worker
                        .upstream_app
                        .offer(admission.destination, app.into_inner());
                }
                let cut = admission.revoked(allowed_by, Kind::Any);
                let drain = &worker.node.drain;
                worker
                    .http_app
                    .serve_connection(down, context, cut, drain)
                    .await;
            }
            Ok(Found::Bytes(down, app)) => {
                let cut = admission.revoked(allowed_by, Kind::Bytes);
                let record = pending.begin();
                let Some(app) = app else {
                    let detail = "the application is not connected";
                    return record.end(mesh_model::Reason::Internal, Some(detail.into()));
                };
                mesh_l4::run_session(down, app, record, cut, &worker.node.drain).await;
            }
            Err(denial) => {
                if let Some(policy) = denial.policy {
                    pending.facts.policy = Some(policy.to_string());
                }
                pending.refuse(denial.refusal);
            }
        }
    }

    /// Finds what is spoken. Where policies deny all but HTTP, the application is not listened to
    /// before the client has shown that it speaks HTTP.
    async fn find<D>(self, down: Prefixed<D>) -> Result<Found<D, TcpStream>, Denial>
    where
        D: AsyncRead + AsyncWrite + Unpin,
    {
        let app = Prefixed::new(self.app, Vec::new());
        let plain = |refusal| Denial {
            refusal,
            policy: None,
        };
        let found = match self.declared {
            Declared::Http => Found::Http(HttpVersion::Detect, down, Some(app)),
            Declared::Bytes => Found::Bytes(down, Some(app)),
            Declared::Unknown => match self.admission.check(&self.allowed_by, Kind::Bytes) {
                Ok(_) => detect::with_server(down, app).await.map_err(plain)?,
                Err(denial) => {
                    let found: Found<D, TcpStream> =
                        detect::by_client(down).await.map_err(plain)?;
                    match found {
                        Found::Http(version, down, _) => Found::Http(version, down, Some(app)),
                        Found::Bytes(..) => return Err(denial),
                    }
                }
            },
        };
        Ok(found)
    }
}

fn context(
    admission: &Admission,
    client: Client,
    peer_address: SocketAddr,
    version: HttpVersion,
    facts: &ConnectionFacts,
) -> ConnectionContext {
    ConnectionContext {
        snapshots: admission.snapshots.clone(),
        client,
        source: facts.source.clone(),
        peer_address,
        destination: admission.destination,
        scope: admission.scope.clone(),
        authorization: admission.authorization.clone(),
        reporter: facts.reporter,
        security: facts.security,
        version,
        role: Role::Mesh,
        server_name: None,
    }
}
