//! Outbound: connections of the local application, captured on 15001.
//!
//! Accept, original destination, then by what is there: HTTP to a service is routed request by
//! request (mesh-l7); everything else is planned once and carried as bytes (mesh-l4). Policies are
//! the destination's business.

use crate::detect::{self, Declared, Found};
use crate::facts;
use crate::proxy::Permit;
use crate::session::{self, Pending, Up};
use crate::worker::{Worker, accept_each};
use http::HeaderMap;
use mesh_hbone::{Baggage, Forwarded};
use mesh_l7::{Authorization, ConnectionContext, HttpVersion, OwnedScope, Role};
use mesh_model::{
    PORT_HBONE, PORT_INBOUND_PLAINTEXT, PORT_OUTBOUND, Reason, Service, Snapshot, Workload,
};
use mesh_net::Prefixed;
use mesh_plan::{Client, Refusal, SidecarPlan, SidecarService, Transport};
use mesh_telemetry::{ConnectionFacts, Party};
use std::future::pending;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

/// Takes connections until the drain starts.
pub(crate) async fn run(worker: Rc<Worker>, listener: TcpListener) {
    accept_each(worker, listener, "outbound", facts::outbound, captured).await;
}

async fn captured(worker: Rc<Worker>, stream: TcpStream, client: SocketAddr, permit: Permit) {
    let destination = mesh_net::original_destination(&stream);
    match destination.and_then(|to| Ok((stream.local_addr()?, to))) {
        Ok((at, destination)) => serve(worker, stream, client, at, destination).await,
        Err(error) => {
            let pending = Pending::new(&worker.node, facts::outbound(client));
            pending.refuse(Refusal::new(Reason::DownstreamReset, error.to_string()));
        }
    }
    drop(permit);
}

/// Carries one connection whose destination is known; `at` is our own address on it.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    client: SocketAddr,
    at: SocketAddr,
    destination: SocketAddr,
) {
    let pending = Pending::new(&worker.node, facts::outbound(client));
    let drain = worker.node.drain.clone();
    let call = Call {
        worker,
        client,
        destination,
    };
    tokio::select! {
        () = call.serve(stream, at, pending) => {}
        // What is under way says so in its record when it is dropped.
        () = drain.forced() => {}
    }
}

/// One connection whose destination is known.
struct Call {
    worker: Rc<Worker>,
    client: SocketAddr,
    destination: SocketAddr,
}

/// How it goes on.
enum Way {
    Http(HttpVersion, Prefixed<TcpStream>, Box<ConnectionContext>),
    Bytes(Prefixed<TcpStream>, Up),
}

impl Call {
    async fn serve(&self, stream: TcpStream, at: SocketAddr, mut pending: Pending) {
        match self.open(stream, at, &mut pending.facts).await {
            Ok(Way::Http(version, down, mut context)) => {
                pending.leave_to_requests();
                context.version = version;
                let (http, drain) = (&self.worker.http, &self.worker.node.drain);
                http.serve_connection(down, *context, never(), drain).await;
            }
            Ok(Way::Bytes(down, up)) => {
                let drain = &self.worker.node.drain;
                mesh_l4::run_session(down, up, pending.begin(), never(), drain).await;
            }
            Err(refusal) => pending.refuse(refusal),
        }
    }

    /// Everything that may fail before bytes flow; each failure is one refusal.
    async fn open(
        &self,
        stream: TcpStream,
        at: SocketAddr,
        facts: &mut ConnectionFacts,
    ) -> Result<Way, Refusal> {
        facts.destination.address = Some(self.destination);

        // 1. Not in circles.
        not_ourselves(at, self.destination)?;

        // 2. Who asks.
        let workload = self.worker.node.workload().await?;
        facts.source = Party {
            identity: workload.identity(),
            workload: Some(workload.clone()),
            address: Some(self.client),
        };

        // 3. HTTP to a service, or bytes?
        let snapshot = self.worker.node.snapshots.borrow().clone();
        let asking = Client::of(&workload).from_address(self.client.ip());
        let plan = mesh_plan::sidecar_destination(&snapshot, &asking, self.destination);
        let SidecarPlan::Service(service) = plan else {
            let up = self.dial(&snapshot, &asking, &workload, facts).await?;
            return Ok(Way::Bytes(Prefixed::new(stream, Vec::new()), up));
        };
        let found = match Declared::from(service.protocol) {
            Declared::Http => {
                let down = Prefixed::new(stream, Vec::new());
                let context = self.context(&service, asking, facts);
                return Ok(Way::Http(HttpVersion::Detect, down, context));
            }
            Declared::Bytes | Declared::Unknown => {
                let grace = self.worker.node.proxy.detect_grace;
                let dial = async {
                    let up = self.dial(&snapshot, &asking, &workload, facts).await?;
                    Ok(up.into_inner())
                };
                detect::within(stream, grace, dial).await?
            }
        };
        match found {
            Found::Http(version, down, _) => {
                let context = self.context(&service, asking, facts);
                Ok(Way::Http(version, down, context))
            }
            Found::Bytes(down, Some(up)) => Ok(Way::Bytes(down, up)),
            Found::Bytes(down, None) => {
                let up = self.dial(&snapshot, &asking, &workload, facts).await?;
                Ok(Way::Bytes(down, up))
            }
        }
    }

    /// Plans the connection as a whole and connects.
    async fn dial(
        &self,
        snapshot: &Snapshot,
        asking: &Client,
        workload: &Workload,
        facts: &mut ConnectionFacts,
    ) -> Result<Up, Refusal> {
        let avoided = self.worker.node.ejector.avoided();
        let asking = asking.clone().avoiding(avoided);
        let target = {
            let mut dice = self.worker.dice.borrow_mut();
            mesh_plan::outbound(snapshot, &asking, self.destination, &mut dice)?
        };
        let headers = match &target.transport {
            Transport::Plain => HeaderMap::new(),
            Transport::Hbone { .. } | Transport::DoubleHbone { .. } => {
                self.headers(workload, target.service.as_deref())
            }
        };
        let up = session::dial(&self.worker, snapshot, &asking, target, &headers, facts).await?;
        facts.tls_group = up.key_exchange();
        Ok(Prefixed::new(up, Vec::new()))
    }

    /// The headers of a CONNECT we send (interop/hbone.md, "CONNECT request").
    fn headers(&self, workload: &Workload, service: Option<&Service>) -> HeaderMap {
        let forwarded = Forwarded {
            client: Some(self.client),
            host: service.map(|s| s.name.hostname.to_string()),
        };
        let trace = mesh_hbone::new_traceparent(&mut self.worker.dice.borrow_mut());
        let values = [
            ("baggage", Baggage::value_of(workload)),
            ("forwarded", forwarded.to_value()),
            ("traceparent", trace),
        ];
        let mut headers = HeaderMap::with_capacity(values.len());
        for (name, value) in values {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        headers
    }

    fn context(
        &self,
        found: &SidecarService,
        client: Client,
        facts: &ConnectionFacts,
    ) -> Box<ConnectionContext> {
        let service: &Arc<Service> = &found.service;
        Box::new(ConnectionContext {
            snapshots: self.worker.node.snapshots.clone(),
            client,
            source: facts.source.clone(),
            peer_address: self.client,
            destination: self.destination,
            scope: OwnedScope::Service {
                name: service.name.clone(),
                port: found.port,
            },
            authorization: Authorization::None,
            reporter: facts.reporter,
            security: facts.security,
            version: HttpVersion::Detect,
            role: Role::Mesh,
            server_name: None,
        })
    }
}

/// No policy of ours ends an outbound connection.
async fn never() -> Reason {
    pending().await
}

/// A connection that was not captured, or was captured on its way to our own ports of this pod,
/// would come back to us for ever.
fn not_ourselves(at: SocketAddr, destination: SocketAddr) -> Result<(), Refusal> {
    const OURS: [u16; 3] = [PORT_OUTBOUND, PORT_INBOUND_PLAINTEXT, PORT_HBONE];
    let (at, destination) = (canonical(at), canonical(destination));
    let ours = OURS.contains(&destination.port());
    if destination == at || (ours && destination.ip() == at.ip()) {
        let detail = format!("{destination} is a port of this proxy itself");
        return Err(Refusal::new(Reason::WrongDestination, detail));
    }
    Ok(())
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_ports_are_refused_and_those_of_others_are_not() {
        let at = "10.0.0.1:15001".parse().unwrap();
        for port in [15001, 15006, 15008] {
            let own = SocketAddr::from(([10, 0, 0, 1], port));
            assert!(not_ourselves(at, own).is_err(), "{own}");
            let other = SocketAddr::from(([10, 0, 0, 2], port));
            assert!(not_ourselves(at, other).is_ok(), "{other}");
        }
        assert!(not_ourselves(at, "10.0.0.1:80".parse().unwrap()).is_ok());
    }
}
