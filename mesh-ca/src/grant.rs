//! What a caller is granted: pure, so that every rule can be tested without a network.
//!
//! A caller gets the certificate of its own service account. A node proxy may ask in the name of
//! the workloads on its node (interop/ca.md, "node authorization"), and an account listed as a
//! server gets its host names.

use crate::authenticate::Caller;
use mesh_model::{ObjectName, Snapshot, SpiffeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The rules, from the settings.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// The trust domain of every identity.
    pub(crate) trust_domain: String,
    /// Accounts of node proxies.
    pub(crate) trusted_node_accounts: BTreeSet<ObjectName>,
    /// Accounts that serve, and the DNS names each may have.
    pub(crate) serving_names: BTreeMap<ObjectName, BTreeSet<String>>,
    /// Lifetime of a certificate when none is asked for.
    pub(crate) ttl_default: Duration,
    /// Longest lifetime.
    pub(crate) ttl_max: Duration,
}

/// What a caller asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// `ImpersonatedIdentity`, as it is.
    pub(crate) impersonated: Option<String>,
    /// URI SANs of the CSR.
    pub(crate) uris: Vec<String>,
    /// DNS SANs of the CSR, lower case.
    pub(crate) dns_names: Vec<String>,
    /// Lifetime in seconds; 0 or less: the default.
    pub(crate) validity_s: i64,
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The one URI SAN.
    pub(crate) identity: SpiffeId,
    /// DNS SANs.
    pub(crate) dns_names: Vec<String>,
    /// Lifetime from now.
    pub(crate) ttl: Duration,
}

/// Why nothing is granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the caller's account {0} does not make a valid identity")]
    Account(ObjectName),
    #[error("'{0}' is not a workload identity of this mesh")]
    Identity(String),
    #[error("account {0} may not ask in the name of others")]
    NotTrusted(ObjectName),
    #[error("the token of {0} is not bound to a node")]
    NoNode(ObjectName),
    #[error("no workload of {identity} is known on node {node}")]
    NotOnNode { identity: SpiffeId, node: String },
    #[error("which workloads run on which node is not known yet")]
    NoSnapshot,
    #[error("the CSR asks for '{asked}', the caller is granted '{granted}'")]
    OtherIdentity { asked: String, granted: SpiffeId },
    #[error("the CSR asks for the DNS name '{0}', which the caller is not granted")]
    DnsName(String),
    #[error("a lifetime of {asked_s} s is asked for, at most {max_s} s are granted")]
    Lifetime { asked_s: u64, max_s: u64 },
}

impl Refusal {
    /// A stable word for metrics.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Account(_) => "account",
            Self::Identity(_) => "impersonation_identity",
            Self::NotTrusted(_) => "impersonation_not_trusted",
            Self::NoNode(_) => "impersonation_no_node",
            Self::NotOnNode { .. } => "impersonation_not_on_node",
            Self::NoSnapshot => "impersonation_no_snapshot",
            Self::OtherIdentity { .. } => "csr_identity",
            Self::DnsName(_) => "csr_dns_name",
            Self::Lifetime { .. } => "lifetime",
        }
    }
}

/// Decides; `snapshot` is `None` until the state of the mesh is known.
///
/// # Errors
/// See [`Refusal`].
pub(crate) fn decide(
    rules: &Rules,
    caller: &Caller,
    asked: &Asked,
    snapshot: Option<&Snapshot>,
) -> Result<Grant, Refusal> {
    let account = &caller.account;
    let own = SpiffeId::new(&rules.trust_domain, &account.namespace, &account.name)
        .map_err(|_| Refusal::Account(account.clone()))?;
    let identity = match &asked.impersonated {
        Some(text) => impersonate(rules, caller, &own, text, snapshot)?,
        None => own.clone(),
    };
    let wanted = identity.to_string();
    if let Some(other) = asked.uris.iter().find(|uri| **uri != wanted) {
        return Err(Refusal::OtherIdentity {
            asked: other.chars().take(300).collect(),
            granted: identity,
        });
    }
    // Host names belong to the server itself, never to a workload it acts for.
    let names = rules.serving_names.get(account).filter(|_| identity == own);
    let granted = |name: &&String| names.is_some_and(|n| n.contains(*name));
    if let Some(name) = asked.dns_names.iter().find(|n| !granted(n)) {
        return Err(Refusal::DnsName(name.chars().take(300).collect()));
    }
    Ok(Grant {
        identity,
        dns_names: asked.dns_names.clone(),
        ttl: lifetime(rules, asked.validity_s)?,
    })
}

/// The node check: the caller is a node proxy, and the workload asked for is on its node.
fn impersonate(
    rules: &Rules,
    caller: &Caller,
    own: &SpiffeId,
    text: &str,
    snapshot: Option<&Snapshot>,
) -> Result<SpiffeId, Refusal> {
    let shown = || Refusal::Identity(text.chars().take(300).collect());
    let identity: SpiffeId = text.parse().map_err(|_| shown())?;
    if identity == *own {
        // Node proxies name themselves too.
        return Ok(identity);
    }
    if !rules.trusted_node_accounts.contains(&caller.account) {
        return Err(Refusal::NotTrusted(caller.account.clone()));
    }
    if identity.trust_domain() != rules.trust_domain {
        return Err(shown());
    }
    let node = caller
        .node
        .as_deref()
        .filter(|node| !node.is_empty())
        .ok_or_else(|| Refusal::NoNode(caller.account.clone()))?;
    let snapshot = snapshot.ok_or(Refusal::NoSnapshot)?;
    let there = snapshot
        .workloads()
        .any(|w| &*w.node == node && w.identity().as_ref() == Some(&identity));
    if there {
        Ok(identity)
    } else {
        Err(Refusal::NotOnNode {
            identity,
            node: node.to_owned(),
        })
    }
}

fn lifetime(rules: &Rules, asked_s: i64) -> Result<Duration, Refusal> {
    let Some(asked_s) = u64::try_from(asked_s).ok().filter(|s| *s > 0) else {
        return Ok(rules.ttl_default);
    };
    let asked = Duration::from_secs(asked_s);
    if asked > rules.ttl_max {
        return Err(Refusal::Lifetime {
            asked_s,
            max_s: rules.ttl_max.as_secs(),
        });
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::{Resource, SnapshotBuilder, Workload};
    use std::sync::Arc;

    const A: &str = "spiffe://cluster.local/ns/demo/sa/a";

    fn rules() -> Rules {
        Rules {
            trust_domain: "cluster.local".into(),
            trusted_node_accounts: [ObjectName::new("strata-system", "ztunnel")].into(),
            serving_names: [(
                ObjectName::new("strata-system", "mesh-control"),
                ["mesh-control.strata-system.svc".to_owned()].into(),
            )]
            .into(),
            ttl_default: Duration::from_secs(86_400),
            ttl_max: Duration::from_secs(90 * 86_400),
        }
    }

    fn caller(namespace: &str, name: &str, node: &str) -> Caller {
        Caller {
            account: ObjectName::new(namespace, name),
            pod: None,
            node: (!node.is_empty()).then(|| node.to_owned()),
        }
    }

    fn snapshot() -> Arc<Snapshot> {
        let mut builder = SnapshotBuilder::new();
        for (name, account, node) in [("p1", "a", "node-1"), ("p2", "b", "node-2")] {
            let mut workload = Workload::new(name, "demo", name);
            workload.service_account = account.into();
            workload.node = node.into();
            builder.upsert(Resource::Workload(Arc::new(workload)));
        }
        builder.snapshot()
    }

    fn impersonating(identity: &str) -> Asked {
        Asked {
            impersonated: Some(identity.into()),
            uris: vec![identity.into()],
            ..Asked::default()
        }
    }

    fn decide_for(caller: &Caller, asked: &Asked) -> Result<Grant, Refusal> {
        decide(&rules(), caller, asked, Some(&snapshot()))
    }

    #[test]
    fn a_caller_gets_its_own_identity_for_a_day() {
        let grant = decide(&rules(), &caller("demo", "a", ""), &Asked::default(), None).unwrap();
        assert_eq!(grant.identity.to_string(), A);
        assert_eq!(grant.ttl, Duration::from_secs(86_400));
        assert!(grant.dns_names.is_empty());
    }

    #[test]
    fn another_identity_in_the_csr_is_refused_by_name() {
        let other = "spiffe://cluster.local/ns/demo/sa/b";
        for uris in [vec![other.to_owned()], vec![A.to_owned(), other.to_owned()]] {
            let asked = Asked {
                uris,
                ..Asked::default()
            };
            let refusal = decide_for(&caller("demo", "a", ""), &asked).unwrap_err();
            let text = refusal.to_string();
            assert!(text.contains(other) && text.contains(A), "{text}");
        }
    }

    #[test]
    fn a_node_proxy_speaks_for_the_workloads_of_its_node_only() {
        let ztunnel = caller("strata-system", "ztunnel", "node-1");
        let grant = decide_for(&ztunnel, &impersonating(A)).unwrap();
        assert_eq!(grant.identity.to_string(), A);
        let elsewhere = impersonating("spiffe://cluster.local/ns/demo/sa/b");
        assert!(matches!(
            decide_for(&ztunnel, &elsewhere),
            Err(Refusal::NotOnNode { .. })
        ));
        let own = impersonating("spiffe://cluster.local/ns/strata-system/sa/ztunnel");
        decide_for(&ztunnel, &own).unwrap();
    }

    #[test]
    fn impersonation_fails_closed() {
        let ztunnel = caller("strata-system", "ztunnel", "node-1");
        let asked = impersonating(A);
        assert_eq!(
            decide(&rules(), &ztunnel, &asked, None),
            Err(Refusal::NoSnapshot)
        );
        let stranger = caller("demo", "b", "node-1");
        assert!(matches!(
            decide_for(&stranger, &asked),
            Err(Refusal::NotTrusted(_))
        ));
        let unbound = caller("strata-system", "ztunnel", "");
        assert!(matches!(
            decide_for(&unbound, &asked),
            Err(Refusal::NoNode(_))
        ));
        for bad in ["", "a", "spiffe://other.org/ns/demo/sa/a"] {
            assert!(matches!(
                decide_for(&ztunnel, &impersonating(bad)),
                Err(Refusal::Identity(_))
            ));
        }
        let mut two_names = impersonating(A);
        two_names.uris = vec!["spiffe://cluster.local/ns/demo/sa/b".into()];
        assert!(matches!(
            decide_for(&ztunnel, &two_names),
            Err(Refusal::OtherIdentity { .. })
        ));
    }

    #[test]
    fn host_names_are_for_the_servers_listed() {
        let name = "mesh-control.strata-system.svc".to_owned();
        let asked = Asked {
            dns_names: vec![name.clone()],
            ..Asked::default()
        };
        let control = caller("strata-system", "mesh-control", "");
        let grant = decide_for(&control, &asked).unwrap();
        assert_eq!(grant.dns_names, std::slice::from_ref(&name));
        let refused = Err(Refusal::DnsName(name));
        assert_eq!(decide_for(&caller("demo", "a", ""), &asked), refused);
        let other = Asked {
            dns_names: vec!["bank.example".into()],
            ..Asked::default()
        };
        assert!(matches!(
            decide_for(&control, &other),
            Err(Refusal::DnsName(_))
        ));
    }

    #[test]
    fn lifetimes_are_bounded() {
        let with = |validity_s| Asked {
            validity_s,
            ..Asked::default()
        };
        let a = caller("demo", "a", "");
        assert_eq!(decide_for(&a, &with(-5)).unwrap().ttl.as_secs(), 86_400);
        assert_eq!(decide_for(&a, &with(60)).unwrap().ttl.as_secs(), 60);
        let max = 90 * 86_400;
        assert_eq!(decide_for(&a, &with(max)).unwrap().ttl.as_secs(), 7_776_000);
        assert!(matches!(
            decide_for(&a, &with(max + 1)),
            Err(Refusal::Lifetime { .. })
        ));
        assert!(matches!(
            decide_for(&a, &with(i64::MAX)),
            Err(Refusal::Lifetime { .. })
        ));
    }
}
