//! Configuration as users write it.

use crate::control::translate::{Mesh, translate};
use crate::objects::{Objects, read};
use crate::wire::{is_filed, survives_the_wire};
use mesh_model::{Action, AuthorizationPolicy, PolicyRule, Resource, SnapshotBuilder};
use std::sync::Arc;

/// The control plane's YAML: what is read gives the same resources each time, and every one of them
/// reaches the proxies as it is.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let document = match read(text) {
        Ok(document) => document,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let mut objects = Objects::default();
    for object in document.objects {
        objects.insert(object);
    }
    let mesh = Mesh {
        trust_domain: "cluster.local".into(),
        cluster: "Kubernetes".into(),
        network: "".into(),
        root_namespace: "istio-system".into(),
        domain: "cluster.local".into(),
        encrypt_same_node: false,
    };
    let translation = translate(&objects, &mesh);
    assert_eq!(translation, translate(&objects, &mesh));
    for (key, resource) in &translation.resources {
        assert_eq!(*key, resource.key());
        let resource = as_sent(resource);
        survives_the_wire(&resource);
        is_filed(&resource);
    }
}

/// Why a policy cannot be read is for its author: proxies get one that denies all it applies to.
fn as_sent(resource: &Resource) -> Resource {
    let sent = |policy: &Arc<AuthorizationPolicy>| {
        let mut policy = AuthorizationPolicy::clone(policy);
        if policy.invalid.take().is_some() {
            assert_eq!(policy.rules, [PolicyRule::default()]);
            assert!(policy.action == Action::Deny && !policy.dry_run);
        }
        Arc::new(policy)
    };
    match resource {
        Resource::Policy(policy) => Resource::Policy(sent(policy)),
        Resource::HttpPolicy(policy) => Resource::HttpPolicy(sent(policy)),
        other => other.clone(),
    }
}

/// The local file in the form of `LOCAL_XDS_PATH`: what is taken can be told on the wire as well, and
/// each resource is there once.
pub fn local_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let resources = match crate::file::parse(text) {
        Ok(resources) => resources,
        Err(why) => return assert!(!why.is_empty()),
    };
    let mut builder = SnapshotBuilder::new();
    for resource in &resources {
        survives_the_wire(resource);
        is_filed(resource);
        builder.upsert(resource.clone());
    }
    assert_eq!(builder.snapshot().resources().len(), resources.len());
}
