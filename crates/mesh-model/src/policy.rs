//! Authorization policies, L4 and L7 in one shape (interop/authz.md).

use crate::{Cidr, ObjectName};
use std::sync::Arc;

/// What a policy does when it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Lets through.
    Allow,
    /// Refuses.
    Deny,
}

/// What becomes of a policy that applies and cannot be evaluated (docs/policy.md). One setting for the
/// whole mesh, `POLICY_COMPATIBILITY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PolicyCompatibility {
    /// It denies: what should restrict and cannot must not let through.
    #[default]
    Strict,
    /// As Istio's ztunnel does: a policy that has not arrived, or was refused, is passed over, and
    /// entries of a list that cannot be read are left out of it.
    Istio,
}

impl std::str::FromStr for PolicyCompatibility {
    type Err = UnknownCompatibility;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "strict" => Ok(Self::Strict),
            "istio" => Ok(Self::Istio),
            _ => Err(UnknownCompatibility),
        }
    }
}

/// A text that is no [`PolicyCompatibility`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither 'strict' nor 'istio'")]
pub struct UnknownCompatibility;

/// Where a policy applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PolicyScope {
    /// Every workload of the mesh.
    Global,
    /// Every workload of the policy's namespace.
    Namespace,
    /// The workloads that list it.
    WorkloadSelector,
    /// The objects in `targets`, at the L7 proxy that serves them.
    Targets,
}

/// What a policy of scope [`PolicyScope::Targets`] applies to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PolicyTarget {
    /// `Service`, `ServiceEntry`, `Gateway` or `GatewayClass`.
    pub kind: Arc<str>,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// Name; for services and service entries the host name.
    pub name: Arc<str>,
}

/// A text condition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Starts with.
    Prefix(Arc<str>),
    /// Ends with.
    Suffix(Arc<str>),
    /// Not empty.
    Presence,
}

impl StringMatch {
    /// Whether the text meets the condition.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(t) => text == &**t,
            Self::Prefix(t) => text.starts_with(&**t),
            Self::Suffix(t) => text.ends_with(&**t),
            Self::Presence => !text.is_empty(),
        }
    }

    /// Reads the form users write: `abc`, `abc*`, `*abc`, `*`.
    pub fn from_pattern(pattern: &str) -> Self {
        match (
            pattern,
            pattern.strip_suffix('*'),
            pattern.strip_prefix('*'),
        ) {
            ("*", _, _) => Self::Presence,
            (_, Some(prefix), _) => Self::Prefix(prefix.into()),
            (_, _, Some(suffix)) => Self::Suffix(suffix.into()),
            _ => Self::Exact(pattern.into()),
        }
    }
}

/// A service account, whatever the trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceAccountMatch {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

/// A condition on one request header.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderCondition {
    /// Lower-case header name.
    pub name: Arc<str>,
    /// Any of these must match; none given: no condition.
    pub values: Vec<StringMatch>,
    /// None of these may match.
    pub not_values: Vec<StringMatch>,
}

/// Fields AND-ed; values of a field OR-ed; a `not_` field must have no hit. A match with no field
/// set never matches (interop/authz.md section 3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(
    missing_docs,
    reason = "the fields are named as in interop/authz.md section 3"
)]
pub struct PolicyMatch {
    pub namespaces: Vec<StringMatch>,
    pub not_namespaces: Vec<StringMatch>,
    pub principals: Vec<StringMatch>,
    pub not_principals: Vec<StringMatch>,
    pub service_accounts: Vec<ServiceAccountMatch>,
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    pub source_ips: Vec<Cidr>,
    pub not_source_ips: Vec<Cidr>,
    pub destination_ips: Vec<Cidr>,
    pub not_destination_ips: Vec<Cidr>,
    pub destination_ports: Vec<u16>,
    pub not_destination_ports: Vec<u16>,
    pub hosts: Vec<StringMatch>,
    pub not_hosts: Vec<StringMatch>,
    pub methods: Vec<StringMatch>,
    pub not_methods: Vec<StringMatch>,
    pub paths: Vec<StringMatch>,
    pub not_paths: Vec<StringMatch>,
    pub headers: Vec<HeaderCondition>,
}

/// Matches OR-ed; no match at all: true.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyClause {
    /// The alternatives.
    pub matches: Vec<PolicyMatch>,
}

/// Clauses AND-ed; no clause at all: true.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyRule {
    /// The conditions.
    pub clauses: Vec<PolicyClause>,
}

/// A policy. Rules OR-ed; no rule at all: never matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// `namespace/name`.
    pub name: ObjectName,
    /// Where it applies.
    pub scope: PolicyScope,
    /// What it does.
    pub action: Action,
    /// When it matches.
    pub rules: Vec<PolicyRule>,
    /// It is evaluated and reported, and changes nothing.
    pub dry_run: bool,
    /// What it applies to, for scope [`PolicyScope::Targets`].
    pub targets: Vec<PolicyTarget>,
    /// Why the policy could not be read. Such a policy denies all it applies to: fails closed. With
    /// [`PolicyCompatibility::Istio`] its rules are what could be read of it, and count.
    pub invalid: Option<Arc<str>>,
    /// The control plane left HTTP conditions out of a DENY for a proxy that sees no HTTP: a rule
    /// that had nothing else matches nothing (interop/authz.md section 2).
    pub http_dropped: bool,
}

impl AuthorizationPolicy {
    /// What stands in for a policy that could not be read: it denies, and says why.
    pub fn unreadable(name: ObjectName, scope: PolicyScope, why: impl Into<Arc<str>>) -> Self {
        Self {
            name,
            scope,
            action: Action::Deny,
            rules: vec![PolicyRule::default()],
            dry_run: false,
            targets: Vec::new(),
            invalid: Some(why.into()),
            http_dropped: false,
        }
    }
}
