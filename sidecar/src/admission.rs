//! Who may connect, as far as it can be told before a request is seen, and for how long.
//!
//! A sidecar or waypoint holds policies with HTTP conditions. What is not HTTP is decided with all
//! of them, where HTTP conditions of an ALLOW never match and those of a DENY always do. What may
//! become HTTP is let in when *some* request could be allowed; each request is decided in mesh-l7.

use mesh_authz::{Connection, Decision, authorize};
use mesh_discovery::SnapshotReceiver;
use mesh_l7::{Authorization, OwnedScope};
use mesh_model::{
    Action, AuthorizationPolicy, ObjectName, PolicyClause, PolicyMatch, PolicyRule, PolicySet,
    Reason, Snapshot, SpiffeId,
};
use mesh_plan::Refusal;
use mesh_tls::PeerTrust;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

/// What is to be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A connection that may turn out to be HTTP.
    Any,
    /// A connection that is not HTTP.
    Bytes,
}

/// A connection's facts for authorization, and what tells when an answer no longer holds.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    /// Whose policies.
    pub(crate) authorization: Authorization,
    /// For what.
    pub(crate) scope: OwnedScope,
    /// The peer's identity as TLS proved it; none on plaintext.
    pub(crate) identity: Option<SpiffeId>,
    /// The TCP peer's address.
    pub(crate) source_ip: IpAddr,
    /// The address and port that policies see.
    pub(crate) destination: SocketAddr,
    /// The state of the mesh.
    pub(crate) snapshots: SnapshotReceiver,
    /// What the identity rests on.
    pub(crate) trust: Option<Rc<PeerTrust>>,
}

impl Admission {
    /// Lets the connection in, and names the policy that did, if any; or refuses it.
    ///
    /// # Errors
    /// [`Reason::PolicyDenied`] or [`Reason::PolicyUnavailable`], with the policy named.
    pub(crate) fn check(
        &self,
        snapshot: &Snapshot,
        kind: Kind,
    ) -> Result<Option<ObjectName>, Denial> {
        let Some(set) = self.authorization.policies(snapshot, &self.scope) else {
            return Ok(None);
        };
        let decision = self.decide(&set, kind);
        for policy in &decision.dry_run {
            tracing::info!(%policy, source = %self.source_ip, destination = %self.destination, "a policy in dry run would deny this");
        }
        if decision.allowed {
            return Ok(decision.policy);
        }
        Err(Denial {
            refusal: Refusal::new(decision.reason, decision.detail),
            policy: decision.policy,
        })
    }

    fn decide(&self, set: &PolicySet, kind: Kind) -> Decision {
        let connection = Connection {
            identity: self.identity.as_ref(),
            source_ip: self.source_ip,
            destination: self.destination,
        };
        match kind {
            Kind::Bytes => authorize(set, &connection, None),
            Kind::Any => authorize(&most_lenient(set), &connection, None),
        }
    }

    /// Returns when the connection may not go on: a later snapshot than `allowed_by` denies it, or what
    /// its peer proved itself with holds no longer.
    pub(crate) async fn revoked(&self, allowed_by: Arc<Snapshot>, kind: Kind) -> Reason {
        tokio::select! {
            reason = self.denied(allowed_by, kind) => reason,
            reason = self.trust_lost() => {
                tracing::info!(source = %self.source_ip, destination = %self.destination, %reason, "the peer is trusted no longer");
                reason
            }
        }
    }

    async fn trust_lost(&self) -> Reason {
        match &self.trust {
            Some(trust) => trust.lost().await,
            None => std::future::pending().await,
        }
    }

    async fn denied(&self, allowed_by: Arc<Snapshot>, kind: Kind) -> Reason {
        let decide = |set: &PolicySet| self.decide(set, kind);
        let snapshots = self.snapshots.clone();
        let (reason, detail) = self
            .authorization
            .revoked(&self.scope, snapshots, allowed_by, decide)
            .await;
        tracing::info!(source = %self.source_ip, destination = %self.destination, detail, "policies now deny this connection");
        reason
    }
}

/// A refusal by policy, and which.
pub(crate) struct Denial {
    pub(crate) refusal: Refusal,
    pub(crate) policy: Option<ObjectName>,
}

/// The policies as they are to the request that is best for the peer: a DENY with HTTP conditions
/// does not hit it, and HTTP conditions of an ALLOW are met. What this denies, no request can turn.
fn most_lenient(set: &PolicySet) -> PolicySet {
    let conditioned = |p: &&Arc<AuthorizationPolicy>| {
        let mut matches = p
            .rules
            .iter()
            .flat_map(|r| &r.clauses)
            .flat_map(|c| &c.matches);
        matches.any(has_http)
    };
    if !set.policies.iter().any(|p| conditioned(&p)) {
        return set.clone();
    }
    let policies = set.policies.iter().map(|policy| {
        let rules = policy.rules.iter();
        let rules = match policy.action {
            Action::Deny => rules.filter_map(denying).collect(),
            Action::Allow => rules.map(allowing).collect(),
        };
        Arc::new(AuthorizationPolicy {
            rules,
            ..AuthorizationPolicy::clone(policy)
        })
    });
    PolicySet {
        policies: policies.collect(),
        missing: set.missing.clone(),
        compatibility: set.compatibility,
    }
}

/// The part of a DENY rule that no request can escape; none when there is no such part.
fn denying(rule: &PolicyRule) -> Option<PolicyRule> {
    let mut clauses = Vec::with_capacity(rule.clauses.len());
    for clause in &rule.clauses {
        let certain = clause.matches.iter().filter(|m| !has_http(m));
        let matches: Vec<PolicyMatch> = certain.cloned().collect();
        if matches.is_empty() && !clause.matches.is_empty() {
            return None;
        }
        clauses.push(PolicyClause { matches });
    }
    Some(PolicyRule { clauses })
}

/// An ALLOW rule with its HTTP conditions met.
fn allowing(rule: &PolicyRule) -> PolicyRule {
    let clauses = rule.clauses.iter().map(|clause| {
        let matches: Vec<PolicyMatch> = clause.matches.iter().map(without_http).collect();
        // A match with no field never matches; one that had HTTP fields only is met here.
        let met = |(now, was): (&PolicyMatch, &PolicyMatch)| {
            *now == PolicyMatch::default() && has_http(was)
        };
        let always = matches.iter().zip(&clause.matches).any(met);
        PolicyClause {
            matches: if always { Vec::new() } else { matches },
        }
    });
    PolicyRule {
        clauses: clauses.collect(),
    }
}

fn has_http(m: &PolicyMatch) -> bool {
    *m != without_http(m)
}

fn without_http(m: &PolicyMatch) -> PolicyMatch {
    PolicyMatch {
        hosts: Vec::new(),
        not_hosts: Vec::new(),
        methods: Vec::new(),
        not_methods: Vec::new(),
        paths: Vec::new(),
        not_paths: Vec::new(),
        headers: Vec::new(),
        ..m.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::{PolicyScope, StringMatch};

    fn policy(action: Action, matches: Vec<PolicyMatch>) -> PolicySet {
        PolicySet {
            policies: vec![Arc::new(AuthorizationPolicy {
                name: ObjectName::new("demo", "p"),
                scope: PolicyScope::Namespace,
                action,
                rules: vec![PolicyRule {
                    clauses: vec![PolicyClause { matches }],
                }],
                dry_run: false,
                targets: Vec::new(),
                invalid: None,
                http_dropped: false,
            })],
            ..PolicySet::default()
        }
    }

    fn exact(text: &str) -> Vec<StringMatch> {
        vec![StringMatch::Exact(text.into())]
    }

    fn path() -> PolicyMatch {
        PolicyMatch {
            paths: exact("/admin"),
            ..PolicyMatch::default()
        }
    }

    fn from(namespace: &str) -> PolicyMatch {
        PolicyMatch {
            namespaces: exact(namespace),
            ..PolicyMatch::default()
        }
    }

    fn admission() -> Admission {
        Admission {
            authorization: Authorization::None,
            scope: OwnedScope::App {
                address: ([127, 0, 0, 1], 80).into(),
                workload: None,
                service: None,
                app_protocol: mesh_model::AppProtocol::Unknown,
            },
            identity: "spiffe://td/ns/web/sa/a".parse().ok(),
            source_ip: [10, 0, 0, 1].into(),
            destination: ([10, 0, 0, 2], 80).into(),
            snapshots: tokio::sync::watch::channel(Arc::default()).1,
            trust: None,
        }
    }

    fn allowed(set: &PolicySet, kind: Kind) -> bool {
        admission().decide(set, kind).allowed
    }

    #[test]
    fn a_request_that_could_be_allowed_lets_the_connection_in() {
        for set in [
            policy(Action::Allow, vec![path()]),
            policy(Action::Deny, vec![path()]),
            policy(Action::Deny, vec![path(), from("other")]),
        ] {
            assert!(allowed(&set, Kind::Any), "{set:?}");
            assert!(!allowed(&set, Kind::Bytes), "{set:?}");
        }
    }

    #[test]
    fn what_no_request_could_turn_is_refused_at_once() {
        let mut other = path();
        other.namespaces = exact("other");
        for set in [
            policy(Action::Allow, vec![other]),
            policy(Action::Allow, vec![PolicyMatch::default()]),
            policy(Action::Deny, vec![path(), from("web")]),
            PolicySet {
                missing: vec![ObjectName::new("demo", "gone")],
                ..PolicySet::default()
            },
        ] {
            assert!(!allowed(&set, Kind::Any), "{set:?}");
        }
    }

    #[test]
    fn policies_without_http_are_decided_alike() {
        for (set, want) in [
            (policy(Action::Allow, vec![from("web")]), true),
            (policy(Action::Allow, vec![from("other")]), false),
            (policy(Action::Deny, vec![from("web")]), false),
        ] {
            assert_eq!(allowed(&set, Kind::Any), want);
            assert_eq!(allowed(&set, Kind::Bytes), want);
        }
    }

    #[tokio::test]
    async fn a_peer_that_is_revoked_may_not_go_on_though_no_policy_says_so() {
        let id = |account: &str| SpiffeId::new("cluster.local", "demo", account).unwrap();
        let ca = mesh_testkit::TestCa::new();
        let lists = mesh_tls::Revocations::new(|_, _| ());
        let policy = mesh_tls::TlsPolicy::new(lists.clone());
        let ours = ca.workload_with(&id("shop"), ca.root_pem(), mesh_testkit::ca::DAY, &policy);
        let (ours, theirs) = (Arc::new(ours), ca.workload(&id("client")));
        let (near, far) = tokio::io::duplex(1 << 16);
        let expected = mesh_tls::Expected::AnyOf(vec![id("shop")]);
        let (accepted, connected) = tokio::join!(
            mesh_tls::accept_session(far, &ours),
            mesh_tls::connect_session(near, &theirs, &expected)
        );
        connected.unwrap();
        let certificates = tokio::sync::watch::channel(Some(ours.clone())).1;
        let trust = PeerTrust::new(accepted.unwrap().peer, ours, certificates);
        let snapshots = tokio::sync::watch::Sender::new(Arc::new(Snapshot::default()));
        let admission = Admission {
            trust: Some(Rc::new(trust)),
            snapshots: snapshots.subscribe(),
            ..admission()
        };
        let allowed_by = snapshots.borrow().clone();
        let mut revoked = std::pin::pin!(admission.revoked(allowed_by, Kind::Any));
        tokio::select! {
            biased;
            reason = &mut revoked => panic!("{reason}"),
            () = std::future::ready(()) => {}
        }
        ca.revoke(&lists, &[theirs.serial()]);
        assert_eq!(revoked.await, Reason::CertRevoked);
    }
}
