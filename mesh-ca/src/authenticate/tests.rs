//! Tokens good and bad, and keys that change.

use super::*;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
use rcgen::KeyPair;
use serde_json::{Value, json};

/// A signer of tokens, as the control plane is one.
pub(crate) struct Signer {
    key: EncodingKey,
    id: &'static str,
}

impl Signer {
    pub(crate) fn new(id: &'static str) -> Self {
        let pair = KeyPair::generate().unwrap();
        let key = EncodingKey::from_ec_der(pair.serialized_der());
        Self { key, id }
    }

    fn jwk(&self) -> Jwk {
        let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(self.id.into());
        jwk
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.into());
        encode(&header, claims, &self.key).unwrap()
    }

    /// A good token of a service account on a node.
    pub(crate) fn token(&self, namespace: &str, account: &str, node: &str) -> String {
        self.sign(&claims(namespace, account, node))
    }
}

pub(crate) fn write_keys(path: &Path, signers: &[&Signer]) {
    let keys: Vec<Jwk> = signers.iter().map(|s| s.jwk()).collect();
    std::fs::write(path, json!({ "keys": keys }).to_string()).unwrap();
}

pub(crate) fn claims(namespace: &str, account: &str, node: &str) -> Value {
    json!({
        "iss": "strata",
        "aud": ["istio-ca"],
        "sub": format!("system:serviceaccount:{namespace}:{account}"),
        "iat": get_current_timestamp(),
        "exp": get_current_timestamp() + 3600,
        "kubernetes.io": {
            "namespace": namespace,
            "serviceaccount": {"name": account},
            "pod": {"name": "pod-1"},
            "node": {"name": node},
        },
    })
}

struct Room {
    folder: tempfile::TempDir,
    signer: Signer,
    authenticator: Authenticator,
}

fn room() -> Room {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let signer = Signer::new("one");
    write_keys(&path, &[&signer]);
    let authenticator = Authenticator::new(&path, vec!["istio-ca".into()], vec!["strata".into()]);
    Room {
        folder,
        signer,
        authenticator,
    }
}

impl Room {
    fn check(&self, token: &str) -> Result<Caller, AuthError> {
        self.authenticator
            .authenticate(Some(&format!("Bearer {token}")))
    }

    fn check_with(&self, change: impl FnOnce(&mut Value)) -> Result<Caller, AuthError> {
        let mut claims = claims("demo", "a", "node-1");
        change(&mut claims);
        self.check(&self.signer.sign(&claims))
    }
}

#[test]
fn a_good_token_names_its_caller() {
    let room = room();
    let caller = room.check_with(|_| {}).unwrap();
    assert_eq!(caller.account, ObjectName::new("demo", "a"));
    assert_eq!(caller.pod.as_deref(), Some("pod-1"));
    assert_eq!(caller.node.as_deref(), Some("node-1"));
    let unbound = |c: &mut Value| drop(c.as_object_mut().unwrap().remove("kubernetes.io"));
    assert_eq!(room.check_with(unbound).unwrap().node, None);
}

#[test]
fn a_missing_token_is_told_from_a_bad_one() {
    let room = room();
    for text in [None, Some(""), Some("Bearer "), Some("Basic abc")] {
        let error = room.authenticator.authenticate(text).unwrap_err();
        assert_eq!(error, AuthError::Missing);
    }
    assert!(matches!(
        room.check("nonsense"),
        Err(AuthError::Malformed(_))
    ));
    let long = "x".repeat(TOKEN_BYTES_MAX + 1);
    assert!(matches!(room.check(&long), Err(AuthError::Malformed(_))));
}

#[test]
fn each_wrong_claim_has_its_own_answer() {
    let room = room();
    let now = get_current_timestamp();
    let expired = room.check_with(|c| c["exp"] = json!(now - 60));
    assert_eq!(expired, Err(AuthError::Expired));
    let early = room.check_with(|c| c["nbf"] = json!(now + 600));
    assert_eq!(early, Err(AuthError::NotYetValid));
    let audience = room.check_with(|c| c["aud"] = json!(["another"]));
    assert_eq!(audience, Err(AuthError::Audience("istio-ca".into())));
    let no_audience = room.check_with(|c| drop(c.as_object_mut().unwrap().remove("aud")));
    assert_eq!(no_audience, Err(AuthError::Audience("istio-ca".into())));
    let issuer = room.check_with(|c| c["iss"] = json!("someone"));
    assert_eq!(issuer, Err(AuthError::Issuer("strata".into())));
    let no_end = room.check_with(|c| drop(c.as_object_mut().unwrap().remove("exp")));
    assert!(matches!(no_end, Err(AuthError::Malformed(_))));
    for subject in [
        "someone",
        "system:serviceaccount:demo",
        "system:serviceaccount:a:b:c",
    ] {
        let refused = room.check_with(|c| c["sub"] = json!(subject));
        assert_eq!(refused, Err(AuthError::Subject));
    }
    let bound_elsewhere = room.check_with(|c| c["kubernetes.io"]["namespace"] = json!("other"));
    assert_eq!(bound_elsewhere, Err(AuthError::Subject));
}

#[test]
fn a_forged_token_is_refused() {
    let room = room();
    // The same key id, another key.
    let forged = Signer::new("one").token("demo", "a", "node-1");
    assert_eq!(room.check(&forged), Err(AuthError::Signature));
    let stranger = Signer::new("other").token("demo", "a", "node-1");
    assert_eq!(
        room.check(&stranger),
        Err(AuthError::UnknownKey("other".into()))
    );
    // A shared secret, or none at all, is no signature.
    let header = Header::new(Algorithm::HS256);
    let secret = EncodingKey::from_secret(b"secret");
    let shared = encode(&header, &claims("demo", "a", "n"), &secret).unwrap();
    assert_eq!(room.check(&shared), Err(AuthError::Algorithm));
    let none = "eyJhbGciOiJub25lIn0.e30.";
    assert!(matches!(room.check(none), Err(AuthError::Malformed(_))));
}

#[test]
fn the_keys_are_read_again_when_they_change() {
    let room = room();
    let path = room.folder.path().join("keys.json");
    let next = Signer::new("two");
    write_keys(&path, &[&room.signer, &next]);
    let token = next.token("demo", "b", "node-1");
    assert_eq!(
        room.check(&token).unwrap().account,
        ObjectName::new("demo", "b")
    );
    // A key taken out is no longer honoured.
    write_keys(&path, &[&next]);
    let old = room.signer.token("demo", "a", "node-1");
    assert_eq!(room.check(&old), Err(AuthError::UnknownKey("one".into())));
    // A broken file leaves the keys in use.
    std::fs::write(&path, "{").unwrap();
    room.check(&token).unwrap();
}

#[test]
fn without_keys_nobody_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later.json");
    let authenticator = Authenticator::new(&path, vec!["istio-ca".into()], Vec::new());
    assert!(!authenticator.has_keys());
    let signer = Signer::new("one");
    let token = format!("Bearer {}", signer.token("demo", "a", "n"));
    let error = authenticator.authenticate(Some(&token)).unwrap_err();
    assert_eq!(error, AuthError::UnknownKey("one".into()));
    write_keys(&path, &[&signer]);
    authenticator.authenticate(Some(&token)).unwrap();
    assert!(authenticator.has_keys());
}
