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
            let cx = TargetContext {
                objects,
                mesh,
                services,
                policy: name,
            };
            let made = match scope(&cx, object, out) {
                Ok((scope, targets)) => Made::new(name, object, action, scope, targets, out),
                Err(why) => Made::unreadable(name, PolicyScope::WorkloadSelector, &why, out),
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
            http_dropped: false,
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
                Action::Deny => {
                    "HTTP conditions are passed over there, and a rule that has no others denies \
                     nothing"
                }
            };
            let message = format!("for proxies that see no HTTP: {effect}; use targetRefs");
            not_enforced(name, message, out);
        }
        let mut l4 = self.fitted(|rule, unsupported| policy_rules::l4(rule, action, unsupported));
        // A ztunnel of ours counts and shows what such a policy lets through.
        l4.http_dropped = action == Action::Deny && l4.rules != self.written.rules;
        l4
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

/// What targets are looked up with.
struct TargetContext<'a> {
    objects: &'a Objects,
    mesh: &'a Mesh,
    services: &'a Services,
    policy: &'a ObjectName,
}

impl TargetContext<'_> {
    fn in_root(&self) -> bool {
        *self.policy.namespace == *self.mesh.root_namespace
    }
}

/// Where a policy applies. A target that cannot be is left out, with a condition that says so.
fn scope(
    cx: &TargetContext<'_>,
    object: &Object,
    out: &mut Output,
) -> Result<(PolicyScope, Vec<PolicyTarget>), String> {
    let spec = &object.spec;
    let refs: Vec<&TargetRef> = spec.target_refs.iter().chain(&spec.target_ref).collect();
    let labels = spec.selector.as_ref().map(|s| &s.match_labels);
    let selects = labels.is_some_and(|l| !l.is_empty());
    match (refs.as_slice(), selects) {
        ([], true) => Ok((PolicyScope::WorkloadSelector, Vec::new())),
        ([], false) if cx.in_root() => Ok((PolicyScope::Global, Vec::new())),
        ([], false) => Ok((PolicyScope::Namespace, Vec::new())),
        (_, true) => Err("spec: selector and targetRefs exclude each other".into()),
        (refs, false) => {
            let mut targets = Vec::new();
            for (i, r) in refs.iter().enumerate() {
                match target(cx, r) {
                    Ok(found) => targets.extend(found),
                    Err((reason, why)) => {
                        let message = format!("spec.targetRefs[{i}]: {why}");
                        let condition = Condition::new("Attached", false, reason, message);
                        out.condition(KIND, cx.policy, condition);
                    }
                }
            }
            Ok((PolicyScope::Targets, targets))
        }
    }
}

/// What a reference stands for; a ServiceEntry for each of its hosts.
fn target(
    cx: &TargetContext<'_>,
    r: &TargetRef,
) -> Result<Vec<PolicyTarget>, (&'static str, String)> {
    let of = |kind: &str, namespace: &str, name: &str| PolicyTarget {
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
    };
    let own = &*cx.policy.namespace;
    if r.namespace.as_deref().is_some_and(|n| n != own) {
        let why = "the target is in another namespace".to_owned();
        return Err(("RefNotPermitted", why));
    }
    let name = ObjectName::new(own, r.name.as_str());
    match (r.group.as_str(), r.kind.as_str()) {
        // Also one that is not there yet: then the policy is in force from its first moment.
        ("" | "core", "Service") => {
            let known = cx.services.of_object(&name).map(|s| s.name.clone());
            let known = known.unwrap_or_else(|| cx.mesh.service_name(own, &r.name));
            Ok(vec![of("Service", own, &known.hostname)])
        }
        ("networking.istio.io", "ServiceEntry") => {
            let entry = cx.objects.service_entries.get(&name);
            let entry = entry.ok_or_else(|| {
                let why = format!("ServiceEntry {name} does not exist");
                ("TargetNotFound", why)
            })?;
            let hosts = entry.spec.hosts.iter().map(|h| h.to_ascii_lowercase());
            Ok(hosts.map(|h| of("ServiceEntry", own, &h)).collect())
        }
        ("gateway.networking.k8s.io", "Gateway") => Ok(vec![of("Gateway", own, &r.name)]),
        ("gateway.networking.k8s.io", "GatewayClass") if r.name != CLASS_WAYPOINT => {
            let why = format!("GatewayClass {} is not {CLASS_WAYPOINT}", r.name);
            Err(("TargetNotFound", why))
        }
        ("gateway.networking.k8s.io", "GatewayClass") if !cx.in_root() => {
            let root = &cx.mesh.root_namespace;
            let why = format!("a GatewayClass may be named in namespace {root} only");
            Err(("RefNotPermitted", why))
        }
        ("gateway.networking.k8s.io", "GatewayClass") => Ok(vec![of("GatewayClass", "", &r.name)]),
        (group, kind) => {
            let why = format!("{kind} of group '{group}' cannot be a target");
            Err(("InvalidKind", why))
        }
    }
}
