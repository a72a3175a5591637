//! Pure authorization: facts and policies to a decision and the rule that made it.
//!
//! Semantics: interop/authz.md sections 1 and 3, with one deliberate difference: what Istio leaves
//! open (a policy that is referenced and not received, or could not be read) is closed here, unless
//! the policies come with [`PolicyCompatibility::Istio`].

mod matching;

use matching::Facts;
use mesh_model::{
    Action, AuthorizationPolicy, ObjectName, PolicyCompatibility, PolicySet, Reason, SpiffeId,
};
use std::net::{IpAddr, SocketAddr};

/// What is known of every connection.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// The peer's identity as its certificate proved it; none on plaintext.
    pub identity: Option<&'a SpiffeId>,
    /// The TCP peer's address, never one that a header claims.
    pub source_ip: IpAddr,
    /// The resolved local target: pod address and application port, not 15008 and not a service's.
    pub destination: SocketAddr,
}

/// What is known of an HTTP request.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The authority as sent; case and port do not matter.
    pub host: &'a str,
    /// Upper-case method.
    pub method: &'a str,
    /// Path without query, already normalised.
    pub path: &'a str,
    /// Looks up a header by lower-case name: the value of each of its field lines, in order.
    pub header: &'a dyn Fn(&str) -> Vec<String>,
}

/// The answer, and what made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the connection or request may go on.
    pub allowed: bool,
    /// [`Reason::Ok`], [`Reason::PolicyDenied`] or [`Reason::PolicyUnavailable`].
    pub reason: Reason,
    /// The policy that decided. None when no policy applies; when an ALLOW policy applies and none
    /// matches, the first of them.
    pub policy: Option<ObjectName>,
    /// The rule of that policy that matched, from 0.
    pub rule: Option<usize>,
    /// Why, in words; empty when allowed.
    pub detail: String,
    /// Policies in dry run that would have denied, were they enforced.
    pub dry_run: Vec<ObjectName>,
    /// Enforced policies that apply and were not evaluated as they were written. When the answer is
    /// yes, they let through; to be counted and shown.
    pub gaps: Vec<Gap>,
}

/// A policy that applies and was not evaluated as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The policy.
    pub policy: ObjectName,
    /// What is wrong with it.
    pub cause: GapCause,
}

/// Why a policy was not evaluated as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapCause {
    /// A workload lists it and it has not been received.
    Missing,
    /// It could not be read.
    Unreadable,
    /// A DENY whose HTTP conditions do not reach this proxy, and that matched nothing without them.
    HttpDropped,
}

impl GapCause {
    /// The code in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
            Self::HttpDropped => "http_dropped",
        }
    }
}

/// Decides: a DENY that matches, then what is missing or unreadable (both deny, unless
/// [`PolicyCompatibility::Istio`] passes them over), then ALLOW.
///
/// Without a request, HTTP conditions of an ALLOW never match and those of a DENY always do, so a
/// DENY on HTTP fields should name a port (interop/authz.md section 1).
pub fn authorize(
    policies: &PolicySet,
    connection: &Connection<'_>,
    request: Option<&Request<'_>>,
) -> Decision {
    let facts = Facts::new(connection, request);
    let mut decision = enforced(policies, &facts);
    decision.dry_run = dry_run(policies, &facts);
    decision.gaps = gaps(policies, &facts);
    decision
}

/// Whether a policy is evaluated by its rules, rather than standing for a refusal.
fn has_rules(set: &PolicySet, policy: &AuthorizationPolicy) -> bool {
    policy.invalid.is_none() || set.compatibility == PolicyCompatibility::Istio
}

fn gaps(set: &PolicySet, facts: &Facts<'_>) -> Vec<Gap> {
    let missing = set.missing.iter().map(|name| (name, GapCause::Missing));
    let cause = |p: &AuthorizationPolicy| match p.action {
        _ if p.invalid.is_some() => Some(GapCause::Unreadable),
        Action::Deny if p.http_dropped && facts.matching_rule(p).is_none() => {
            Some(GapCause::HttpDropped)
        }
        _ => None,
    };
    let enforced = set.policies.iter().filter(|p| !p.dry_run);
    let partial = enforced.filter_map(|p| cause(p).map(|cause| (&p.name, cause)));
    let gap = |(policy, cause): (&ObjectName, GapCause)| Gap {
        policy: policy.clone(),
        cause,
    };
    missing.chain(partial).map(gap).collect()
}

fn enforced(set: &PolicySet, facts: &Facts<'_>) -> Decision {
    let (mut unreadable, mut allow_first, mut allowed_by) = (None, None, None);
    for policy in set.policies.iter().filter(|p| !p.dry_run) {
        if !has_rules(set, policy) {
            unreadable = unreadable.or(Some(policy));
            continue;
        }
        match (policy.action, facts.matching_rule(policy)) {
            (Action::Deny, Some(rule)) => {
                return denied(
                    Reason::PolicyDenied,
                    Some(policy.name.clone()),
                    Some(rule),
                    format!("rule {rule} of DENY policy {} matches", policy.name),
                );
            }
            (Action::Deny, None) => {}
            (Action::Allow, hit) => {
                allow_first = allow_first.or(Some(policy));
                allowed_by = allowed_by.or_else(|| hit.map(|rule| (policy, rule)));
            }
        }
    }
    if let Some(decision) = unavailable(set, unreadable.map(|p| &**p)) {
        return decision;
    }
    match (allow_first, allowed_by) {
        (_, Some((policy, rule))) => allowed(Some(policy.name.clone()), Some(rule)),
        (None, None) => allowed(None, None),
        (Some(first), None) => denied(
            Reason::PolicyDenied,
            Some(first.name.clone()),
            None,
            format!("no rule of an ALLOW policy matches ({})", allow_names(set)),
        ),
    }
}

/// A policy that should apply and cannot be read: the answer is no.
fn unavailable(set: &PolicySet, unreadable: Option<&AuthorizationPolicy>) -> Option<Decision> {
    let missing = match set.compatibility {
        PolicyCompatibility::Strict => set.missing.first(),
        PolicyCompatibility::Istio => None,
    };
    let (name, why) = match (unreadable, missing) {
        (Some(policy), _) => (
            &policy.name,
            policy.invalid.as_deref().unwrap_or("unreadable"),
        ),
        (None, Some(name)) => (name, "it has not been received"),
        (None, None) => return None,
    };
    Some(denied(
        Reason::PolicyUnavailable,
        Some(name.clone()),
        None,
        format!("policy {name} applies and cannot be evaluated: {why}"),
    ))
}

/// The dry-run policies that would have denied: a DENY (or unreadable policy) that matches, and every
/// ALLOW in dry run when no ALLOW, enforced or not, matches.
fn dry_run(set: &PolicySet, facts: &Facts<'_>) -> Vec<ObjectName> {
    if !set.policies.iter().any(|p| p.dry_run) {
        return Vec::new();
    }
    let allows = |p: &AuthorizationPolicy| {
        p.action == Action::Allow && has_rules(set, p) && facts.matching_rule(p).is_some()
    };
    let some_allow = set.policies.iter().any(|p| allows(p));
    set.policies
        .iter()
        .filter(|p| p.dry_run)
        .filter(|p| match p.action {
            _ if !has_rules(set, p) => true,
            Action::Deny => facts.matching_rule(p).is_some(),
            Action::Allow => !some_allow,
        })
        .map(|p| p.name.clone())
        .collect()
}

/// Names for the message, a few at most.
fn allow_names(set: &PolicySet) -> String {
    const SHOWN_MAX: usize = 3;
    let names: Vec<String> = set
        .policies
        .iter()
        .filter(|p| !p.dry_run && p.action == Action::Allow)
        .map(|p| p.name.to_string())
        .collect();
    match names.len().checked_sub(SHOWN_MAX) {
        Some(more @ 1..) => format!("{} and {more} more", names[..SHOWN_MAX].join(", ")),
        _ => names.join(", "),
    }
}

fn allowed(policy: Option<ObjectName>, rule: Option<usize>) -> Decision {
    Decision {
        allowed: true,
        reason: Reason::Ok,
        policy,
        rule,
        detail: String::new(),
        dry_run: Vec::new(),
        gaps: Vec::new(),
    }
}

fn denied(
    reason: Reason,
    policy: Option<ObjectName>,
    rule: Option<usize>,
    detail: String,
) -> Decision {
    Decision {
        allowed: false,
        reason,
        policy,
        rule,
        detail,
        dry_run: Vec::new(),
        gaps: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
