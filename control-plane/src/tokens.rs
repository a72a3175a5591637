//! Tokens by which the parts of a standalone mesh know each other.
//!
//! On Kubernetes the API server signs service account tokens. Without it, this control plane does:
//! the key is made at first start and never leaves the state folder; what others need to verify a
//! token stands beside it as a JSON Web Key Set. The claims are those of Kubernetes' bound tokens.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Who signs.
const ISSUER: &str = "strata";
/// Whom the tokens are for; the audience Istio's parts use (interop/ca.md).
const AUDIENCE: &str = "istio-ca";
/// The signing key within the state folder.
const KEY_FILE: &str = "token-signing-key.pem";
/// The public keys within the state folder.
const KEY_SET_FILE: &str = "token-keys.json";
/// The longest token taken, in bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Why there is no token, or why one was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// A file of the state folder.
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    /// The key cannot be made or read.
    #[error("token signing key: {0}")]
    Key(String),
    /// Signing failed.
    #[error("cannot sign a token: {0}")]
    Sign(String),
    /// The token is not one of ours, or no longer valid.
    #[error("token refused: {0}")]
    Refused(String),
}

/// Whom a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Namespace.
    pub(crate) namespace: String,
    /// Service account.
    pub(crate) service_account: String,
    /// Pod, when the token is bound to one.
    pub(crate) pod: Option<String>,
    /// Node, when the token is bound to one.
    pub(crate) node: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: Vec<String>,
    sub: String,
    iat: u64,
    exp: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Serialize, Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Named,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Named>,
}

#[derive(Serialize, Deserialize)]
struct Named {
    name: String,
}

/// Signs and verifies.
pub(crate) struct Tokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    key_id: String,
}

impl Tokens {
    /// Opens the state folder; makes folder and key when they are not there yet.
    ///
    /// # Errors
    /// When the folder cannot be written or the key in it cannot be read.
    pub(crate) fn open(state: &Path) -> Result<Self, TokenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| TokenError::File { path, source }
        };
        std::fs::create_dir_all(state).map_err(failed(state))?;
        let path = state.join(KEY_FILE);
        let pem = match std::fs::read_to_string(&path) {
            Ok(pem) => pem,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let bad = |e: rcgen::Error| TokenError::Key(e.to_string());
                let pem = rcgen::KeyPair::generate().map_err(bad)?.serialize_pem();
                place(&path, &pem, 0o600).map_err(failed(&path))?;
                // Another process may have been first; then its key counts.
                std::fs::read_to_string(&path).map_err(failed(&path))?
            }
            Err(e) => return Err(failed(&path)(e)),
        };
        let (tokens, key_set) = Self::from_pem(&pem)?;
        let path = state.join(KEY_SET_FILE);
        if std::fs::read_to_string(&path).ok().as_deref() != Some(&key_set) {
            let next = path.with_extension("json.next");
            std::fs::write(&next, &key_set).map_err(failed(&next))?;
            std::fs::rename(&next, &path).map_err(failed(&path))?;
        }
        Ok(tokens)
    }

    fn from_pem(pem: &str) -> Result<(Self, String), TokenError> {
        let bad = |e: &dyn std::fmt::Display| TokenError::Key(e.to_string());
        let pair = rcgen::KeyPair::from_pem(pem).map_err(|e| bad(&e))?;
        // An uncompressed point: 4, x, y.
        let (x, y) = match pair.public_key_raw() {
            [4, point @ ..] if point.len() == 64 => point.split_at(32),
            _ => return Err(TokenError::Key("it is not a P-256 key".into())),
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let key_id: String = x.chars().take(16).collect();
        let key_set = serde_json::json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256",
            "kid": key_id, "x": x, "y": y,
        }] });
        let tokens = Self {
            signing: EncodingKey::from_ec_pem(pem.as_bytes()).map_err(|e| bad(&e))?,
            verifying: DecodingKey::from_ec_components(&x, &y).map_err(|e| bad(&e))?,
            key_id,
        };
        Ok((tokens, format!("{key_set:#}\n")))
    }

    /// Signs a token.
    ///
    /// # Errors
    /// When the clock stands before 1970 or signing fails.
    pub(crate) fn issue(&self, caller: &Caller, ttl: Duration) -> Result<String, TokenError> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_err(|e| TokenError::Sign(e.to_string()))?
            .as_secs();
        let named = |name: &String| Named { name: name.clone() };
        let claims = Claims {
            iss: ISSUER.into(),
            aud: vec![AUDIENCE.into()],
            sub: format!(
                "system:serviceaccount:{}:{}",
                caller.namespace, caller.service_account
            ),
            iat: now,
            exp: now.saturating_add(ttl.as_secs()),
            kubernetes: Kubernetes {
                namespace: caller.namespace.clone(),
                serviceaccount: named(&caller.service_account),
                pod: caller.pod.as_ref().map(named),
                node: caller.node.as_ref().map(named),
            },
        };
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, &claims, &self.signing)
            .map_err(|e| TokenError::Sign(e.to_string()))
    }

    /// Verifies a token.
    ///
    /// # Errors
    /// When it is not ours, is for another audience, has expired, or contradicts itself.
    pub(crate) fn verify(&self, token: &str) -> Result<Caller, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Refused("too long".into()));
        }
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &self.verifying, &validation)
            .map_err(|e| TokenError::Refused(e.to_string()))?
            .claims;
        let k = claims.kubernetes;
        let subject = format!(
            "system:serviceaccount:{}:{}",
            k.namespace, k.serviceaccount.name
        );
        if claims.sub != subject {
            return Err(TokenError::Refused("sub and kubernetes.io differ".into()));
        }
        Ok(Caller {
            namespace: k.namespace,
            service_account: k.serviceaccount.name,
            pod: k.pod.map(|n| n.name),
            node: k.node.map(|n| n.name),
        })
    }
}

/// Writes a file that must not be there yet, whole or not at all. When it is there already, nothing
/// happens.
fn place(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let part = path.with_extension(format!("part-{}", std::process::id()));
    let result = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&part)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| match std::fs::hard_link(&part, path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        });
    std::fs::remove_file(&part).ok();
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn caller() -> Caller {
        Caller {
            namespace: "demo".into(),
            service_account: "frontend".into(),
            pod: Some("frontend-1".into()),
            node: None,
        }
    }

    #[test]
    fn a_token_survives_a_restart_and_is_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let token = Tokens::open(dir.path())
            .unwrap()
            .issue(&caller(), Duration::from_secs(60))
            .unwrap();
        let again = Tokens::open(dir.path()).unwrap();
        assert_eq!(again.verify(&token).unwrap(), caller());
        let other = tempfile::tempdir().unwrap();
        let stranger = Tokens::open(other.path()).unwrap();
        assert!(stranger.verify(&token).is_err());
        let mode = std::fs::metadata(dir.path().join(KEY_FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_expired_or_altered_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let token = tokens.issue(&caller(), Duration::from_secs(60)).unwrap();
        let mut parts: Vec<&str> = token.split('.').collect();
        let other = tokens
            .issue(
                &Caller {
                    service_account: "admin".into(),
                    ..caller()
                },
                Duration::from_secs(60),
            )
            .unwrap();
        let payload = other.split('.').nth(1).unwrap();
        parts[1] = payload;
        assert!(tokens.verify(&parts.join(".")).is_err());
        assert!(tokens.verify("x.y.z").is_err());
        assert!(tokens.verify(&"x".repeat(TOKEN_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn the_key_set_is_public_only() {
        let dir = tempfile::tempdir().unwrap();
        Tokens::open(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(KEY_SET_FILE)).unwrap();
        let set: jsonwebtoken::jwk::JwkSet = serde_json::from_str(&text).unwrap();
        assert_eq!(set.keys.len(), 1);
        assert!(!text.contains("\"d\""));
    }
}
