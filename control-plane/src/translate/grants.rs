//! ReferenceGrant: who may refer across namespaces.

use crate::objects::Objects;

/// A reference that may cross namespaces.
pub(super) struct Reference<'a> {
    /// Kind of the referring object; its group is always Gateway API's.
    pub(super) from_kind: &'a str,
    pub(super) from_namespace: &'a str,
    pub(super) to_group: &'a str,
    pub(super) to_kind: &'a str,
    pub(super) to_namespace: &'a str,
    pub(super) to_name: &'a str,
}

/// Whether a reference is within one namespace or granted by the other.
pub(super) fn permitted(objects: &Objects, r: &Reference<'_>) -> bool {
    if r.from_namespace == r.to_namespace {
        return true;
    }
    let grants = objects
        .reference_grants
        .iter()
        .filter(|(name, _)| &*name.namespace == r.to_namespace);
    grants.into_iter().any(|(_, grant)| {
        let from = grant.spec.from.iter().any(|f| {
            f.group == "gateway.networking.k8s.io"
                && f.kind == r.from_kind
                && f.namespace == r.from_namespace
        });
        let to = grant.spec.to.iter().any(|t| {
            let name = t.name.as_deref().unwrap_or_default();
            t.group == r.to_group && t.kind == r.to_kind && (name.is_empty() || name == r.to_name)
        });
        from && to
    })
}
