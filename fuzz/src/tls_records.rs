//! TLS records of a connection in use, from a peer that has the right keys and from the network.

use crate::input::Input;
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{self, HKDF_SHA256, HKDF_SHA384, Prk};
use bytes::BytesMut;
use mesh_tls::{Records, RecordsSnapshot, TlsError};

const HEADER: usize = 5;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// One end of a connection (the first byte says which, and the cipher) against a peer that seals any
/// records and a network that adds, alters and cuts bytes. What comes out is a beginning of the data
/// that the peer sealed, whatever happens to it; a fault stays one; what the end seals in between is
/// read by its peer; and it can be written down and taken up again at any moment.
pub fn tls_records(data: &[u8]) {
    let mut input = Input::new(data);
    let (server, large) = (input.flag(), input.flag());
    let suite = if large { &LARGE } else { &SMALL };
    let (from_peer, to_peer) = (vec![1; suite.secret_bytes], vec![2; suite.secret_bytes]);
    let mut world = World {
        ours: records(server, suite, &to_peer, &from_peer),
        theirs: records(!server, suite, &from_peer, &to_peer),
        forger: Forger::new(suite, from_peer),
        wire: Vec::new(),
        told: Vec::new(),
        said_close: false,
    };
    let (mut incoming, mut heard) = (BytesMut::new(), BytesMut::new());
    while !input.is_empty() {
        if !world.step(&mut input) {
            return;
        }
        let arrived = match input.flag() {
            true => world.wire.len(),
            false => usize::from(input.u16()).min(world.wire.len()),
        };
        incoming.extend(world.wire.drain(..arrived));
        match world.ours.open(&mut incoming, &mut heard) {
            Ok(opened) => {
                assert!(opened.plain <= opened.consumed);
                assert!(world.told.starts_with(&heard), "bytes nobody sealed");
                assert_eq!(opened.closed, world.ours.received_close());
            }
            Err(error) => return world.fail(&error),
        }
    }
}

struct Suite {
    number: u16,
    secret_bytes: usize,
    key_bytes: usize,
    aead: &'static Algorithm,
    hash: hkdf::Algorithm,
}

static SMALL: Suite = Suite {
    number: 0x1301,
    secret_bytes: 32,
    key_bytes: 16,
    aead: &AES_128_GCM,
    hash: HKDF_SHA256,
};
static LARGE: Suite = Suite {
    number: 0x1302,
    secret_bytes: 48,
    key_bytes: 32,
    aead: &AES_256_GCM,
    hash: HKDF_SHA384,
};

fn records(server: bool, suite: &Suite, sending: &[u8], receiving: &[u8]) -> Records {
    let half = |secret| serde_json::json!({"secret": secret, "sequence": 0});
    let snapshot = serde_json::json!({
        "version": 1,
        "server": server,
        "suite": suite.number,
        "sending": half(sending),
        "receiving": half(receiving),
        "message_head": [],
        "message_skip": 0,
        "quiet": 0,
        "owes_update": false,
        "received_close": false,
        "sent_close": false,
    });
    let snapshot: RecordsSnapshot = serde_json::from_value(snapshot).expect("its form");
    Records::restore(snapshot).expect("a good snapshot")
}

struct World {
    ours: Records,
    /// Opens what `ours` seals.
    theirs: Records,
    /// Seals whatever it is told to.
    forger: Forger,
    /// On its way to `ours`.
    wire: Vec<u8>,
    /// Data sealed so far.
    told: Vec<u8>,
    said_close: bool,
}

impl World {
    /// Does one thing; says whether there is more to do.
    fn step(&mut self, input: &mut Input<'_>) -> bool {
        match input.below(9) {
            0 => self.wire.extend(input.chunk()),
            1 => self.seal(DATA, input.chunk(), 0),
            2 => {
                let (kind, padding) = (input.byte(), input.byte());
                self.seal(kind, input.chunk(), padding);
            }
            3 => {
                self.seal(HANDSHAKE, &[24, 0, 0, 1, input.below(2)], 0);
                self.forger.update();
            }
            4 => self.seal(ALERT, &[1, 0], 0),
            5 => {
                let at = usize::from(input.u16());
                let bit = 1 << input.below(8);
                if let Some(byte) = self.wire.get_mut(at) {
                    *byte ^= bit;
                }
            }
            6 => self.speak(input.chunk()),
            7 => self.close(),
            _ => return self.move_house(),
        }
        true
    }

    /// Puts a record on the wire. Zeroes at its end are padding, so that its kind may be within
    /// `content`.
    fn seal(&mut self, kind: u8, content: &[u8], padding: u8) {
        let mut inner = content.to_vec();
        inner.push(kind);
        let end = inner.iter().rposition(|byte| *byte != 0);
        if let Some(end) = end.filter(|end| inner[*end] == DATA) {
            self.told.extend(&inner[..end]);
        }
        inner.resize(inner.len() + usize::from(padding), 0);
        self.forger.seal(inner, &mut self.wire);
    }

    /// What ours says is heard, with a change of keys in front when one is due.
    fn speak(&mut self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        let mut out = BytesMut::new();
        let sealed = self.ours.seal(&[text], &mut out);
        assert_eq!(sealed.is_err(), self.said_close);
        let mut heard = BytesMut::new();
        self.theirs.open(&mut out, &mut heard).expect("well sealed");
        if sealed.is_ok() {
            assert_eq!(heard, text);
        }
        assert!(out.is_empty());
    }

    fn close(&mut self) {
        self.said_close = true;
        let mut out = BytesMut::new();
        self.ours.close_notify(&mut out).expect("it has keys");
        let opened = self.theirs.open(&mut out, &mut BytesMut::new());
        assert!(opened.expect("well sealed").closed);
    }

    /// One that has failed behind good data does not move.
    fn move_house(&mut self) -> bool {
        let empty = records(false, &SMALL, &[0; 32], &[0; 32]);
        let ours = std::mem::replace(&mut self.ours, empty);
        let Ok(snapshot) = ours.into_snapshot() else {
            return false;
        };
        let text = serde_json::to_vec(&snapshot).expect("its form");
        let snapshot = serde_json::from_slice(&text).expect("what was written");
        self.ours = Records::restore(snapshot).expect("what was written");
        true
    }

    /// The fault stays, and the peer is told, once.
    fn fail(&mut self, error: &TlsError) {
        let again = self.ours.open(&mut BytesMut::new(), &mut BytesMut::new());
        assert_eq!(
            again.map(drop).map_err(|e| e.to_string()),
            Err(error.to_string())
        );
        let mut out = BytesMut::new();
        self.ours.abort(error, &mut out);
        if !out.is_empty() {
            let told = self.theirs.open(&mut out, &mut BytesMut::new());
            assert!(matches!(told, Err(TlsError::Alert(_))), "{told:?}");
        }
        out.clear();
        self.ours.abort(error, &mut out);
        assert!(out.is_empty());
    }
}

/// A peer with the right keys (RFC 8446 sections 5.2, 7.2 and 7.3), written apart from the product.
struct Forger {
    suite: &'static Suite,
    secret: Vec<u8>,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Forger {
    fn new(suite: &'static Suite, secret: Vec<u8>) -> Self {
        let key = expand(suite, &secret, b"key", suite.key_bytes);
        let key = UnboundKey::new(suite.aead, &key).expect("a key's length");
        let iv = expand(suite, &secret, b"iv", 12);
        Self {
            suite,
            key: LessSafeKey::new(key),
            iv: iv.try_into().expect("twelve"),
            secret,
            sequence: 0,
        }
    }

    fn update(&mut self) {
        let bytes = self.suite.secret_bytes;
        let next = expand(self.suite, &self.secret, b"traffic upd", bytes);
        *self = Self::new(self.suite, next);
    }

    fn seal(&mut self, mut inner: Vec<u8>, wire: &mut Vec<u8>) {
        let Ok(length) = u16::try_from(inner.len() + 16) else {
            return;
        };
        let [high, low] = length.to_be_bytes();
        let header: [u8; HEADER] = [DATA, 3, 3, high, low];
        let mut nonce = self.iv;
        for (byte, of) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= of;
        }
        self.sequence += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = self
            .key
            .seal_in_place_append_tag(nonce, Aad::from(header), &mut inner);
        sealed.expect("it fits");
        wire.extend(header);
        wire.extend(inner);
    }
}

struct Bytes(usize);

impl hkdf::KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label without context (RFC 8446 section 7.1).
fn expand(suite: &Suite, secret: &[u8], label: &[u8], bytes: usize) -> Vec<u8> {
    let prefix = b"tls13 ";
    let length = u16::try_from(bytes).expect("a key");
    let label_length = u8::try_from(prefix.len() + label.len()).expect("a label");
    let info: [&[u8]; 5] = [&length.to_be_bytes(), &[label_length], prefix, label, &[0]];
    let mut out = vec![0; bytes];
    let secret = Prk::new_less_safe(suite.hash, secret);
    let okm = secret.expand(&info, Bytes(bytes)).expect("a label");
    okm.fill(&mut out).expect("as many");
    out
}
