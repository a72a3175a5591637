//! The keys of one direction and what follows them.

use super::records::{HEADER, RecordFault};
use super::secrets::Secret;
use crate::aead::{AeadLibrary, Cipher, Key, TAG, nonce};
use rustls::crypto::cipher::{Iv, NONCE_LEN};
use rustls::crypto::tls13::OkmBlock;
use std::ops::RangeFrom;
use zeroize::Zeroizing;

/// One direction: its secret, the key and IV made of it, and the number of the next record.
pub(super) struct Half {
    pub(super) library: AeadLibrary,
    pub(super) cipher: Cipher,
    pub(super) secret: Secret,
    pub(super) sequence: u64,
    key: Key,
    iv: Iv,
}

impl Half {
    /// Makes the keys of a secret (RFC 8446 section 7.3).
    pub(super) fn new(
        library: AeadLibrary,
        cipher: Cipher,
        secret: Secret,
        sequence: u64,
    ) -> Result<Self, RecordFault> {
        let mut key = Zeroizing::new(vec![0; cipher.key_len()]);
        let mut iv = [0; NONCE_LEN];
        expand_label(cipher, &secret, b"key", &mut key)?;
        expand_label(cipher, &secret, b"iv", &mut iv)?;
        Ok(Self {
            library,
            cipher,
            key: Key::new(library, cipher, &key).map_err(|_| RecordFault::Keys)?,
            secret,
            sequence,
            iv: Iv::new(iv),
        })
    }

    /// Goes on to the next secret, as `KeyUpdate` says (RFC 8446 section 7.2).
    pub(super) fn update(&mut self) -> Result<(), RecordFault> {
        let mut next = Zeroizing::new(vec![0; self.cipher.secret_len()]);
        expand_label(self.cipher, &self.secret, b"traffic upd", &mut next)?;
        *self = Self::new(self.library, self.cipher, next, 0)?;
        Ok(())
    }

    /// Seals `body` as the next record and gives its tag.
    pub(super) fn seal(
        &mut self,
        header: [u8; HEADER],
        body: &mut [u8],
    ) -> Result<[u8; TAG], RecordFault> {
        let nonce = self.next_nonce()?;
        let tag = self.key.seal(nonce, &header, body);
        tag.map_err(|_| RecordFault::Keys)
    }

    /// Opens the next record, its plaintext going to the front of `buffer`; gives its length.
    pub(super) fn open(
        &mut self,
        header: [u8; HEADER],
        buffer: &mut [u8],
        sealed: RangeFrom<usize>,
    ) -> Result<usize, RecordFault> {
        let nonce = self.next_nonce()?;
        let opened = self.key.open(nonce, &header, buffer, sealed);
        opened.map_err(|_| RecordFault::BadMac)
    }

    fn next_nonce(&mut self) -> Result<[u8; NONCE_LEN], RecordFault> {
        let nonce = nonce(&self.iv, self.sequence);
        self.sequence = self.sequence.checked_add(1).ok_or(RecordFault::Keys)?;
        Ok(nonce)
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446 section 7.1).
fn expand_label(
    cipher: Cipher,
    secret: &[u8],
    label: &[u8],
    out: &mut [u8],
) -> Result<(), RecordFault> {
    const PREFIX: &[u8] = b"tls13 ";
    let suite = cipher.suite().tls13().ok_or(RecordFault::Keys)?;
    // Longer ones would not fit the block that rustls wants them in.
    if secret.len() != cipher.secret_len() {
        return Err(RecordFault::Keys);
    }
    let length = u16::try_from(out.len()).map_err(|_| RecordFault::Keys)?;
    let label_length = u8::try_from(PREFIX.len() + label.len()).map_err(|_| RecordFault::Keys)?;
    let info: [&[u8]; 5] = [&length.to_be_bytes(), &[label_length], PREFIX, label, &[0]];
    let expander = suite.hkdf_provider.expander_for_okm(&OkmBlock::new(secret));
    expander
        .expand_slice(&info, out)
        .map_err(|_| RecordFault::Keys)
}
