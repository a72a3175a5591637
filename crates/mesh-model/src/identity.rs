//! Names: SPIFFE identities, namespaced objects and services.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A workload identity, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
///
/// Source: interop/hbone.md, "Certificates and identity matching".
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: Arc<str>,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

/// Why a text is not a workload identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The text has not the form `spiffe://td/ns/<ns>/sa/<sa>`.
    #[error("'{0}' is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Form(String),
    /// A part holds a character outside letters, digits, `-`, `.` and `_`, is empty or over 253 bytes.
    #[error("'{part}' is not a valid {field} of an identity")]
    Part {
        /// Which part.
        field: &'static str,
        /// The text found.
        part: String,
    },
    /// The text is not `namespace/name`.
    #[error("'{0}' is not of the form namespace/name")]
    ObjectName(String),
}

fn check(field: &'static str, part: &str) -> Result<(), IdentityError> {
    let ok = !part.is_empty()
        && part.len() <= 253
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if ok {
        Ok(())
    } else {
        Err(IdentityError::Part {
            field,
            part: part.chars().take(64).collect(),
        })
    }
}

impl SpiffeId {
    /// Makes an identity of its parts.
    ///
    /// # Errors
    /// When a part is empty, over 253 bytes or holds a character that SPIFFE does not allow.
    pub fn new(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, IdentityError> {
        let parts = [trust_domain, namespace, service_account];
        let [trust_domain, namespace, service_account] = parts.map(Arc::from);
        Self::shared(trust_domain, namespace, service_account)
    }

    /// As [`Self::new`], of parts that others hold as well.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn shared(
        trust_domain: Arc<str>,
        namespace: Arc<str>,
        service_account: Arc<str>,
    ) -> Result<Self, IdentityError> {
        check("trust domain", &trust_domain)?;
        check("namespace", &namespace)?;
        check("service account", &service_account)?;
        Ok(Self {
            trust_domain,
            namespace,
            service_account,
        })
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }

    /// The form AuthorizationPolicy uses: without `spiffe://`.
    pub fn principal(&self) -> String {
        format!(
            "{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || IdentityError::Form(text.chars().take(300).collect());
        let rest = text.strip_prefix("spiffe://").ok_or_else(form)?;
        let parts: Vec<&str> = rest.split('/').collect();
        match parts.as_slice() {
            [trust_domain, "ns", namespace, "sa", service_account] => {
                Self::new(trust_domain, namespace, service_account)
            }
            _ => Err(form()),
        }
    }
}

/// A namespaced object, shown as `namespace/name`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name within it.
    pub name: Arc<str>,
}

impl ObjectName {
    /// Makes a name of its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ObjectName {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((ns, name)) if !ns.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(ns, name))
            }
            _ => Err(IdentityError::ObjectName(text.chars().take(300).collect())),
        }
    }
}

/// A service, keyed and shown as `namespace/hostname` (interop/xds-workload.md section 5).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The full host name, such as `reviews.demo.svc.cluster.local`; lower case.
    pub hostname: Arc<str>,
}

impl ServiceName {
    /// Makes a name; the host name is lower-cased.
    pub fn new(namespace: impl Into<Arc<str>>, hostname: &str) -> Self {
        Self {
            namespace: namespace.into(),
            hostname: hostname.to_ascii_lowercase().into(),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ServiceName {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name: ObjectName = text.parse()?;
        Ok(Self::new(name.namespace, &name.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn identity_round_trips() {
        let text = "spiffe://cluster.local/ns/demo/sa/frontend";
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(id.principal(), "cluster.local/ns/demo/sa/frontend");
    }

    #[test]
    fn identity_needs_exactly_five_parts() {
        for bad in [
            "cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe:///ns/a/sa/b",
            "spiffe://cluster.local/sa/a/ns/b",
            "spiffe://cluster.local/ns/a b/sa/b",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad} was taken");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_or_errs_without_panic(text in ".{0,80}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
