//! Who calls: a bearer token, signed by a key of the JWKS file.
//!
//! Tokens have the form of Kubernetes' projected service-account tokens; `mesh-control token`
//! makes the same. The file is read again when it changed, or when a token names a key it lacks.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use mesh_model::ObjectName;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Largest token read.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Largest JWKS file read.
const KEYS_BYTES_MAX: u64 = 1 << 20;
/// How far the clocks of signer and authority may differ.
const LEEWAY_S: u64 = 10;
/// Shortest time between two readings that an unknown key causes: strangers must not make us read.
const REREAD_PAUSE: Duration = Duration::from_secs(1);
/// Public-key algorithms only: a shared secret has no place in a JWKS.
const ALGORITHMS: [Algorithm; 5] = [
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::RS256,
    Algorithm::PS256,
    Algorithm::EdDSA,
];

/// Who calls, as the token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Namespace and service account.
    pub(crate) account: ObjectName,
    /// The pod the token is bound to, when it is.
    pub(crate) pod: Option<String>,
    /// The node that pod runs on, when the token says so.
    pub(crate) node: Option<String>,
}

/// Why a caller is not known. Each is answered with `Unauthenticated`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthError {
    #[error("no bearer token in the 'authorization' metadata")]
    Missing,
    #[error("the token is malformed: {0}")]
    Malformed(String),
    #[error("the token's algorithm is not one that is taken")]
    Algorithm,
    #[error("the token is signed by an unknown key ('{0}')")]
    UnknownKey(String),
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token is for another audience than {0}")]
    Audience(String),
    #[error("the token is of another issuer than {0}")]
    Issuer(String),
    #[error("the token's subject is not a service account")]
    Subject,
}

impl AuthError {
    /// A stable word for metrics.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::Malformed(_) => "token_malformed",
            Self::Algorithm => "token_algorithm",
            Self::UnknownKey(_) => "token_key_unknown",
            Self::Signature => "token_signature",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Audience(_) => "token_audience",
            Self::Issuer(_) => "token_issuer",
            Self::Subject => "token_subject",
        }
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Bound>,
}

#[derive(Deserialize)]
struct Bound {
    namespace: String,
    serviceaccount: Named,
    pod: Option<Named>,
    node: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// What a file looked like when it was read.
type Stamp = (SystemTime, u64);

#[derive(Default)]
struct Keys {
    keys: Vec<(Option<String>, DecodingKey)>,
    stamp: Option<Stamp>,
    read_at: Option<Instant>,
}

/// Checks tokens.
pub(crate) struct Authenticator {
    path: PathBuf,
    audiences: Vec<String>,
    issuers: Vec<String>,
    keys: Mutex<Keys>,
}

impl Authenticator {
    /// Reads keys from `path`, which may still be missing: then no token is taken. `issuers`
    /// empty: the key decides alone.
    pub(crate) fn new(path: &Path, audiences: Vec<String>, issuers: Vec<String>) -> Self {
        let authenticator = Self {
            path: path.to_owned(),
            audiences,
            issuers,
            keys: Mutex::default(),
        };
        authenticator.reread(&mut authenticator.keys());
        authenticator
    }

    /// Whether there is a key to check tokens with.
    pub(crate) fn has_keys(&self) -> bool {
        !self.keys().keys.is_empty()
    }

    /// Checks the value of the `authorization` metadata.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub(crate) fn authenticate(&self, authorization: Option<&str>) -> Result<Caller, AuthError> {
        let token = authorization
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .filter(|token| !token.is_empty())
            .ok_or(AuthError::Missing)?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::Malformed("it is too long".into()));
        }
        let header = decode_header(token).map_err(|e| AuthError::Malformed(brief(&e)))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(AuthError::Algorithm);
        }
        let key = self.key(header.kid.as_deref())?;
        let validation = self.validation(header.alg);
        let claims = decode::<Claims>(token, &key, &validation).map_err(|e| self.refusal(&e))?;
        caller(claims.claims)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        validation.set_audience(&self.audiences);
        let mut required = vec!["exp", "aud", "sub"];
        if !self.issuers.is_empty() {
            validation.set_issuer(&self.issuers);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        validation
    }

    fn refusal(&self, error: &jsonwebtoken::errors::Error) -> AuthError {
        let audiences = || AuthError::Audience(self.audiences.join(", "));
        let issuers = || AuthError::Issuer(self.issuers.join(", "));
        match error.kind() {
            ErrorKind::ExpiredSignature => AuthError::Expired,
            ErrorKind::ImmatureSignature => AuthError::NotYetValid,
            ErrorKind::InvalidAudience => audiences(),
            ErrorKind::InvalidIssuer => issuers(),
            ErrorKind::InvalidSignature => AuthError::Signature,
            ErrorKind::InvalidAlgorithm => AuthError::Algorithm,
            ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => audiences(),
            ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => issuers(),
            _ => AuthError::Malformed(brief(error)),
        }
    }

    /// The key of an id; a token without one is checked when there is only one key.
    fn key(&self, id: Option<&str>) -> Result<DecodingKey, AuthError> {
        let mut keys = self.keys();
        if stamp(&self.path) != keys.stamp {
            self.reread(&mut keys);
        }
        if let Some(key) = keys.find(id) {
            return Ok(key);
        }
        // Two edits within the file's time resolution look like one: look again before refusing.
        if keys.read_at.is_none_or(|at| at.elapsed() > REREAD_PAUSE) {
            self.reread(&mut keys);
        }
        keys.find(id)
            .ok_or_else(|| AuthError::UnknownKey(id.unwrap_or("").chars().take(64).collect()))
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        // The table is replaced as a whole, never left half-done.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file. One that cannot be read leaves the keys in use: the last good state.
    fn reread(&self, keys: &mut Keys) {
        keys.read_at = Some(Instant::now());
        keys.stamp = stamp(&self.path);
        match read_keys(&self.path) {
            Ok(new) => {
                tracing::info!(path = %self.path.display(), keys = new.len(), "token keys read");
                keys.keys = new;
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), error, "token keys not read");
            }
        }
    }
}

impl Keys {
    fn find(&self, id: Option<&str>) -> Option<DecodingKey> {
        let found = match id {
            Some(id) => self.keys.iter().find(|(k, _)| k.as_deref() == Some(id)),
            None if self.keys.len() == 1 => self.keys.first(),
            None => None,
        };
        found.map(|(_, key)| key.clone())
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read_keys(path: &Path) -> Result<Vec<(Option<String>, DecodingKey)>, String> {
    let length = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if length > KEYS_BYTES_MAX {
        return Err(format!("{length} bytes, at most {KEYS_BYTES_MAX} are read"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let set: JwkSet = serde_json::from_str(&text).map_err(|e| format!("not a JWKS: {e}"))?;
    set.keys
        .iter()
        .filter(|jwk| !matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)))
        .map(|jwk| {
            let key = DecodingKey::from_jwk(jwk).map_err(|e| format!("key: {e}"))?;
            Ok((jwk.common.key_id.clone(), key))
        })
        .collect()
}

/// The service account of a token: by its subject; the claims it is bound by must agree.
fn caller(claims: Claims) -> Result<Caller, AuthError> {
    let account = claims
        .sub
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
        .filter(|(ns, name)| !ns.is_empty() && !name.is_empty() && !name.contains(':'))
        .map(|(ns, name)| ObjectName::new(ns, name))
        .ok_or(AuthError::Subject)?;
    let Some(bound) = claims.kubernetes else {
        return Ok(Caller {
            account,
            pod: None,
            node: None,
        });
    };
    if *account.namespace != *bound.namespace || *account.name != *bound.serviceaccount.name {
        return Err(AuthError::Subject);
    }
    Ok(Caller {
        account,
        pod: bound.pod.map(|p| p.name),
        node: bound.node.map(|n| n.name),
    })
}

fn brief(error: &jsonwebtoken::errors::Error) -> String {
    error.to_string().chars().take(120).collect()
}

#[cfg(test)]
pub(crate) mod tests;
