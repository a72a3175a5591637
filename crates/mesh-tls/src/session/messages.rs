//! What may come in records that carry no data: alerts and messages after the handshake.

use super::records::RecordFault;
use crate::TlsError;
use rustls::AlertDescription;

/// `NewSessionTicket` and `KeyUpdate` (RFC 8446 section 4).
const NEW_SESSION_TICKET: u8 = 4;
pub(super) const KEY_UPDATE: u8 = 24;
/// Type and length in front of each handshake message.
const HEAD: usize = 4;
/// A `KeyUpdate` with its one byte.
const KEY_UPDATE_LEN: usize = HEAD + 1;
/// Longest ticket message; rustls has the same bound.
const MESSAGE_MAX: u32 = 0xffff;

/// What an alert means.
pub(super) enum Alert {
    CloseNotify,
    Ignored,
}

/// Reads an alert: `close_notify` is the end, `user_canceled` precedes it, all others are errors
/// (RFC 8446 section 6).
pub(super) fn alert(content: &[u8]) -> Result<Alert, TlsError> {
    let &[_, description] = content else {
        return Err(RecordFault::Malformed.into());
    };
    match AlertDescription::from(description) {
        AlertDescription::CloseNotify => Ok(Alert::CloseNotify),
        AlertDescription::UserCanceled => Ok(Alert::Ignored),
        other => Err(TlsError::Alert(format!("{other:?}"))),
    }
}

/// What the handshake messages of a record ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    /// The peer's keys change with the next record.
    Update {
        /// Ours are to change too.
        answer: bool,
    },
}

/// Messages may be cut over records: what was read of the one that is under way.
#[derive(Debug, Default, Clone)]
pub(super) struct Messages {
    /// Its first bytes, at most [`KEY_UPDATE_LEN`].
    pub(super) head: Vec<u8>,
    /// How much of a ticket is still to be skipped.
    pub(super) skip: u32,
}

impl Messages {
    /// Whether a message is under way: then no other kind of record may come (RFC 8446 section 5.1).
    pub(super) fn under_way(&self) -> bool {
        self.skip > 0 || !self.head.is_empty()
    }

    pub(super) fn is_sane(&self) -> bool {
        self.head.len() < KEY_UPDATE_LEN && self.skip <= MESSAGE_MAX
    }

    /// Takes a record's content. Tickets are for clients only, and skipped: the mesh does not resume.
    pub(super) fn take(&mut self, mut content: &[u8], server: bool) -> Result<Asked, RecordFault> {
        if content.is_empty() {
            return Err(RecordFault::Unexpected);
        }
        while let Some((&byte, rest)) = content.split_first() {
            if self.skip > 0 {
                let skipped = content
                    .len()
                    .min(usize::try_from(self.skip).unwrap_or(usize::MAX));
                self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
                content = content.get(skipped..).unwrap_or_default();
                continue;
            }
            self.head.push(byte);
            content = rest;
            let &[kind, a, b, c, ref body @ ..] = self.head.as_slice() else {
                continue;
            };
            let length = u32::from_be_bytes([0, a, b, c]);
            match (kind, length, body) {
                (NEW_SESSION_TICKET, 1..=MESSAGE_MAX, _) if !server => {
                    self.skip = length;
                    self.head.clear();
                }
                (KEY_UPDATE, 1, []) => {}
                (KEY_UPDATE, 1, &[answer @ 0..=1]) => {
                    self.head.clear();
                    // Keys change between records, so nothing may follow in this one.
                    if !content.is_empty() {
                        return Err(RecordFault::Unexpected);
                    }
                    let answer = answer == 1;
                    return Ok(Asked::Update { answer });
                }
                (KEY_UPDATE, ..) => return Err(RecordFault::Malformed),
                _ => return Err(RecordFault::Unexpected),
            }
        }
        Ok(Asked::Nothing)
    }
}
