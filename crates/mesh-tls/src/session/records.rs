//! The record layer of a session (RFC 8446 section 5), without I/O.

use super::keys::Half;
use super::messages::{self, Alert, Asked, KEY_UPDATE, Messages};
use super::secrets::Secret;
use super::writer::Writer;
use crate::TlsError;
use crate::aead::{AeadLibrary, Cipher, TAG};
use bytes::{BufMut, BytesMut};
use rustls::{ExtractedSecrets, SupportedCipherSuite};
use std::fmt;

/// Bytes in front of each record: type, version, length.
pub(super) const HEADER: usize = 5;
/// Most bytes of data in one record.
pub const RECORD_PLAIN_MAX: usize = 1 << 14;
/// Most bytes of one record on the wire that a peer may send; what we send takes at most
/// [`RECORD_PLAIN_MAX`] + 22.
pub const RECORD_WIRE_MAX: usize = HEADER + RECORD_PLAIN_MAX + 256;

pub(super) const APPLICATION_DATA: u8 = 23;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
/// Records sealed with one key before it is changed: 2^24 full ones keep the advantage over AES-GCM
/// under 2^-60 (RFC 8446 section 5.5, draft-irtf-cfrg-aead-limits).
pub(super) const REKEY_AFTER: u64 = 1 << 24;
/// Most records in a row without a byte of data, so that a peer cannot keep us busy for nothing.
const QUIET_MAX: u8 = 32;

/// Why a record cannot be taken or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// It was altered, replayed, reordered or sealed with another key.
    #[error("a record does not authenticate")]
    BadMac,
    /// It is longer than TLS allows.
    #[error("a record is over 16 KiB")]
    Overflow,
    /// Its kind, or the kind of the message within, has no place on a connection in use.
    #[error("a record or message that has no place here")]
    Unexpected,
    /// A message in it does not have its form.
    #[error("a malformed message")]
    Malformed,
    /// One of too many that carry no data.
    #[error("over 32 records in a row carry no data")]
    Flood,
    /// The keys cannot be made or are used up.
    #[error("the keys cannot be used")]
    Keys,
    /// This side has said `close_notify`.
    #[error("this side is closed")]
    Closed,
}

impl RecordFault {
    /// The alert that tells the peer (RFC 8446 section 6.2).
    const fn alert(self) -> u8 {
        match self {
            Self::BadMac => 20,
            Self::Overflow => 22,
            Self::Unexpected | Self::Flood => 10,
            Self::Malformed => 50,
            Self::Keys | Self::Closed => 80,
        }
    }
}

/// What [`Records::open`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Opened {
    /// Bytes of data.
    pub plain: usize,
    /// Bytes of the wire that were taken.
    pub consumed: usize,
    /// The peer said `close_notify`: it sends nothing more. We still may.
    pub closed: bool,
}

/// Seals and opens the records of one connection; its whole state can be written down.
///
/// After the first error of either direction the session is over: send what [`Self::abort`] writes
/// and close.
pub struct Records {
    pub(super) server: bool,
    pub(super) sending: Half,
    pub(super) receiving: Half,
    pub(super) messages: Messages,
    /// Records in a row without data.
    pub(super) quiet: u8,
    /// The peer asked for our keys to change, and is answered in front of the next data.
    pub(super) owes_update: bool,
    pub(super) received_close: bool,
    pub(super) sent_close: bool,
    pub(super) rekey_after: u64,
    pub(super) failed: Option<TlsError>,
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("server", &self.server)
            .field("cipher", &self.sending.cipher)
            .field("sent", &self.sending.sequence)
            .field("received", &self.receiving.sequence)
            .finish_non_exhaustive()
    }
}

impl Records {
    pub(super) fn of_handshake(
        library: AeadLibrary,
        server: bool,
        suite: SupportedCipherSuite,
        extracted: &ExtractedSecrets,
        sending: Secret,
        receiving: Secret,
    ) -> Result<Self, TlsError> {
        let cipher = Cipher::ALL
            .into_iter()
            .find(|cipher| cipher.suite().suite() == suite.suite())
            .ok_or_else(|| TlsError::Handshake(format!("suite {suite:?}")))?;
        Ok(Self::new(
            server,
            Half::new(library, cipher, sending, extracted.tx.0)?,
            Half::new(library, cipher, receiving, extracted.rx.0)?,
        ))
    }

    pub(super) fn new(server: bool, sending: Half, receiving: Half) -> Self {
        Self {
            server,
            sending,
            receiving,
            messages: Messages::default(),
            quiet: 0,
            owes_update: false,
            received_close: false,
            sent_close: false,
            rekey_after: REKEY_AFTER,
            failed: None,
        }
    }

    /// Takes the whole records at the head of `wire`, opens them where they lie and moves their data
    /// to the end of `plain`, without a copy when that is empty. A partial record stays in `wire`.
    ///
    /// # Errors
    /// [`TlsError::Record`] for what does not authenticate or has no place, [`TlsError::Alert`] when
    /// the peer gave up. Data in front of the fault is delivered first, by the call before.
    pub fn open(&mut self, wire: &mut BytesMut, plain: &mut BytesMut) -> Result<Opened, TlsError> {
        let opened = self.open_in_place(wire)?;
        if opened.consumed > 0 {
            let mut run = wire.split_to(opened.consumed);
            run.truncate(opened.plain);
            if plain.is_empty() {
                *plain = run;
            } else {
                plain.unsplit(run);
            }
        }
        Ok(opened)
    }

    /// As [`Self::open`]: afterwards the first [`Opened::plain`] bytes of `wire` are data, one run
    /// whatever the number of records, and the first [`Opened::consumed`] are done with.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_in_place(&mut self, wire: &mut [u8]) -> Result<Opened, TlsError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut opened = Opened::default();
        while !self.received_close {
            match self.open_next(wire, &mut opened) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.failed = Some(error.clone());
                    // What came in front of it is good.
                    return if opened.plain > 0 {
                        Ok(opened)
                    } else {
                        Err(error)
                    };
                }
            }
        }
        if self.received_close {
            // What follows is to be ignored (RFC 8446 section 6.1).
            opened.consumed = wire.len();
            opened.closed = true;
        }
        Ok(opened)
    }

    /// Opens one record; false when none is whole.
    fn open_next(&mut self, wire: &mut [u8], opened: &mut Opened) -> Result<bool, TlsError> {
        let Some((header, length)) = whole_record(&wire[opened.consumed..])? else {
            return Ok(false);
        };
        let end = opened.consumed + HEADER + length;
        let buffer = &mut wire[opened.plain..end];
        let sealed = opened.consumed + HEADER - opened.plain;
        opened.consumed = end;
        let inner = self.receiving.open(header, buffer, sealed..)?;
        let content = buffer.get(..inner).unwrap_or_default();
        // Zeroes are padding, the byte in front of them is the type (RFC 8446 section 5.4).
        let last = content.iter().rposition(|&byte| byte != 0);
        let Some((content, kind)) = last.and_then(|at| Some((&content[..at], *content.get(at)?)))
        else {
            return Err(RecordFault::Unexpected.into());
        };
        if content.len() > RECORD_PLAIN_MAX {
            return Err(RecordFault::Overflow.into());
        }
        if kind != HANDSHAKE && self.messages.under_way() {
            return Err(RecordFault::Unexpected.into());
        }
        self.quiet += 1;
        match kind {
            APPLICATION_DATA if !content.is_empty() => {
                self.quiet = 0;
                opened.plain += content.len();
            }
            APPLICATION_DATA => {}
            ALERT => match messages::alert(content)? {
                Alert::CloseNotify => self.received_close = true,
                Alert::Ignored => {}
            },
            HANDSHAKE => {
                if let Asked::Update { answer } = self.messages.take(content, self.server)? {
                    self.receiving.update()?;
                    self.owes_update |= answer;
                }
            }
            _ => return Err(RecordFault::Unexpected.into()),
        }
        if self.quiet > QUIET_MAX {
            return Err(RecordFault::Flood.into());
        }
        Ok(true)
    }

    /// Begins to append records to `out`, which may hold earlier ones.
    pub const fn writer<'a>(&'a mut self, out: &'a mut BytesMut) -> Writer<'a> {
        Writer::new(self, out)
    }

    /// Appends `parts`, one after another, as records.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub fn seal(&mut self, parts: &[&[u8]], out: &mut BytesMut) -> Result<(), TlsError> {
        let mut writer = self.writer(out);
        for part in parts {
            writer.put(part)?;
        }
        writer.finish()
    }

    /// Appends `close_notify`: this side sends nothing more. Nothing the second time.
    ///
    /// # Errors
    /// When it cannot be sealed.
    pub fn close_notify(&mut self, out: &mut BytesMut) -> Result<(), TlsError> {
        if self.sent_close {
            return Ok(());
        }
        self.sent_close = true;
        self.seal_message(ALERT, &[1, 0], out)
    }

    /// Appends the alert that tells the peer why the session ends; nothing when the peer ended it.
    pub fn abort(&mut self, error: &TlsError, out: &mut BytesMut) {
        let TlsError::Record(fault) = error else {
            return;
        };
        if !self.sent_close {
            self.sent_close = true;
            let before = out.len();
            if self.seal_message(ALERT, &[2, fault.alert()], out).is_err() {
                out.truncate(before);
            }
        }
    }

    /// Whether the peer waits for our keys to change: it happens in front of the next data.
    pub const fn owes_update(&self) -> bool {
        self.owes_update
    }

    /// Whether the peer has said `close_notify`.
    pub const fn received_close(&self) -> bool {
        self.received_close
    }

    /// What precedes data: a change of our keys when one is due.
    pub(super) fn before_data(&mut self, out: &mut BytesMut) -> Result<(), TlsError> {
        if self.sent_close {
            return Err(RecordFault::Closed.into());
        }
        if self.owes_update || self.sending.sequence >= self.rekey_after {
            self.owes_update = false;
            // The peer need not answer: it counts its own records.
            self.seal_message(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], out)?;
            self.sending.update()?;
        }
        Ok(())
    }

    fn seal_message(
        &mut self,
        kind: u8,
        content: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), TlsError> {
        let start = out.len();
        out.put_bytes(0, HEADER);
        out.put_slice(content);
        self.seal_from(start, kind, out)
    }

    /// Seals what `out` holds behind `start` and a header's room as one record, where it lies.
    pub(super) fn seal_from(
        &mut self,
        start: usize,
        kind: u8,
        out: &mut BytesMut,
    ) -> Result<(), TlsError> {
        out.put_u8(kind);
        let body = out.len() - start - HEADER;
        let length = u16::try_from(body + TAG).map_err(|_| RecordFault::Overflow)?;
        let [high, low] = length.to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, high, low];
        let (head, body) = out[start..].split_at_mut(HEADER);
        head.copy_from_slice(&header);
        let tag = self.sending.seal(header, body)?;
        out.put_slice(&tag);
        Ok(())
    }
}

/// The header of the record at the head of `wire` and the length that follows it, once it is whole.
fn whole_record(wire: &[u8]) -> Result<Option<([u8; HEADER], usize)>, RecordFault> {
    let Some((header, rest)) = wire.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let [kind, _, _, high, low] = *header;
    let length = usize::from(u16::from_be_bytes([high, low]));
    // Everything is sealed by now; the version is to be ignored (RFC 8446 section 5.1).
    if kind != APPLICATION_DATA {
        return Err(RecordFault::Unexpected);
    }
    if length > RECORD_WIRE_MAX - HEADER {
        return Err(RecordFault::Overflow);
    }
    if length <= TAG {
        return Err(RecordFault::BadMac);
    }
    Ok((rest.len() >= length).then_some((*header, length)))
}
