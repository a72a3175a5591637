//! Questions for the upstream servers.
//!
//! A message goes out as it came, but for an id of our own. Against answers made up by others: each
//! question has a socket of its own, on a port of the kernel's choice and connected, so that nobody
//! but the server is heard; an id by chance; and the question must come back (RFC 5452).

use crate::cache::{Cache, CacheBounds};
use crate::query::Query;
use crate::wire::{self, HEADER_BYTES, Header, Layout};
use hickory_proto::op::{Message, ResponseCode};
use mesh_net::{ConnectError, ConnectOptions};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// How long a question may take in all: the C library's own timeout for one try.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Tries at least, of however few servers.
const ATTEMPTS: usize = 3;
/// How long one try may take, so that three fit into [`QUERY_TIMEOUT`].
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1600);
/// Datagrams that answer something else, after which a try is given up: somebody is guessing.
const STRANGERS_MAX: u32 = 16;

/// How a question came, and so how it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Over UDP: an answer cut short is passed on so, and the client asks again over TCP.
    Udp,
    /// Over TCP.
    Tcp,
}

impl Protocol {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// Why there is no answer. The client gets SERVFAIL.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The text is no name.
    #[error("not a host name")]
    NoName,
    /// There is nobody to ask.
    #[error("no upstream server is known")]
    NoServer,
    /// As many questions as may be are under way.
    #[error("too many questions are under way")]
    TooMany,
    /// None came in time.
    #[error("no answer within {} ms", timeout.as_millis())]
    Timeout {
        /// How long was waited.
        timeout: Duration,
    },
    /// The connection cannot be made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The socket calls failed.
    #[error("{server}: {source}")]
    Io {
        /// The server.
        server: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// What came answers something else.
    #[error("{server} answers something else")]
    Mismatch {
        /// The server.
        server: SocketAddr,
    },
}

/// Bounds the questions under way, and knows their sockets: a question that comes from one of them
/// went in a circle. Clones are the same bound; one a pod.
#[derive(Debug, Clone)]
pub struct Outstanding(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    count: usize,
    sockets: HashSet<SocketAddr>,
}

impl Outstanding {
    /// At most `max` questions at once.
    pub fn new(max: usize) -> Self {
        let state = Mutex::default();
        Self(Arc::new(Shared { max, state }))
    }

    /// Whether an address is that of one of our own sockets.
    pub fn is_ours(&self, address: SocketAddr) -> bool {
        self.state().sockets.contains(&canonical(address))
    }

    /// Questions under way.
    pub fn count(&self) -> usize {
        self.state().count
    }

    fn take(&self) -> Option<Place> {
        let mut state = self.state();
        if state.count >= self.0.max {
            return None;
        }
        state.count += 1;
        Some(Place {
            of: self.clone(),
            socket: Cell::new(None),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole after every statement.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one question; given back when dropped.
struct Place {
    of: Outstanding,
    socket: Cell<Option<SocketAddr>>,
}

impl Place {
    /// The socket of this try, instead of that of the last.
    fn note(&self, socket: SocketAddr) {
        let socket = canonical(socket);
        let mut state = self.of.state();
        if let Some(last) = self.socket.replace(Some(socket)) {
            state.sockets.remove(&last);
        }
        state.sockets.insert(socket);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.of.state();
        state.count -= 1;
        if let Some(socket) = self.socket.get() {
            state.sockets.remove(&socket);
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// How to ask.
#[derive(Debug, Clone)]
pub struct UpstreamSettings {
    /// The servers, in order of preference.
    pub servers: Vec<SocketAddr>,
    /// How sockets are made: mark, and the namespace of the pod whose question it is.
    pub connect: ConnectOptions,
    /// How long a question may take in all.
    pub timeout: Duration,
    /// What is kept of the answers.
    pub cache: CacheBounds,
}

/// Asks the servers, and keeps what they say.
#[derive(Debug)]
pub struct Forwarder {
    settings: UpstreamSettings,
    outstanding: Outstanding,
    cache: RefCell<Cache>,
    /// The server that answered last: a dead one costs its time only once.
    first: Cell<usize>,
}

impl Forwarder {
    /// A forwarder of one worker; `outstanding` is shared by the workers of a pod.
    pub fn new(settings: UpstreamSettings, outstanding: Outstanding) -> Self {
        Self {
            cache: RefCell::new(Cache::new(settings.cache)),
            settings,
            outstanding,
            first: Cell::new(0),
        }
    }

    /// The sockets of questions under way.
    pub fn outstanding(&self) -> &Outstanding {
        &self.outstanding
    }

    /// What is known already. Id and question are those of whoever asked first.
    pub fn cached(&self, query: &Query) -> Option<Vec<u8>> {
        self.cache.borrow().get(query, Instant::now())
    }

    /// Asks. What comes has our id still.
    ///
    /// # Errors
    /// See [`UpstreamError`]; within the settings' timeout.
    pub async fn forward(&self, query: &Query, by: Protocol) -> Result<Vec<u8>, UpstreamError> {
        let place = self.outstanding.take().ok_or(UpstreamError::TooMany)?;
        let limit = self.settings.timeout;
        let asking = self.ask_each(query, by, &place);
        let reply = timeout(limit, asking)
            .await
            .map_err(|_| UpstreamError::Timeout { timeout: limit })??;
        self.cache.borrow_mut().put(query, &reply, Instant::now());
        Ok(reply)
    }

    async fn ask_each(
        &self,
        query: &Query,
        by: Protocol,
        place: &Place,
    ) -> Result<Vec<u8>, UpstreamError> {
        let servers = &self.settings.servers;
        let (first, mut last) = (self.first.get(), UpstreamError::NoServer);
        for n in 0..servers.len().max(ATTEMPTS) {
            let index = (first + n) % servers.len().max(1);
            let Some(server) = servers.get(index) else {
                return Err(UpstreamError::NoServer);
            };
            let tried = match by {
                Protocol::Udp => timeout(ATTEMPT_TIMEOUT, self.udp(*server, query, place)).await,
                Protocol::Tcp => timeout(ATTEMPT_TIMEOUT, self.tcp(*server, query, place)).await,
            };
            match tried {
                // A server that cannot is passed by if there is another.
                Ok(Ok(reply)) if n + 1 < servers.len() && !can(&reply) => {
                    tracing::debug!(%server, "an upstream server does not answer this");
                }
                Ok(Ok(reply)) => {
                    self.first.set(index);
                    return Ok(reply);
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "an upstream server was not reached");
                    last = error;
                }
                Err(_) => {
                    let timeout = ATTEMPT_TIMEOUT;
                    last = UpstreamError::Timeout { timeout };
                }
            }
        }
        Err(last)
    }

    async fn udp(
        &self,
        server: SocketAddr,
        query: &Query,
        place: &Place,
    ) -> Result<Vec<u8>, UpstreamError> {
        let failed = |source| UpstreamError::Io { server, source };
        let socket = mesh_net::connect_udp(server, &self.settings.connect).map_err(failed)?;
        place.note(socket.local_addr().map_err(failed)?);
        let (id, message) = with_own_id(query);
        socket.send(&message).await.map_err(failed)?;
        for _ in 0..STRANGERS_MAX {
            // Only what has come needs room.
            socket.readable().await.map_err(failed)?;
            let mut reply = vec![0; query.udp_bytes_max()];
            match socket.try_recv(&mut reply) {
                Ok(length) => {
                    reply.truncate(length);
                    if answers(query, id, &reply) {
                        return Ok(reply);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(UpstreamError::Mismatch { server })
    }

    async fn tcp(
        &self,
        server: SocketAddr,
        query: &Query,
        place: &Place,
    ) -> Result<Vec<u8>, UpstreamError> {
        let failed = |source| UpstreamError::Io { server, source };
        let mut stream = mesh_net::connect(server, &self.settings.connect).await?;
        place.note(stream.local_addr().map_err(failed)?);
        let (id, message) = with_own_id(query);
        let frame = frame(&message).map_err(failed)?;
        stream.write_all(&frame).await.map_err(failed)?;
        let length = stream.read_u16().await.map_err(failed)?;
        let mut reply = vec![0; usize::from(length)];
        stream.read_exact(&mut reply).await.map_err(failed)?;
        if answers(query, id, &reply) {
            Ok(reply)
        } else {
            Err(UpstreamError::Mismatch { server })
        }
    }
}

/// A message as it goes over TCP: its length before it (RFC 1035 section 4.2.2).
pub(crate) fn frame(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(message.len() + 2);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    Ok(frame)
}

fn with_own_id(query: &Query) -> (u16, Vec<u8>) {
    // The library's generator is one for secrets, unlike `Dice`.
    let id = Message::query().metadata.id;
    let mut message = query.bytes.clone();
    wire::put(&mut message, 0, &id.to_be_bytes());
    (id, message)
}

/// Whether a message is the answer to this question.
fn answers(query: &Query, id: u16, reply: &[u8]) -> bool {
    let Ok(layout) = Layout::of(reply) else {
        return false;
    };
    let header = layout.header;
    if header.id != id || !header.has(Header::RESPONSE) || header.opcode() != 0 {
        return false;
    }
    match header.counts {
        [1, ..] => reply
            .get(HEADER_BYTES..layout.questions_end)
            .is_some_and(|question| question.eq_ignore_ascii_case(query.question())),
        // Old servers refuse what they do not understand, such as EDNS, without repeating it.
        [0, 0, 0, 0] => header.rcode() != 0,
        _ => false,
    }
}

/// Whether the server could answer at all.
fn can(reply: &[u8]) -> bool {
    let cannot = [
        ResponseCode::ServFail,
        ResponseCode::NotImp,
        ResponseCode::Refused,
    ];
    Header::read(reply).is_ok_and(|h| !cannot.iter().any(|c| u16::from(*c) == h.rcode()))
}
