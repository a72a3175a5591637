//! Label selectors.

use crate::objects::Objects;
use std::collections::BTreeMap;

/// Labels, as metadata holds them.
pub(super) type Labels = BTreeMap<String, String>;

/// Whether labels hold every wanted pair.
pub(super) fn matches(wanted: &Labels, labels: &Labels) -> bool {
    wanted.iter().all(|(k, v)| labels.get(k) == Some(v))
}

/// An entry of `matchExpressions`.
pub(super) struct Expression<'a> {
    pub(super) key: &'a str,
    pub(super) operator: &'a str,
    pub(super) values: &'a [String],
}

impl Expression<'_> {
    /// An unknown operator matches nothing.
    pub(super) fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(self.key);
        match self.operator {
            "In" => value.is_some_and(|v| self.values.contains(v)),
            "NotIn" => value.is_none_or(|v| !self.values.contains(v)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

/// The labels of a namespace; its name is one of them, as on Kubernetes.
pub(super) fn namespace_labels(objects: &Objects, namespace: &str) -> Labels {
    let name = mesh_model::ObjectName::new("", namespace);
    let object = objects.namespaces.get(&name);
    let mut labels = object
        .and_then(|n| n.metadata.labels.clone())
        .unwrap_or_default();
    labels
        .entry("kubernetes.io/metadata.name".into())
        .or_insert_with(|| namespace.into());
    labels
}
