//! AuthorizationPolicy (interop/authz.md sections 1, 2 and 5).
//!
//! Every policy is served in full, for enforcement points that see HTTP, and in its L4 projection,
//! for those that do not. A policy that cannot be read is served as one that denies: the user meant
//! to restrict something.

use super::output::{Condition, Output};
use super::policy_rules;
use super::selector::{Labels, matches};
use super::service::Services;
use super::{CLASS_WAYPOINT, Mesh};
use crate::objects::{AuthorizationPolicy as Object, Objects, PolicyAction, TargetRef, annotation};
use mesh_model::{
    Action, AuthorizationPolicy, ObjectName, PolicyRule, PolicyScope, PolicyTarget, Resource,
};
use std::sync::Arc;

const KIND: &str = "AuthorizationPolicy";
const ANNOTATION_DRY_RUN: &str = "istio.io/dry-run";

/// The policies that workloads list.
pub(super) struct Policies {
    selecting: Vec<(ObjectName, bool, Labels)>,
}

impl Policies {
    pub(super) fn translate(
        objects: &Objects,
        mesh: &Mesh,
        services: &Services,
        out: &mut Output,
    ) -> Self {
        let mut selecting = Vec::new();
        for (name, object) in &objects.authorization_policies {
            let action = match object.spec.action {
                PolicyAction::Allow => Action::Allow,
                PolicyAction::Deny => Action::Deny,
                PolicyAction::Audit | PolicyAction::Custom => {
                    let message = "only ALLOW and DENY are enforced";
                    let condition = Condition::new("Accepted", false, "UnsupportedValue", message);
                    out.condition(KIND, name, condition);
                    continue;
                }
            };
            let made = match scope(objects, name, object, mesh, services) {
                Ok((scope, targets)) => Made::new(name, object, action, scope, targets, out),
                Err(why) => Made::unreadable(name, PolicyScope::Namespace, &why, out),
            };
            let reach = made.written.scope;
            if reach == PolicyScope::WorkloadSelector {
                let root = *name.namespace == *mesh.root_namespace;
                let labels = object
                    .spec
                    .selector
                    .clone()
                    .unwrap_or_default()
                    .match_labels;
                selecting.push((name.clone(), root, labels));
            }
            if reach != PolicyScope::Targets {
                let l4 = made.l4(out);
                out.put(Resource::Policy(Arc::new(l4)));
            }
            out.put(Resource::HttpPolicy(Arc::new(made.full())));
        }
        Self { selecting }
    }

    /// The policies that select a workload.
    pub(super) fn selecting(&self, namespace: &str, labels: &Labels) -> Vec<ObjectName> {
        let selects = |(name, root, wanted): &&(ObjectName, bool, Labels)| {
            (*root || *name.namespace == *namespace) && matches(wanted, labels)
        };
        let hits = self.selecting.iter().filter(selects);
        hits.map(|(name, ..)| name.clone()).collect()
    }
}

/// A policy as written, before it is fitted to what an enforcement point can check.
struct Made {
    written: AuthorizationPolicy,
    /// By rule: whether it holds conditions that nobody can check.
    unsupported: Vec<bool>,
}

impl Made {
    fn new(
        name: &ObjectName,
        object: &Object,
        action: Action,
        scope: PolicyScope,
        targets: Vec<PolicyTarget>,
        out: &mut Output,
    ) -> Self {
        let (mut rules, mut unsupported) = (Vec::new(), Vec::new());
        for (i, rule) in object.spec.rules.iter().enumerate() {
            match policy_rules::translate(rule, &name.namespace) {
                Ok(translated) => {
                    for what in &translated.unsupported {
                        let effect = match action {
                            Action::Allow => "the rule allows nothing",
                            Action::Deny => "the rule denies without it",
                        };
                        let message = format!("spec.rules[{i}]: {what} is not supported: {effect}");
                        not_enforced(name, message, out);
                    }
                    unsupported.push(!translated.unsupported.is_empty());
                    rules.push(translated.full);
                }
                Err(why) => {
                    let why = format!("spec.rules[{i}]: {why}");
                    let mut made = Self::unreadable(name, scope, &why, out);
                    made.written.targets = targets;
                    return made;
                }
            }
        }
        out.condition(KIND, name, Condition::new("Accepted", true, "Accepted", ""));
        let written = AuthorizationPolicy {
            name: name.clone(),
            scope,
            action,
            rules,
            dry_run: annotation(&object.metadata, ANNOTATION_DRY_RUN) == Some("true"),
            targets,
            invalid: None,
        };
        Self {
            written,
            unsupported,
        }
    }

    fn unreadable(name: &ObjectName, scope: PolicyScope, why: &str, out: &mut Output) -> Self {
        let message = format!("{why}: until this is mended the policy denies all it applies to");
        let condition = Condition::new("Accepted", false, "Invalid", message);
        out.condition(KIND, name, condition);
        let written = AuthorizationPolicy::unreadable(name.clone(), scope, why);
        Self {
            unsupported: vec![false; written.rules.len()],
            written,
        }
    }

    /// As far as L4 can check it; says so where that is not all.
    fn l4(&self, out: &mut Output) -> AuthorizationPolicy {
        let (name, action) = (&self.written.name, self.written.action);
        if self.written.rules.iter().any(policy_rules::has_http) {
            let effect = match action {
                Action::Allow => "rules with HTTP conditions allow nothing there",
                Action::Deny => "HTTP conditions are passed over there",
            };
            let message = format!("for proxies that see no HTTP: {effect}; use targetRefs");
            not_enforced(name, message, out);
        }
        self.fitted(|rule, unsupported| policy_rules::l4(rule, action, unsupported))
    }

    /// As far as a proxy that sees HTTP can check it.
    fn full(&self) -> AuthorizationPolicy {
        let action = self.written.action;
        self.fitted(|rule, unsupported| policy_rules::full(rule.clone(), action, unsupported))
    }

    fn fitted(&self, fit: impl Fn(&PolicyRule, bool) -> Option<PolicyRule>) -> AuthorizationPolicy {
        let rules = self.written.rules.iter().zip(&self.unsupported);
        AuthorizationPolicy {
            rules: rules.filter_map(|(rule, u)| fit(rule, *u)).collect(),
            ..self.written.clone()
        }
    }
}

fn not_enforced(name: &ObjectName, message: String, out: &mut Output) {
    let condition = Condition::new("Enforced", false, "UnsupportedValue", message);
    out.condition(KIND, name, condition);
}

fn scope(
    objects: &Objects,
    name: &ObjectName,
    object: &Object,
    mesh: &Mesh,
    services: &Services,
) -> Result<(PolicyScope, Vec<PolicyTarget>), String> {
    let refs: Vec<&TargetRef> = object
        .spec
        .target_refs
        .iter()
        .chain(&object.spec.target_ref)
        .collect();
    let selects = object
        .spec
        .selector
        .as_ref()
        .is_some_and(|s| !s.match_labels.is_empty());
    let root = *name.namespace == *mesh.root_namespace;
    match (refs.as_slice(), selects) {
        ([], true) => Ok((PolicyScope::WorkloadSelector, Vec::new())),
        ([], false) if root => Ok((PolicyScope::Global, Vec::new())),
        ([], false) => Ok((PolicyScope::Namespace, Vec::new())),
        (_, true) => Err("spec: selector and targetRefs exclude each other".into()),
        (refs, false) => {
            let target = |r: &&TargetRef| target(objects, name, r, root, mesh, services);
            let targets = refs.iter().map(target).collect::<Result<_, _>>()?;
            Ok((PolicyScope::Targets, targets))
        }
    }
}

fn target(
    objects: &Objects,
    name: &ObjectName,
    r: &TargetRef,
    root: bool,
    mesh: &Mesh,
    services: &Services,
) -> Result<PolicyTarget, String> {
    let of = |kind: &str, namespace: &str, name: &str| PolicyTarget {
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
    };
    let own = &*name.namespace;
    if r.namespace.as_deref().is_some_and(|n| n != own) {
        return Err("spec.targetRefs: the target is in another namespace".into());
    }
    match (r.group.as_str(), r.kind.as_str()) {
        ("", "Service") => {
            let object = ObjectName::new(own, r.name.as_str());
            let info = services.of_object(&object);
            let name = info.map_or_else(|| mesh.service_name(own, &r.name), |s| s.name.clone());
            Ok(of("Service", own, &name.hostname))
        }
        ("networking.istio.io", "ServiceEntry") => {
            let object = ObjectName::new(own, r.name.as_str());
            let entry = objects.service_entries.get(&object);
            let host = entry.and_then(|e| e.spec.hosts.first());
            let host = host.ok_or_else(|| format!("spec.targetRefs: no ServiceEntry {object}"))?;
            Ok(of("ServiceEntry", own, &host.to_ascii_lowercase()))
        }
        ("gateway.networking.k8s.io", "Gateway") => Ok(of("Gateway", own, &r.name)),
        ("gateway.networking.k8s.io", "GatewayClass") if r.name != CLASS_WAYPOINT => Err(format!(
            "spec.targetRefs: GatewayClass {} is not {CLASS_WAYPOINT}",
            r.name
        )),
        ("gateway.networking.k8s.io", "GatewayClass") if !root => Err(format!(
            "spec.targetRefs: a GatewayClass may be named in namespace {} only",
            mesh.root_namespace
        )),
        ("gateway.networking.k8s.io", "GatewayClass") => Ok(of("GatewayClass", "", &r.name)),
        (group, kind) => Err(format!(
            "spec.targetRefs: {kind} of group '{group}' is unknown"
        )),
    }
}
