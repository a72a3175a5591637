//! A session's records as data: written down here, taken up in another process.

use super::keys::Half;
use super::messages::Messages;
use super::records::{REKEY_AFTER, RecordFault, Records};
use crate::TlsError;
use crate::aead::Cipher;
use crate::provider::Provider;
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

/// Changes with every field.
const VERSION: u32 = 1;

/// All that [`Records`] know, to be written down with serde. Whoever has it can read and forge the
/// connection: it goes to the next process over a private socket, never to a file or a log.
#[derive(Serialize, Deserialize)]
pub struct RecordsSnapshot {
    version: u32,
    server: bool,
    /// IANA number of the cipher suite.
    suite: u16,
    sending: HalfSnapshot,
    receiving: HalfSnapshot,
    message_head: Vec<u8>,
    message_skip: u32,
    quiet: u8,
    owes_update: bool,
    received_close: bool,
    sent_close: bool,
}

/// One direction: the traffic secret and the number of the next record.
#[derive(Serialize, Deserialize)]
pub struct HalfSnapshot {
    secret: Vec<u8>,
    sequence: u64,
}

impl Drop for HalfSnapshot {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl fmt::Debug for HalfSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HalfSnapshot(..)")
    }
}

impl fmt::Debug for RecordsSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordsSnapshot(..)")
    }
}

impl Half {
    fn snapshot(self) -> HalfSnapshot {
        HalfSnapshot {
            secret: self.secret.to_vec(),
            sequence: self.sequence,
        }
    }

    fn restore(cipher: Cipher, mut snapshot: HalfSnapshot) -> Result<Self, RecordFault> {
        let secret = Zeroizing::new(std::mem::take(&mut snapshot.secret));
        // The library is this process's choice, not the other's.
        Self::new(
            Provider::of_process().aead,
            cipher,
            secret,
            snapshot.sequence,
        )
    }
}

impl Records {
    /// Gives the state away. It is consumed, since a record sealed here and one sealed by the new
    /// owner under the same number would break the cipher.
    ///
    /// # Errors
    /// The fault that has ended the session.
    pub fn into_snapshot(self) -> Result<RecordsSnapshot, TlsError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        Ok(RecordsSnapshot {
            version: VERSION,
            server: self.server,
            suite: self.sending.cipher.suite().suite().into(),
            sending: self.sending.snapshot(),
            receiving: self.receiving.snapshot(),
            message_head: self.messages.head,
            message_skip: self.messages.skip,
            quiet: self.quiet,
            owes_update: self.owes_update,
            received_close: self.received_close,
            sent_close: self.sent_close,
        })
    }

    /// Takes up where [`Self::into_snapshot`] left off. What [`Self::open`] left in its input must
    /// be fed to this one, and what was sealed must be sent before anything sealed here.
    ///
    /// # Errors
    /// When it was not written by this version, or was altered.
    pub fn restore(snapshot: RecordsSnapshot) -> Result<Self, TlsError> {
        let RecordsSnapshot {
            version,
            server,
            suite,
            sending,
            receiving,
            message_head,
            message_skip,
            quiet,
            owes_update,
            received_close,
            sent_close,
        } = snapshot;
        let messages = Messages {
            head: message_head,
            skip: message_skip,
        };
        let cipher = Cipher::ALL
            .into_iter()
            .find(|cipher| u16::from(cipher.suite().suite()) == suite);
        let (VERSION, Some(cipher), true) = (version, cipher, messages.is_sane()) else {
            return Err(RecordFault::Malformed.into());
        };
        Ok(Self {
            server,
            sending: Half::restore(cipher, sending)?,
            receiving: Half::restore(cipher, receiving)?,
            messages,
            quiet,
            owes_update,
            received_close,
            sent_close,
            rekey_after: REKEY_AFTER,
            failed: None,
        })
    }
}
