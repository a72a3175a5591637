//! The mesh's cipher suites for rustls, over the AEAD library chosen. Hash and key schedule are
//! aws-lc's either way.

use super::{AeadLibrary, Cipher, Key, TAG, nonce};
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
    OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls13AeadAlgorithm,
    UnsupportedOperationError, make_tls13_aad,
};
use rustls::crypto::{CipherSuiteCommon, tls13::Hkdf};
use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion, SupportedCipherSuite,
    Tls13CipherSuite,
};
use std::sync::OnceLock;

/// The suites offered, the preferred one first (interop/hbone.md, Transport).
pub(crate) fn suites(library: AeadLibrary) -> Vec<SupportedCipherSuite> {
    let of_aws_lc = Cipher::ALL.map(Cipher::suite);
    match library {
        AeadLibrary::AwsLc => of_aws_lc.to_vec(),
        AeadLibrary::Ring => {
            static SUITES: OnceLock<Vec<Tls13CipherSuite>> = OnceLock::new();
            let aeads: [&'static RingAead; 2] =
                [&RingAead(Cipher::Aes256), &RingAead(Cipher::Aes128)];
            let suites = SUITES.get_or_init(|| {
                of_aws_lc
                    .iter()
                    .filter_map(SupportedCipherSuite::tls13)
                    .zip(aeads)
                    .map(|(suite, aead)| with_aead(suite, aead))
                    .collect()
            });
            suites.iter().map(SupportedCipherSuite::Tls13).collect()
        }
    }
}

fn with_aead(suite: &Tls13CipherSuite, aead: &'static RingAead) -> Tls13CipherSuite {
    let hkdf: &'static dyn Hkdf = suite.hkdf_provider;
    Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: suite.common.suite,
            hash_provider: suite.common.hash_provider,
            confidentiality_limit: suite.common.confidentiality_limit,
        },
        hkdf_provider: hkdf,
        aead_alg: aead,
        quic: None,
    }
}

struct RingAead(Cipher);

impl RingAead {
    fn half(&self, key: &AeadKey, iv: Iv) -> Box<Half> {
        Box::new(Half {
            // A key of the wrong length is told at its first use: the interface has no error here.
            key: Key::new(AeadLibrary::Ring, self.0, key.as_ref()).ok(),
            iv,
        })
    }
}

impl Tls13AeadAlgorithm for RingAead {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        self.half(&key, iv)
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        self.half(&key, iv)
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Ok(match self.0 {
            Cipher::Aes256 => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
            Cipher::Aes128 => ConnectionTrafficSecrets::Aes128Gcm { key, iv },
        })
    }
}

/// One direction of a connection whose records rustls itself seals or opens.
struct Half {
    key: Option<Key>,
    iv: Iv,
}

impl MessageEncrypter for Half {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let key = self.key.as_ref().ok_or(Error::EncryptError)?;
        let length = self.encrypted_payload_len(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(length);
        payload.extend_from_chunks(&message.payload);
        payload.extend_from_slice(&message.typ.to_array());
        let aad = make_tls13_aad(length);
        let tag = key
            .seal(nonce(&self.iv, sequence), &aad, payload.as_mut())
            .map_err(|_| Error::EncryptError)?;
        payload.extend_from_slice(&tag);
        Ok(OutboundOpaqueMessage::new(
            ContentType::ApplicationData,
            ProtocolVersion::TLSv1_2,
            payload,
        ))
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        payload_len + 1 + TAG
    }
}

impl MessageDecrypter for Half {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let key = self.key.as_ref().ok_or(Error::DecryptError)?;
        let payload = &mut message.payload;
        let aad = make_tls13_aad(payload.len());
        let plain = key
            .open(nonce(&self.iv, sequence), &aad, payload, 0..)
            .map_err(|_| Error::DecryptError)?;
        payload.truncate(plain);
        message.into_tls13_unpadded_message()
    }
}
