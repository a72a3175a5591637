//! The AEAD under the records of the mesh: AES-GCM of ring or of aws-lc, whichever this machine
//! does faster.

mod choice;
mod suite;

pub use choice::{AeadChoice, AeadLibrary};
pub(crate) use suite::suites;

use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::crypto::cipher::{Iv, NONCE_LEN};
use std::fmt;
use std::ops::RangeFrom;

/// Bytes of the tag behind each sealed record.
pub(crate) const TAG: usize = 16;

/// The AEAD refused: a record that was tampered with, or one over what it can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

/// The two cipher suites of the mesh (interop/hbone.md, Transport).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cipher {
    Aes256,
    Aes128,
}

impl Cipher {
    pub(crate) const ALL: [Self; 2] = [Self::Aes256, Self::Aes128];

    /// The suite that uses it, of aws-lc: for its hash and key schedule.
    pub(crate) fn suite(self) -> SupportedCipherSuite {
        match self {
            Self::Aes256 => cipher_suite::TLS13_AES_256_GCM_SHA384,
            Self::Aes128 => cipher_suite::TLS13_AES_128_GCM_SHA256,
        }
    }

    /// Bytes of a key.
    pub(crate) const fn key_len(self) -> usize {
        match self {
            Self::Aes256 => 32,
            Self::Aes128 => 16,
        }
    }

    /// Bytes of a traffic secret: the output of the suite's hash.
    pub(crate) const fn secret_len(self) -> usize {
        match self {
            Self::Aes256 => 48,
            Self::Aes128 => 32,
        }
    }
}

/// One key of one library.
pub(crate) enum Key {
    Ring(Box<ring::aead::LessSafeKey>),
    AwsLc(aws_lc_rs::aead::LessSafeKey),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// Takes the bytes of a key: 32 for AES-256, 16 for AES-128.
    pub(crate) fn new(library: AeadLibrary, cipher: Cipher, key: &[u8]) -> Result<Self, Refused> {
        Ok(match library {
            AeadLibrary::Ring => {
                use ring::aead;
                let algorithm = match cipher {
                    Cipher::Aes256 => &aead::AES_256_GCM,
                    Cipher::Aes128 => &aead::AES_128_GCM,
                };
                let key = aead::UnboundKey::new(algorithm, key).map_err(|_| Refused)?;
                Self::Ring(Box::new(aead::LessSafeKey::new(key)))
            }
            AeadLibrary::AwsLc => {
                use aws_lc_rs::aead;
                let algorithm = match cipher {
                    Cipher::Aes256 => &aead::AES_256_GCM,
                    Cipher::Aes128 => &aead::AES_128_GCM,
                };
                let key = aead::UnboundKey::new(algorithm, key).map_err(|_| Refused)?;
                Self::AwsLc(aead::LessSafeKey::new(key))
            }
        })
    }

    /// Encrypts `body` where it lies and gives the tag that belongs behind it.
    pub(crate) fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        body: &mut [u8],
    ) -> Result<[u8; TAG], Refused> {
        let mut out = [0; TAG];
        match self {
            Self::Ring(key) => {
                use ring::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), body);
                out.copy_from_slice(tag.map_err(|_| Refused)?.as_ref());
            }
            Self::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), body);
                out.copy_from_slice(tag.map_err(|_| Refused)?.as_ref());
            }
        }
        Ok(out)
    }

    /// Decrypts what lies in `sealed` of `buffer`, tag included, and writes the plaintext to the
    /// front of `buffer`: what comes before may be overwritten. Gives the plaintext's length.
    pub(crate) fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        sealed: RangeFrom<usize>,
    ) -> Result<usize, Refused> {
        match self {
            Self::Ring(key) => {
                use ring::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                let plain = key.open_within(nonce, Aad::from(aad), buffer, sealed);
                plain.map(|plain| plain.len()).map_err(|_| Refused)
            }
            Self::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                let plain = key.open_within(nonce, Aad::from(aad), buffer, sealed);
                plain.map(|plain| plain.len()).map_err(|_| Refused)
            }
        }
    }
}

/// The nonce of a record: the IV with the sequence number laid over its end (RFC 8446 section 5.3).
pub(crate) fn nonce(iv: &Iv, sequence: u64) -> [u8; NONCE_LEN] {
    rustls::crypto::cipher::Nonce::new(iv, sequence).0
}

#[cfg(test)]
mod tests;
