//! The streams of a connection: those that are open, and how late frames of others are judged.

use super::Role;
use crate::stream::{Ended, Stream, StreamId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Where a stream identifier stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Never used, and higher than all that were.
    Idle,
    /// Not ended both ways.
    Open,
    /// Ended; how, if it is remembered.
    Ended(Option<Ended>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Streams {
    pub(super) table: BTreeMap<StreamId, Stream>,
    /// The latest that ended.
    ended: VecDeque<(StreamId, Ended)>,
    /// The next identifier that we open; over [`StreamId::MAX`] when they are used up.
    pub(super) next_local: u32,
    /// The highest identifier that the peer opened; 0 for none.
    pub(super) highest_peer: u32,
    /// Open streams that we opened.
    pub(super) local: u32,
    /// Open streams that the peer opened.
    pub(super) peer: u32,
    role: Role,
}

impl Streams {
    pub(super) const fn new(role: Role) -> Self {
        Self {
            table: BTreeMap::new(),
            ended: VecDeque::new(),
            next_local: match role {
                Role::Client => 1,
                Role::Server => 2,
            },
            highest_peer: 0,
            local: 0,
            peer: 0,
            role,
        }
    }

    pub(super) fn is_of(&self, role: Role) -> bool {
        self.role == role
    }

    /// Whether the peer opens streams of this number.
    pub(super) fn is_of_peer(&self, stream: StreamId) -> bool {
        stream.is_of_client() == (self.role == Role::Server)
    }

    pub(super) fn standing(&self, stream: StreamId) -> Standing {
        if self.table.contains_key(&stream) {
            return Standing::Open;
        }
        let idle = match self.is_of_peer(stream) {
            true => stream.value() > self.highest_peer,
            false => stream.value() >= self.next_local,
        };
        if idle {
            return Standing::Idle;
        }
        let known = self.ended.iter().rev().find(|(id, _)| *id == stream);
        Standing::Ended(known.map(|(_, ended)| *ended))
    }

    pub(super) fn insert(&mut self, id: StreamId, stream: Stream) {
        match stream.local {
            true => self.local += 1,
            false => self.peer += 1,
        }
        self.table.insert(id, stream);
    }

    pub(super) fn remove(
        &mut self,
        id: StreamId,
        ended: Ended,
        ended_max: usize,
    ) -> Option<Stream> {
        let stream = self.table.remove(&id)?;
        match stream.local {
            true => self.local = self.local.saturating_sub(1),
            false => self.peer = self.peer.saturating_sub(1),
        }
        self.remember(id, ended, ended_max);
        Some(stream)
    }

    pub(super) fn remember(&mut self, id: StreamId, ended: Ended, ended_max: usize) {
        self.ended.push_back((id, ended));
        while self.ended.len() > ended_max {
            self.ended.pop_front();
        }
    }

    /// Whether counts and numbers agree with the table.
    pub(super) fn is_sound(&self, ended_max: usize) -> bool {
        let numbered = |(id, stream): (&StreamId, &Stream)| {
            let used = match stream.local {
                true => id.value() < self.next_local,
                false => id.value() <= self.highest_peer,
            };
            used && self.is_of_peer(*id) != stream.local && !id.is_connection()
        };
        let local = self.table.values().filter(|s| s.local).count();
        local == self.local as usize
            && self.table.len() - local == self.peer as usize
            && self.ended.len() <= ended_max
            && self.table.iter().all(numbered)
            && self.next_local % 2 == u32::from(self.role == Role::Client)
    }
}
