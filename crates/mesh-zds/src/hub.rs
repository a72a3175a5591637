//! The agent's end of the socket: every proxy that connects, and whoever waits for their answers.

use crate::agent::{Agent, AgentError, ConnectionId, Ticket};
use crate::connection::SEND_TIMEOUT;
use crate::message::{decode_ack, decode_hello, encode_request};
use crate::{Ack, MESSAGE_BYTES_MAX, MessageError, Pod, Request};
use mesh_net::{DatagramError, Netns, SeqPacket, SeqPacketListener};
use mesh_runtime::Scope;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;

/// Pause after each connection taken: at most 5 a second.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long a proxy may take to say hello, and to answer a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The pods of the node and the proxies that carry them. Clones are the same hub.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    status: watch::Sender<HubStatus>,
}

#[derive(Debug, Default)]
struct State {
    agent: Agent<Netns>,
    /// Connections, each with what wakes its task.
    wakes: BTreeMap<ConnectionId, Arc<Notify>>,
    waiting: BTreeMap<Ticket, oneshot::Sender<Ack>>,
}

/// How the hub is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HubStatus {
    /// Pods known.
    pub pods: usize,
    /// Proxies connected.
    pub proxies: usize,
}

/// Why a pod is not carried yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// No proxy is connected; the next one will be told.
    #[error("no proxy is connected")]
    NoProxy,
    /// The proxy went before it answered; the next one will be told.
    #[error("the proxy went before it answered")]
    ProxyGone,
    /// The proxy could not start it; it tries again by itself.
    #[error("the proxy answered: {0}")]
    Refused(String),
    /// A bound is reached.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ending {
    #[error(transparent)]
    Datagram(#[from] DatagramError),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("it did not {0} within 5 s")]
    Late(&'static str),
    #[error("it spoke without being asked")]
    Unasked,
}

impl Default for Hub {
    fn default() -> Self {
        Self::new()
    }
}

impl Hub {
    /// No pods and no proxies.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            status: watch::Sender::new(HubStatus::default()),
        }))
    }

    /// How the hub is, now and whenever it changes.
    pub fn status(&self) -> watch::Receiver<HubStatus> {
        self.0.status.subscribe()
    }

    /// Tells the newest proxy of a pod and waits for its answer.
    ///
    /// # Errors
    /// See [`AddError`]; the pod is known from here on whatever the answer, except past the bound.
    pub async fn add(&self, pod: Pod, netns: Netns) -> Result<(), AddError> {
        let answer = {
            let mut state = self.state();
            let ticket = state.agent.add(pod, netns)?.ok_or(AddError::NoProxy);
            self.changed(&state);
            let (waiter, answer) = oneshot::channel();
            state.waiting.insert(ticket?, waiter);
            state.wake();
            answer
        };
        match answer.await {
            Ok(ack) => ack.map_err(AddError::Refused),
            Err(_) => Err(AddError::ProxyGone),
        }
    }

    /// A pod runs whose namespace is not at hand: a proxy that has it keeps it.
    ///
    /// # Errors
    /// When there are too many pods.
    pub fn keep(&self, pod: Pod) -> Result<(), AgentError> {
        let mut state = self.state();
        let kept = state.agent.keep(pod);
        self.changed(&state);
        kept
    }

    /// Tells every proxy that a pod is gone.
    pub fn del(&self, uid: &str) {
        let mut state = self.state();
        for slow in state.agent.del(uid) {
            tracing::warn!(
                "a proxy does not answer as fast as pods change: its connection is closed"
            );
            state.end(slow);
        }
        state.wake();
        self.changed(&state);
    }

    /// Takes proxies until the task is ended; each is a task of `scope`.
    pub async fn serve(self, listener: SeqPacketListener, scope: Scope) {
        loop {
            match listener.accept().await {
                Ok(socket) => {
                    scope.spawn("node proxy", self.clone().converse(socket));
                }
                Err(error) => tracing::warn!(%error, "a proxy's connection was not taken"),
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    async fn converse(self, socket: SeqPacket) {
        match self.talk(&socket).await {
            Ok(()) => tracing::info!("a proxy has closed its connection"),
            Err(error) => tracing::warn!(%error, "a proxy's connection is closed"),
        }
    }

    async fn talk(&self, socket: &SeqPacket) -> Result<(), Ending> {
        let Some(hello) = receive(socket, "say hello").await? else {
            return Ok(());
        };
        decode_hello(&hello)?;
        let (connected, wake) = self.connected()?;
        tracing::info!("a proxy has connected");
        loop {
            let next = self.state().agent.next(connected.id);
            if let Some(request) = next {
                send(socket, &request).await?;
                let Some(ack) = receive(socket, "answer").await? else {
                    return Ok(());
                };
                self.answered(connected.id, decode_ack(&ack)?)?;
                continue;
            }
            if !self.state().wakes.contains_key(&connected.id) {
                return Err(AgentError::Slow.into());
            }
            tokio::select! {
                () = wake.notified() => {}
                // What is readable now is its end, or what it must not say.
                spoken = socket.receive(MESSAGE_BYTES_MAX) => match spoken? {
                    None => return Ok(()),
                    Some(_) => return Err(Ending::Unasked),
                }
            }
        }
    }

    fn connected(&self) -> Result<(Connected, Arc<Notify>), AgentError> {
        let mut state = self.state();
        let id = state.agent.connected()?;
        let wake = Arc::new(Notify::new());
        state.wakes.insert(id, wake.clone());
        self.changed(&state);
        let hub = self.clone();
        Ok((Connected { hub, id }, wake))
    }

    fn answered(&self, id: ConnectionId, ack: Ack) -> Result<(), AgentError> {
        let mut state = self.state();
        let ended = state.agent.answered(id, ack)?;
        match &ended.ack {
            Ok(()) => tracing::debug!(request = ended.what, "the proxy has done it"),
            Err(error) => tracing::warn!(request = ended.what, error, "the proxy has not done it"),
        }
        let waiter = ended.ticket.and_then(|t| state.waiting.remove(&t));
        if let Some(waiter) = waiter {
            // Whoever asked may have given up.
            drop(waiter.send(ended.ack));
        }
        Ok(())
    }

    fn changed(&self, state: &State) {
        let now = HubStatus {
            pods: state.agent.pods(),
            proxies: state.agent.proxies(),
        };
        self.0.status.send_if_modified(|status| {
            let before = std::mem::replace(status, now);
            before != now
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one call into the agent, which keeps its own order.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&self) {
        for wake in self.wakes.values() {
            wake.notify_one();
        }
    }

    /// Whoever waits for an answer on this connection learns that none will come.
    fn end(&mut self, id: ConnectionId) {
        for ticket in self.agent.disconnected(id) {
            self.waiting.remove(&ticket);
        }
        if let Some(wake) = self.wakes.remove(&id) {
            wake.notify_one();
        }
        // An older proxy may be the newest now, with things to be told.
        self.wake();
    }
}

/// A connection's place in the hub; given back when its task ends, however it ends.
struct Connected {
    hub: Hub,
    id: ConnectionId,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        state.end(self.id);
        self.hub.changed(&state);
    }
}

async fn send(socket: &SeqPacket, request: &Request<Netns>) -> Result<(), Ending> {
    let bytes = encode_request(request)?;
    let beside = match request {
        Request::Add(_, netns) => vec![netns.as_fd()],
        _ => Vec::new(),
    };
    let sending = timeout(SEND_TIMEOUT, socket.send(&bytes, &beside)).await;
    let sent: io::Result<()> = sending.map_err(|_| Ending::Late("read"))?;
    Ok(sent.map_err(DatagramError::Io)?)
}

async fn receive(socket: &SeqPacket, what: &'static str) -> Result<Option<Vec<u8>>, Ending> {
    let received = timeout(ANSWER_TIMEOUT, socket.receive(MESSAGE_BYTES_MAX)).await;
    let datagram = received.map_err(|_| Ending::Late(what))??;
    Ok(match datagram {
        // A proxy has no descriptors to give: they are closed, and what it says is not trusted.
        Some(d) if !d.descriptors.is_empty() => return Err(Ending::Unasked),
        Some(d) => Some(d.bytes),
        None => None,
    })
}

#[cfg(test)]
mod tests;
