//! Waypoint: tunnels for the services and workloads bound to us, taken on 15008.
//!
//! For each CONNECT: target by authority, admission by the policies that name it, 200, then HTTP
//! (routes and authorization of each request, mesh-l7) or bytes (mesh-l4), towards the endpoint by
//! HBONE with our own identity (interop/waypoint.md sections 3 and 4). The client is the tunnel's
//! peer: its own proxy dials with its identity.

use crate::admission::{Admission, Kind};
use crate::detect::{self, Declared, Found};
use crate::facts;
use crate::session::{self, Pending, Up};
use crate::tunnel::{self, Tunnel};
use crate::worker::Worker;
use http::HeaderMap;
use mesh_hbone::{HboneStream, Incoming};
use mesh_l7::{Authorization, ConnectionContext, HttpVersion, OwnedScope, Role};
use mesh_model::{Reason, Service, Snapshot, Workload};
use mesh_net::Prefixed;
use mesh_plan::{Authority, Client, Refusal, Target, WaypointTarget};
use mesh_telemetry::{ConnectionFacts, Party};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Takes tunnels until the drain starts.
pub(crate) async fn run(worker: Rc<Worker>, listener: TcpListener) {
    tunnel::run(worker, listener, facts::waypoint, serve).await;
}

/// Carries one stream.
async fn serve(tunnel: Rc<Tunnel>, mut incoming: Incoming) {
    let node = tunnel.worker.node.clone();
    let authority = incoming.authority().to_owned();
    let mut pending = Pending::new(&node, tunnel.facts(&authority));

    // Before the 200: what can be told without a request.
    let opened = tokio::select! {
        opened = open(&tunnel, &authority, &mut pending.facts) => opened,
        () = incoming.abandoned() => {
            Err(Refusal::new(Reason::DownstreamReset, "the client gave up"))
        }
        () = node.drain.forced() => Err(Refusal::new(Reason::Drained, "going down")),
    };
    let call = match opened {
        Ok(call) => call,
        Err(refusal) => {
            incoming.refuse(refusal.reason);
            return pending.refuse(refusal);
        }
    };

    // After it.
    match incoming.accept(&HeaderMap::new()) {
        Ok(stream) => {
            tokio::select! {
                () = call.carry(stream, pending) => {}
                // What is under way says so in its record when it is dropped.
                () = node.drain.forced() => {}
            }
        }
        Err(error) => {
            pending.refuse(Refusal::new(Reason::DownstreamReset, error.to_string()));
        }
    }
}

/// Everything that may fail before the 200; each failure is one refusal.
async fn open(
    tunnel: &Rc<Tunnel>,
    authority: &str,
    facts: &mut ConnectionFacts,
) -> Result<Call, Refusal> {
    // 1. Who we are.
    let node = &tunnel.worker.node;
    let me = node.workload().await?;

    // 2. Is it bound to us?
    let snapshot = node.snapshots.borrow().clone();
    let authority: Authority = authority
        .parse()
        .map_err(|e| Refusal::new(Reason::BadRequest, format!("{e}")))?;
    let target = mesh_plan::waypoint(&snapshot, &me, &authority)?;
    let (network, identity) = (&node.proxy.network, Some(&tunnel.identity));
    facts.source = facts::peer(&snapshot, network, tunnel.peer, identity);
    let destination = asked_address(&target, &authority, network);
    let (scope, declared) = scope_of(&snapshot, &target);
    if let WaypointTarget::Service { service, .. } = &target {
        facts.service = Some(service.clone());
    }

    // 3. May the client?
    let admission = Admission {
        authorization: Authorization::Waypoint(me.uid.clone()),
        scope,
        identity: Some(tunnel.identity.clone()),
        source_ip: tunnel.peer.ip(),
        destination,
        snapshots: node.snapshots.clone(),
        trust: Some(tunnel.trust.clone()),
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
    Ok(Call {
        tunnel: tunnel.clone(),
        me,
        snapshot,
        target,
        declared,
        admission,
    })
}

/// The address and port that policies see: those the client asked for.
fn asked_address(target: &WaypointTarget, authority: &Authority, network: &str) -> SocketAddr {
    match (target, authority) {
        (WaypointTarget::Workload { address, .. }, _) | (_, Authority::Address(address)) => {
            *address
        }
        (WaypointTarget::Service { service, port }, Authority::Host { .. }) => {
            let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            SocketAddr::new(service.vip(network).unwrap_or(any), *port)
        }
    }
}

fn scope_of(snapshot: &Snapshot, target: &WaypointTarget) -> (OwnedScope, Declared) {
    match target {
        WaypointTarget::Service { service, port } => {
            let protocol = service.port(*port).map(|p| p.app_protocol);
            let scope = OwnedScope::Service {
                name: service.name.clone(),
                port: *port,
            };
            (scope, protocol.unwrap_or_default().into())
        }
        WaypointTarget::Workload { workload, address } => {
            let protocol = mesh_plan::inbound_protocol(snapshot, workload, address.port());
            let scope = OwnedScope::Workload {
                uid: workload.uid.clone(),
                address: *address,
            };
            (scope, protocol.into())
        }
    }
}

/// One stream that was let in.
struct Call {
    tunnel: Rc<Tunnel>,
    me: Arc<Workload>,
    snapshot: Arc<Snapshot>,
    target: WaypointTarget,
    declared: Declared,
    admission: Admission,
}

type Spoken = Found<HboneStream, mesh_l4::UpstreamStream>;

impl Call {
    /// Carries the stream to its end, and gives its record or those of its requests.
    async fn carry(self, stream: HboneStream, mut pending: Pending) {
        let worker = self.tunnel.worker.clone();
        let revoked = self.admission.revoked(self.snapshot.clone(), Kind::Any);
        let found = tokio::select! {
            found = self.find(stream, &mut pending.facts) => found,
            reason = revoked => Err(Refusal::new(reason, "it may not go on")),
        };
        match found {
            Ok(Found::Http(version, down, _)) => {
                let facts = pending.leave_to_requests();
                let cut = self.admission.revoked(self.snapshot.clone(), Kind::Any);
                let context = self.context(version, facts.source);
                let drain = &worker.node.drain;
                worker
                    .http
                    .serve_connection(down, context, cut, drain)
                    .await;
            }
            Ok(Found::Bytes(down, up)) => self.bytes(down, up, pending).await,
            Err(refusal) => pending.refuse(refusal),
        }
    }

    /// Finds what is spoken. Where policies deny all but HTTP, no server is connected before the
    /// client has shown that it speaks HTTP.
    async fn find(
        &self,
        stream: HboneStream,
        facts: &mut ConnectionFacts,
    ) -> Result<Spoken, Refusal> {
        let whole = |stream| Prefixed::new(stream, Vec::new());
        match self.declared {
            Declared::Http => Ok(Found::Http(HttpVersion::Detect, whole(stream), None)),
            Declared::Bytes => Ok(Found::Bytes(whole(stream), None)),
            Declared::Unknown => match self.bytes_allowed(facts) {
                Ok(()) => {
                    let grace = self.tunnel.worker.node.proxy.detect_grace;
                    detect::within(stream, grace, self.dial(facts)).await
                }
                Err(_) => detect::by_client(whole(stream)).await,
            },
        }
    }

    /// Whether the client may send what is not HTTP.
    fn bytes_allowed(&self, facts: &mut ConnectionFacts) -> Result<(), Refusal> {
        match self.admission.check(&self.snapshot, Kind::Bytes) {
            Ok(policy) => {
                facts.policy = policy.map(|p| p.to_string());
                Ok(())
            }
            Err(denial) => {
                facts.policy = denial.policy.map(|p| p.to_string());
                Err(denial.refusal)
            }
        }
    }

    async fn bytes(&self, down: Prefixed<HboneStream>, up: Option<Up>, mut pending: Pending) {
        if let Err(refusal) = self.bytes_allowed(&mut pending.facts) {
            return pending.refuse(refusal);
        }
        let up = match up {
            Some(up) => up,
            None => match self.dial(&mut pending.facts).await {
                Ok(up) => Prefixed::new(up, Vec::new()),
                Err(refusal) => return pending.refuse(refusal),
            },
        };
        let cut = self.admission.revoked(self.snapshot.clone(), Kind::Bytes);
        let drain = &self.tunnel.worker.node.drain;
        mesh_l4::run_session(down, up, pending.begin(), cut, drain).await;
    }

    /// Connects to an endpoint with our own identity; no header of the client's goes along.
    async fn dial(&self, facts: &mut ConnectionFacts) -> Result<mesh_l4::UpstreamStream, Refusal> {
        let worker = &self.tunnel.worker;
        let asking = self.asking();
        let target = self.endpoint(&asking)?;
        let asked = facts.hbone_address.clone();
        let headers = HeaderMap::new();
        let dialled = session::dial(worker, &self.snapshot, &asking, target, &headers, facts);
        let dialled = dialled.await;
        facts.hbone_address = asked;
        dialled
    }

    /// Who asks the endpoint: we do, but it is the client that sticks to one.
    fn asking(&self) -> Client {
        Client::of(&self.me)
            .from_address(self.tunnel.peer.ip())
            .avoiding(self.tunnel.worker.node.ejector.avoided())
    }

    fn endpoint(&self, asking: &Client) -> Result<Target, Refusal> {
        match &self.target {
            WaypointTarget::Service { service, port } => {
                let service: &Arc<Service> = service;
                let mut dice = self.tunnel.worker.dice.borrow_mut();
                mesh_plan::to_service(&self.snapshot, asking, service, *port, &mut dice)
            }
            WaypointTarget::Workload { workload, address } => {
                Ok(mesh_plan::to_workload(workload, *address))
            }
        }
    }

    fn context(&self, version: HttpVersion, source: Party) -> ConnectionContext {
        ConnectionContext {
            snapshots: self.admission.snapshots.clone(),
            client: Client::of(&self.me).from_address(self.tunnel.peer.ip()),
            source,
            peer_address: self.tunnel.peer,
            destination: self.admission.destination,
            scope: self.admission.scope.clone(),
            authorization: self.admission.authorization.clone(),
            reporter: mesh_telemetry::Reporter::Waypoint,
            security: mesh_telemetry::Security::MutualTls,
            version,
            role: Role::Mesh,
            server_name: None,
        }
    }
}
