//! The proxy's side of one connection, decided: what each request means for the pods that run.
//!
//! Pure: whoever holds the socket hands the requests in, does what the [`Command`] says, and answers.

use crate::{PODS_MAX, Pod, Request};
use std::collections::BTreeSet;

/// What is to be done before a request is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<N> {
    /// See that this pod runs in this namespace; what runs there under its uid already may stay, what
    /// runs elsewhere is replaced.
    Run(Pod, N),
    /// Try no longer to start this pod. Should it run, the snapshot will end it.
    Forget(String),
    /// End this pod, if it runs.
    Stop(String),
    /// End every pod but these; from here on the proxy has heard of all.
    Only(BTreeSet<String>),
    /// Nothing.
    Nothing,
}

/// What an agent may not send. The connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The snapshot ended twice.
    #[error("SnapshotSent came twice on one connection")]
    SnapshotTwice,
    /// A Keep that keeps nothing.
    #[error("Keep came after SnapshotSent")]
    KeepAfterSnapshot,
    /// More pods than a node has.
    #[error("a snapshot of more than {PODS_MAX} pods")]
    TooMany,
}

/// One connection to an agent.
#[derive(Debug, Clone, Default)]
pub struct ProxySession {
    named: BTreeSet<String>,
    complete: bool,
}

impl ProxySession {
    /// A connection on which nothing has come yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether every pod was told.
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Takes the next request.
    ///
    /// # Errors
    /// When the agent breaks the protocol.
    pub fn take<N>(&mut self, request: Request<N>) -> Result<Command<N>, ProtocolError> {
        Ok(match request {
            Request::Add(pod, netns) => {
                self.name(&pod.uid)?;
                Command::Run(pod, netns)
            }
            Request::Keep(_) if self.complete => return Err(ProtocolError::KeepAfterSnapshot),
            Request::Keep(uid) => {
                self.name(&uid)?;
                Command::Nothing
            }
            Request::Del(uid) if self.complete => Command::Stop(uid),
            Request::Del(uid) => {
                self.named.remove(&uid);
                Command::Forget(uid)
            }
            Request::SnapshotSent if self.complete => return Err(ProtocolError::SnapshotTwice),
            Request::SnapshotSent => {
                self.complete = true;
                Command::Only(std::mem::take(&mut self.named))
            }
        })
    }

    fn name(&mut self, uid: &str) -> Result<(), ProtocolError> {
        if self.complete {
            return Ok(());
        }
        if self.named.len() >= PODS_MAX && !self.named.contains(uid) {
            return Err(ProtocolError::TooMany);
        }
        self.named.insert(uid.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(uid: &str) -> Request<u8> {
        let (uid, info) = (uid.into(), "n/p/s".parse().unwrap());
        Request::Add(Pod { uid, info }, 9)
    }

    #[test]
    fn the_snapshot_names_what_stays() {
        let mut session = ProxySession::new();
        assert!(matches!(session.take(add("a")), Ok(Command::Run(..))));
        assert_eq!(
            session.take(Request::<u8>::Keep("b".into())),
            Ok(Command::Nothing)
        );
        assert!(matches!(session.take(add("c")), Ok(Command::Run(..))));
        assert_eq!(
            session.take(Request::<u8>::Del("c".into())),
            Ok(Command::Forget("c".into()))
        );
        assert!(!session.is_complete());
        let stay = ["a", "b"].map(String::from).into();
        assert_eq!(
            session.take(Request::<u8>::SnapshotSent),
            Ok(Command::Only(stay))
        );
        assert!(session.is_complete());
        assert_eq!(
            session.take(Request::<u8>::Del("a".into())),
            Ok(Command::Stop("a".into()))
        );
        assert!(matches!(session.take(add("d")), Ok(Command::Run(..))));
    }

    #[test]
    fn some_things_come_only_before_the_snapshot() {
        let mut session = ProxySession::new();
        session.take(Request::<u8>::SnapshotSent).unwrap();
        let keep = Request::<u8>::Keep("a".into());
        assert_eq!(session.take(keep), Err(ProtocolError::KeepAfterSnapshot));
        let again = Request::<u8>::SnapshotSent;
        assert_eq!(session.take(again), Err(ProtocolError::SnapshotTwice));
    }

    #[test]
    fn a_snapshot_has_a_bound() {
        let mut session = ProxySession::new();
        for n in 0..PODS_MAX {
            session.take(add(&n.to_string())).unwrap();
        }
        assert!(session.take(add("0")).is_ok());
        assert_eq!(session.take(add("more")), Err(ProtocolError::TooMany));
    }
}
