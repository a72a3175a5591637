//! The agent's side, decided: which pods there are, which proxies are connected, and what each is
//! to be told next.
//!
//! Pure. Each connection is a strict ping-pong: [`Agent::next`] gives nothing while an answer is owed.
//! A pod that comes is told to the newest proxy, a pod that goes to all (an older one may still carry
//! its connections).

use crate::{Ack, PODS_MAX, Pod, Request};
use std::collections::{BTreeMap, VecDeque};

/// Proxies connected at once: an upgrade has two.
const CONNECTIONS_MAX: usize = 8;
/// Requests that wait for one proxy: a snapshot and as many changes. A proxy that lets more pile up
/// is of no use; it reconnects and is told everything anew.
const QUEUE_MAX: usize = 2 * PODS_MAX + 1;

/// One connection of a proxy. A later one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

/// One Add under way, to be recognised when it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// Why something was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// Too many proxies are connected.
    #[error("{CONNECTIONS_MAX} proxies are connected already")]
    TooManyConnections,
    /// Too many pods.
    #[error("{PODS_MAX} pods are known already")]
    TooManyPods,
    /// An answer to nothing.
    #[error("the proxy answered what it was not asked")]
    Unasked,
    /// Requests pile up.
    #[error("the proxy does not answer as fast as pods change")]
    Slow,
}

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The Add it was, when it was one that somebody waits for.
    pub ticket: Option<Ticket>,
    /// In words, for the log.
    pub what: String,
    /// The answer.
    pub ack: Ack,
}

#[derive(Debug)]
struct Session<N> {
    queue: VecDeque<(Request<N>, Option<Ticket>)>,
    /// What was sent and is not answered.
    asked: Option<(Option<Ticket>, String)>,
}

/// The agent. `N` is a network namespace in whatever form it is held.
#[derive(Debug)]
pub struct Agent<N> {
    /// Pods by uid; one without namespace is to be kept by proxies that have it.
    pods: BTreeMap<String, (Pod, Option<N>)>,
    sessions: BTreeMap<ConnectionId, Session<N>>,
    last_id: u64,
    last_ticket: u64,
}

impl<N> Default for Agent<N> {
    fn default() -> Self {
        Self {
            pods: BTreeMap::new(),
            sessions: BTreeMap::new(),
            last_id: 0,
            last_ticket: 0,
        }
    }
}

impl<N: Clone + PartialEq> Agent<N> {
    /// No pods and no connections.
    pub fn new() -> Self {
        Self::default()
    }

    /// A proxy has connected and said hello: it will be told every pod, then the end of the snapshot,
    /// then what changes. It is the newest from here on.
    ///
    /// # Errors
    /// When too many are connected.
    pub fn connected(&mut self) -> Result<ConnectionId, AgentError> {
        if self.sessions.len() >= CONNECTIONS_MAX {
            return Err(AgentError::TooManyConnections);
        }
        self.last_id += 1;
        let id = ConnectionId(self.last_id);
        let told = self.pods.values().map(|(pod, netns)| match netns {
            Some(netns) => Request::Add(pod.clone(), netns.clone()),
            None => Request::Keep(pod.uid.clone()),
        });
        let queue = told.chain([Request::SnapshotSent]).map(|r| (r, None));
        let session = Session {
            queue: queue.collect(),
            asked: None,
        };
        self.sessions.insert(id, session);
        Ok(id)
    }

    /// A connection has ended; the tickets are those whose Adds nobody will answer. Should an older
    /// proxy be the newest now, it is told all pods: it may have missed some.
    pub fn disconnected(&mut self, id: ConnectionId) -> Vec<Ticket> {
        let newest = self.newest();
        let Some(gone) = self.sessions.remove(&id) else {
            return Vec::new();
        };
        if newest == Some(id)
            && let Some(heir) = self.newest()
        {
            let all: Vec<_> = self.pods.values().cloned().collect();
            for (pod, netns) in all {
                if let Some(netns) = netns {
                    // One that is too slow to be told all is dropped when the next pod goes.
                    if self.ask(heir, Request::Add(pod, netns), None).is_err() {
                        break;
                    }
                }
            }
        }
        let asked = gone.asked.and_then(|(ticket, _)| ticket);
        let waiting = gone.queue.into_iter().filter_map(|(_, ticket)| ticket);
        asked.into_iter().chain(waiting).collect()
    }

    /// A pod runs. The ticket is for its Add to the newest proxy; without a proxy there is none, and
    /// the next one to connect is told.
    ///
    /// # Errors
    /// When there are too many pods, or the proxy is too slow: then the pod is known all the same.
    pub fn add(&mut self, pod: Pod, netns: N) -> Result<Option<Ticket>, AgentError> {
        self.room(&pod.uid)?;
        let entry = (pod.clone(), Some(netns.clone()));
        self.pods.insert(pod.uid.clone(), entry);
        let Some(newest) = self.newest() else {
            return Ok(None);
        };
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.ask(newest, Request::Add(pod, netns), Some(ticket))?;
        Ok(Some(ticket))
    }

    /// A pod runs whose namespace is not at hand: proxies that have it keep it. What is known of its
    /// namespace already stays.
    ///
    /// # Errors
    /// When there are too many pods.
    pub fn keep(&mut self, pod: Pod) -> Result<(), AgentError> {
        self.room(&pod.uid)?;
        self.pods.entry(pod.uid.clone()).or_insert((pod, None));
        Ok(())
    }

    /// A pod is gone; every proxy is told. Gives the connections that are too slow to be told, which
    /// must be closed: they would carry on.
    pub fn del(&mut self, uid: &str) -> Vec<ConnectionId> {
        if self.pods.remove(uid).is_none() {
            return Vec::new();
        }
        let ids: Vec<_> = self.sessions.keys().copied().collect();
        ids.into_iter()
            .filter(|id| self.ask(*id, Request::Del(uid.to_owned()), None).is_err())
            .collect()
    }

    /// What this proxy is to be sent now; nothing while it owes an answer.
    pub fn next(&mut self, id: ConnectionId) -> Option<Request<N>> {
        let session = self.sessions.get_mut(&id)?;
        if session.asked.is_some() {
            return None;
        }
        let (request, ticket) = session.queue.pop_front()?;
        session.asked = Some((ticket, describe(&request)));
        Some(request)
    }

    /// A proxy has answered.
    ///
    /// # Errors
    /// When it was not asked.
    pub fn answered(&mut self, id: ConnectionId, ack: Ack) -> Result<Ended, AgentError> {
        let asked = self
            .sessions
            .get_mut(&id)
            .and_then(|session| session.asked.take());
        let (ticket, what) = asked.ok_or(AgentError::Unasked)?;
        Ok(Ended { ticket, what, ack })
    }

    /// How many pods are known.
    pub fn pods(&self) -> usize {
        self.pods.len()
    }

    /// How many proxies are connected.
    pub fn proxies(&self) -> usize {
        self.sessions.len()
    }

    fn newest(&self) -> Option<ConnectionId> {
        self.sessions.keys().next_back().copied()
    }

    fn room(&self, uid: &str) -> Result<(), AgentError> {
        if self.pods.len() >= PODS_MAX && !self.pods.contains_key(uid) {
            return Err(AgentError::TooManyPods);
        }
        Ok(())
    }

    fn ask(
        &mut self,
        id: ConnectionId,
        request: Request<N>,
        ticket: Option<Ticket>,
    ) -> Result<(), AgentError> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        if session.queue.len() >= QUEUE_MAX {
            return Err(AgentError::Slow);
        }
        session.queue.push_back((request, ticket));
        Ok(())
    }
}

fn describe<N>(request: &Request<N>) -> String {
    match request {
        Request::Add(pod, _) => {
            format!("Add {} {}/{}", pod.uid, pod.info.namespace, pod.info.name)
        }
        Request::Keep(uid) => format!("Keep {uid}"),
        Request::Del(uid) => format!("Del {uid}"),
        Request::SnapshotSent => "SnapshotSent".to_owned(),
    }
}

#[cfg(test)]
mod tests;
