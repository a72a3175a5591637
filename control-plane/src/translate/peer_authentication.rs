//! PeerAuthentication: carried as synthetic DENY policies (interop/authz.md section 4).

use super::Mesh;
use super::output::{Condition, Output};
use super::selector::{Labels, matches};
use crate::objects::{MutualTlsMode, Objects, PeerAuthentication, created_unix_s};
use mesh_model::{
    Action, AuthorizationPolicy, ObjectName, PolicyClause, PolicyMatch, PolicyRule, PolicyScope,
    Resource, StringMatch,
};
use std::collections::BTreeMap;
use std::sync::Arc;

const KIND: &str = "PeerAuthentication";
/// The policy that workloads with STRICT list. `_` cannot clash with a Kubernetes name.
const STATIC_STRICT: &str = "istio_converted_static_strict";

/// A selector policy that counts.
struct Selecting {
    namespace: Arc<str>,
    labels: Labels,
    /// What workloads it selects list on its account.
    policies: Vec<ObjectName>,
}

/// What PeerAuthentication asks of workloads.
pub(super) struct Peers {
    static_strict: ObjectName,
    mesh: MutualTlsMode,
    namespaces: BTreeMap<Arc<str>, MutualTlsMode>,
    /// Oldest first.
    selecting: Vec<Selecting>,
}

impl Peers {
    pub(super) fn translate(objects: &Objects, mesh: &Mesh, out: &mut Output) -> Self {
        let mut oldest: Vec<(&ObjectName, &PeerAuthentication)> = objects
            .peer_authentications
            .iter()
            .map(|(n, o)| (n, &**o))
            .collect();
        oldest.sort_by_key(|(name, o)| (created_unix_s(&o.metadata), *name));
        let mut peers = Self {
            static_strict: ObjectName::new(mesh.root_namespace.clone(), STATIC_STRICT),
            mesh: MutualTlsMode::Unset,
            namespaces: BTreeMap::new(),
            selecting: Vec::new(),
        };
        if !oldest.is_empty() {
            let rules = vec![rule(&[without_identity()])];
            put(peers.static_strict.clone(), rules, out);
        }
        for (name, object) in oldest.iter().filter(|(_, o)| !selects(o)) {
            peers.take_wide(name, object, mesh, out);
        }
        for (name, object) in oldest.iter().filter(|(_, o)| selects(o)) {
            if *name.namespace == *mesh.root_namespace {
                ignored(name, "a selector is not used in the root namespace", out);
            } else {
                peers.take_selecting(name, object, out);
            }
        }
        peers
    }

    /// The policies a workload lists.
    pub(super) fn policies_of(&self, namespace: &str, labels: &Labels) -> Vec<ObjectName> {
        let selecting = self
            .selecting
            .iter()
            .find(|s| *s.namespace == *namespace && matches(&s.labels, labels));
        match selecting {
            Some(selecting) => selecting.policies.clone(),
            None if self.wide(namespace) == MutualTlsMode::Strict => {
                vec![self.static_strict.clone()]
            }
            None => Vec::new(),
        }
    }

    /// The mode of a namespace, inherited from the mesh when it sets none.
    fn wide(&self, namespace: &str) -> MutualTlsMode {
        match self.namespaces.get(namespace) {
            None | Some(MutualTlsMode::Unset) => self.mesh,
            Some(mode) => *mode,
        }
    }

    fn take_wide(
        &mut self,
        name: &ObjectName,
        object: &PeerAuthentication,
        mesh: &Mesh,
        out: &mut Output,
    ) {
        let mode = object.spec.mtls.unwrap_or_default().mode;
        if !object.spec.port_level_mtls.is_empty() {
            let message = "portLevelMtls counts only beside a selector";
            let condition = Condition::new("Enforced", false, "UnsupportedValue", message);
            out.condition(KIND, name, condition);
        }
        let root = *name.namespace == *mesh.root_namespace;
        if self.namespaces.contains_key(&name.namespace) {
            ignored(name, "an older policy of the same reach is in force", out);
            return;
        }
        self.namespaces.insert(name.namespace.clone(), mode);
        if root {
            self.mesh = mode;
        }
        out.condition(KIND, name, Condition::new("Accepted", true, "Accepted", ""));
    }

    fn take_selecting(&mut self, name: &ObjectName, object: &PeerAuthentication, out: &mut Output) {
        let own = object.spec.mtls.unwrap_or_default().mode;
        let mode = match own {
            MutualTlsMode::Unset => self.wide(&name.namespace),
            mode => mode,
        };
        let mut ports = BTreeMap::new();
        for (text, mtls) in &object.spec.port_level_mtls {
            match text.parse::<u16>() {
                Ok(port) if mtls.mode != MutualTlsMode::Unset => {
                    ports.insert(port, mtls.mode == MutualTlsMode::Strict);
                }
                Ok(_) => {}
                Err(_) => {
                    let message = format!("spec.portLevelMtls: '{text}' is not a port");
                    let condition = Condition::new("Enforced", false, "Invalid", message);
                    out.condition(KIND, name, condition);
                }
            }
        }
        let strict = mode == MutualTlsMode::Strict;
        let exempt: Vec<u16> = exceptions(&ports, !strict);
        let policies = if exempt.is_empty() {
            Vec::from_iter(strict.then(|| self.static_strict.clone()))
        } else {
            let converted = format!("converted_peer_authentication_{}", name.name);
            let converted = ObjectName::new(name.namespace.clone(), converted);
            put(converted.clone(), converted_rules(strict, &exempt), out);
            vec![converted]
        };
        let labels = object
            .spec
            .selector
            .clone()
            .unwrap_or_default()
            .match_labels;
        self.selecting.push(Selecting {
            namespace: name.namespace.clone(),
            labels,
            policies,
        });
        out.condition(KIND, name, Condition::new("Accepted", true, "Accepted", ""));
    }
}

/// The ports whose strictness is the given one, which is not that of the rest.
fn exceptions(ports: &BTreeMap<u16, bool>, strict: bool) -> Vec<u16> {
    let hits = ports.iter().filter(|(_, s)| **s == strict);
    hits.map(|(port, _)| *port).collect()
}

/// STRICT with permissive ports: no identity, and none of the ports. PERMISSIVE with strict ports:
/// no identity, and one of the ports.
fn converted_rules(strict: bool, ports: &[u16]) -> Vec<PolicyRule> {
    if strict {
        let not_port = |port: &u16| PolicyMatch {
            not_destination_ports: vec![*port],
            ..PolicyMatch::default()
        };
        let mut all = vec![without_identity()];
        all.extend(ports.iter().map(not_port));
        vec![rule(&all)]
    } else {
        let strict_port = |port: &u16| {
            rule(&[PolicyMatch {
                destination_ports: vec![*port],
                ..without_identity()
            }])
        };
        ports.iter().map(strict_port).collect()
    }
}

fn selects(object: &PeerAuthentication) -> bool {
    let selector = object.spec.selector.as_ref();
    selector.is_some_and(|s| !s.match_labels.is_empty())
}

fn ignored(name: &ObjectName, why: &str, out: &mut Output) {
    out.condition(
        KIND,
        name,
        Condition::new("Accepted", false, "Ignored", why),
    );
}

fn without_identity() -> PolicyMatch {
    PolicyMatch {
        not_principals: vec![StringMatch::Presence],
        ..PolicyMatch::default()
    }
}

/// Each match a clause of its own: all must hold.
fn rule(matches: &[PolicyMatch]) -> PolicyRule {
    let clause = |m: &PolicyMatch| PolicyClause {
        matches: vec![m.clone()],
    };
    PolicyRule {
        clauses: matches.iter().map(clause).collect(),
    }
}

/// Served in both forms: L7 proxies check it as well.
fn put(name: ObjectName, rules: Vec<PolicyRule>, out: &mut Output) {
    let policy = Arc::new(AuthorizationPolicy {
        name,
        scope: PolicyScope::WorkloadSelector,
        action: Action::Deny,
        rules,
        dry_run: false,
        targets: Vec::new(),
        invalid: None,
        http_dropped: false,
    });
    out.put(Resource::Policy(policy.clone()));
    out.put(Resource::HttpPolicy(policy));
}
