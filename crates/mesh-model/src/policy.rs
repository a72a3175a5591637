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
    /// Why the policy could not be read. Such a policy denies all it applies to: fails closed.
    pub invalid: Option<Arc<str>>,
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
        }
    }
}
