//! The server of one pod on one worker: over UDP and TCP, in the pod's network namespace.

use crate::answer::{Answer, Client, Decision, Zone};
use crate::query::{Query, QueryFault};
use crate::upstream::{Forwarder, Protocol, UpstreamError, frame};
use crate::{answer, reply};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use mesh_model::{Dice, Snapshot, Workload};
use mesh_runtime::Scope;
use mesh_telemetry::{DnsMetrics, DnsQuestion};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout};

/// The longest query taken, bytes; a name and every option in use fit many times over.
pub const QUERY_BYTES_MAX: usize = 4096;
/// TCP connections of one pod on one worker; further ones are closed at once.
pub const CONNECTIONS_MAX: usize = 64;
/// How long a TCP connection may be silent (RFC 7766 section 6.2.3).
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after the drain's start what is under way may still be answered.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);
/// Pause after a socket's fault: without it the worker would do nothing else.
const FAULT_PAUSE: Duration = Duration::from_millis(50);

/// What a question is answered from.
#[derive(Debug, Clone)]
pub struct View {
    /// The mesh.
    pub snapshot: Arc<Snapshot>,
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// Its network.
    pub network: Arc<str>,
    /// What the control plane says of it.
    pub source: Option<Arc<Workload>>,
}

/// The server.
pub struct Server {
    zone: Arc<Zone>,
    view: Box<dyn Fn() -> View>,
    forwarder: Forwarder,
    metrics: DnsMetrics,
    dice: RefCell<Dice>,
    /// Runs what outlives the loop's turn: forwarded questions and TCP connections.
    scope: Scope,
    under_way: Cell<usize>,
    idle: Notify,
}

/// What becomes of a message at once.
enum Step {
    Drop,
    Reply(Vec<u8>),
    Forward(Box<Query>, Option<Arc<Workload>>),
}

impl Server {
    /// A server; `view` gives the state of the moment, `scope` runs what takes longer.
    pub fn new(
        zone: Arc<Zone>,
        view: impl Fn() -> View + 'static,
        forwarder: Forwarder,
        metrics: DnsMetrics,
        dice: Dice,
        scope: &Scope,
    ) -> Rc<Self> {
        Rc::new(Self {
            zone,
            view: Box::new(view),
            forwarder,
            metrics,
            dice: RefCell::new(dice),
            scope: scope.clone(),
            under_way: Cell::new(0),
            idle: Notify::new(),
        })
    }

    /// Answers over UDP until `stop`, and then what is under way still.
    pub async fn serve_udp(self: Rc<Self>, socket: UdpSocket, stop: impl Future<Output = ()>) {
        let socket = Rc::new(socket);
        let mut buffer = vec![0; QUERY_BYTES_MAX + 1];
        let mut stop = std::pin::pin!(stop);
        let mut stopped = None;
        loop {
            let until = stopped.map(|at: Instant| DRAIN_TIMEOUT.saturating_sub(at.elapsed()));
            let received = tokio::select! {
                biased;
                () = &mut stop, if stopped.is_none() => {
                    stopped = Some(Instant::now());
                    continue;
                }
                received = socket.recv_from(&mut buffer) => received,
                // Only when nothing more waits to be read.
                () = std::future::ready(()), if stopped.is_some() && self.under_way.get() == 0 => return,
                () = self.idle.notified(), if stopped.is_some() => continue,
                () = sleep(until.unwrap_or_default()), if stopped.is_some() => return,
            };
            match received {
                Ok((length, peer)) => {
                    if let Some(message) = buffer.get(..length) {
                        self.datagram(&socket, message, peer);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a DNS socket failed for once");
                    sleep(FAULT_PAUSE).await;
                }
            }
        }
    }

    fn datagram(self: &Rc<Self>, socket: &Rc<UdpSocket>, message: &[u8], peer: SocketAddr) {
        match self.decide(message, Protocol::Udp, peer) {
            Step::Drop => {}
            Step::Reply(reply) => send(socket, &reply, peer),
            Step::Forward(query, source) => {
                let (server, socket) = (self.clone(), socket.clone());
                self.under_way.set(self.under_way.get() + 1);
                let done = Done(self.clone());
                self.scope.spawn_local("dns question", async move {
                    let reply = server.forward(&query, Protocol::Udp, source).await;
                    send(&socket, &reply, peer);
                    drop(done);
                });
            }
        }
    }

    /// Answers over TCP until `stop`.
    pub async fn serve_tcp(self: Rc<Self>, listener: TcpListener, stop: impl Future<Output = ()>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stop => return,
                accepted = mesh_net::accept(&listener) => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::error!(%error, "the DNS listener failed");
                    return;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                tracing::debug!(%peer, "too many DNS connections");
                continue;
            };
            let server = self.clone();
            self.scope.spawn_local("dns connection", async move {
                if let Err(error) = server.connection(stream, peer).await {
                    tracing::debug!(%peer, %error, "a DNS connection ended");
                }
                drop(place);
            });
        }
    }

    /// One question after another, until the client has no more or falls silent.
    async fn connection(&self, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            let reading = async {
                let length = usize::from(stream.read_u16().await?);
                if length > QUERY_BYTES_MAX {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "query too long"));
                }
                buffer.resize(length, 0);
                stream.read_exact(&mut buffer).await
            };
            match timeout(IDLE_TIMEOUT, reading).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(()),
            }
            let reply = match self.decide(&buffer, Protocol::Tcp, peer) {
                Step::Drop => return Ok(()),
                Step::Reply(reply) => reply,
                Step::Forward(query, source) => self.forward(&query, Protocol::Tcp, source).await,
            };
            let frame = frame(&reply)?;
            match timeout(IDLE_TIMEOUT, stream.write_all(&frame)).await {
                Ok(written) => written?,
                Err(_) => return Ok(()),
            }
        }
    }

    fn decide(&self, message: &[u8], by: Protocol, peer: SocketAddr) -> Step {
        if message.len() > QUERY_BYTES_MAX {
            return Step::Drop;
        }
        let query = match Query::read(message) {
            Ok(query) => query,
            Err(QueryFault::Drop) => return Step::Drop,
            Err(QueryFault::Refuse { reply, code }) => {
                tracing::debug!(target: "dns", %peer, %code, "refused");
                return Step::Reply(reply);
            }
        };
        let view = (self.view)();
        self.metrics
            .asked(question(&query, by, view.source.as_deref()));
        let client = Client {
            namespace: &view.namespace,
            network: &view.network,
        };
        let asked = (&query.name, query.kind, query.class);
        let decision = answer(
            &view.snapshot,
            &self.zone,
            client,
            asked,
            &mut self.dice.borrow_mut(),
        );
        let (name, kind) = (&query.name, query.kind);
        match decision {
            Decision::Answer(found) => {
                let service = &found.service.name;
                let records = found.records.len();
                tracing::debug!(target: "dns", %name, %kind, %service, records, "answered");
                Step::Reply(of_mesh(&query, &found, by))
            }
            Decision::Forward if self.forwarder.outstanding().is_ours(peer) => {
                tracing::warn!(%name, %peer, "a forwarded question came back: the proxy's own packets are captured");
                Step::Reply(reply::failure(&query, ResponseCode::ServFail))
            }
            Decision::Forward => match self.forwarder.cached(&query) {
                Some(kept) => {
                    tracing::debug!(target: "dns", %name, %kind, "known from upstream");
                    Step::Reply(from_upstream(&query, kept, by))
                }
                None => Step::Forward(Box::new(query), view.source),
            },
        }
    }

    /// Asks upstream; a failure is SERVFAIL.
    async fn forward(&self, query: &Query, by: Protocol, source: Option<Arc<Workload>>) -> Vec<u8> {
        let since = Instant::now();
        let result = self.forwarder.forward(query, by).await;
        let failed = result.is_err();
        let asked = question(query, by, source.as_deref());
        self.metrics.forwarded(asked, failed, since.elapsed());
        let (name, kind) = (&query.name, query.kind);
        match result {
            Ok(reply) => {
                tracing::debug!(target: "dns", %name, %kind, "forwarded");
                from_upstream(query, reply, by)
            }
            Err(error) => {
                log_failure(query, &error);
                reply::failure(query, ResponseCode::ServFail)
            }
        }
    }
}

/// Counts a forwarded question as done, also when it is cut.
struct Done(Rc<Server>);

impl Drop for Done {
    fn drop(&mut self) {
        let left = self.0.under_way.get().saturating_sub(1);
        self.0.under_way.set(left);
        if left == 0 {
            self.0.idle.notify_waiters();
        }
    }
}

fn log_failure(query: &Query, error: &UpstreamError) {
    let (name, kind) = (&query.name, query.kind);
    tracing::debug!(target: "dns", %name, %kind, %error, "not answered upstream");
}

fn of_mesh(query: &Query, found: &Answer, by: Protocol) -> Vec<u8> {
    let bytes_max = match by {
        Protocol::Udp => query.udp_bytes_max(),
        Protocol::Tcp => usize::from(u16::MAX),
    };
    reply::of_mesh(query, found, bytes_max)
        .unwrap_or_else(|| reply::failure(query, ResponseCode::ServFail))
}

fn from_upstream(query: &Query, mut message: Vec<u8>, by: Protocol) -> Vec<u8> {
    if by == Protocol::Udp && message.len() > query.udp_bytes_max() {
        return reply::truncated(query, &message);
    }
    reply::for_client(query, &mut message);
    message
}

/// A client that does not read loses its answers, and asks again.
fn send(socket: &UdpSocket, reply: &[u8], peer: SocketAddr) {
    if let Err(error) = socket.try_send_to(reply, peer) {
        tracing::debug!(%peer, %error, "a DNS answer was not sent");
    }
}

fn question<'a>(query: &Query, by: Protocol, source: Option<&'a Workload>) -> DnsQuestion<'a> {
    DnsQuestion {
        kind: kind_name(query.kind),
        protocol: by.as_str(),
        source,
    }
}

/// The label of a type: a client may ask for 65,536 of them, a metric may not have as many.
fn kind_name(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "a",
        RecordType::AAAA => "aaaa",
        RecordType::ANY => "any",
        RecordType::CAA => "caa",
        RecordType::CNAME => "cname",
        RecordType::HTTPS => "https",
        RecordType::MX => "mx",
        RecordType::NAPTR => "naptr",
        RecordType::NS => "ns",
        RecordType::PTR => "ptr",
        RecordType::SOA => "soa",
        RecordType::SRV => "srv",
        RecordType::SVCB => "svcb",
        RecordType::TXT => "txt",
        _ => "other",
    }
}

#[cfg(test)]
mod tests;
