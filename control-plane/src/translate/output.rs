//! What a translation gives: resources, and conditions that tell users what became of an object.

use super::gateway::Gateways;
use crate::objects::ObjectId;
use crate::published::Account;
use mesh_model::{ObjectName, Resource, ResourceKey};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// One condition, in the terms of Gateway API conditions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Condition {
    /// `Accepted`, `ResolvedRefs`, `istio.io/WaypointBound`, ...
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// Whether it holds.
    pub(crate) status: bool,
    /// One word.
    pub(crate) reason: &'static str,
    /// For people; may be empty.
    pub(crate) message: String,
    /// The parent or listener it is about, when it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) about: Option<String>,
}

impl Condition {
    pub(super) fn new(
        kind: &'static str,
        status: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            status,
            reason,
            message: message.into(),
            about: None,
        }
    }

    pub(super) fn about(mut self, about: &str) -> Self {
        self.about = Some(about.to_owned());
        self
    }
}

/// The conditions of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ObjectStatus {
    /// Which object.
    pub(crate) object: ObjectId,
    /// What holds of it.
    pub(crate) conditions: Vec<Condition>,
}

/// The result of a translation.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Translation {
    /// What is served.
    pub(crate) resources: BTreeMap<ResourceKey, Resource>,
    /// What became of the objects.
    pub(crate) status: Vec<ObjectStatus>,
    /// Who may have a Gateway's listeners.
    pub(crate) gateway_accounts: BTreeMap<ObjectName, BTreeSet<Account>>,
}

/// A translation being made.
#[derive(Default)]
pub(super) struct Output {
    resources: BTreeMap<ResourceKey, Resource>,
    status: BTreeMap<ObjectId, Vec<Condition>>,
}

impl Output {
    /// Adds a resource; false, and nothing happens, when its key is taken.
    pub(super) fn put(&mut self, resource: Resource) -> bool {
        match self.resources.entry(resource.key()) {
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(resource);
                true
            }
            std::collections::btree_map::Entry::Occupied(_) => false,
        }
    }

    /// Changes resources that are there; their keys stay.
    pub(super) fn change(&mut self, change: impl FnMut(&mut Resource)) {
        self.resources.values_mut().for_each(change);
    }

    /// Notes a condition of an object.
    pub(super) fn condition(
        &mut self,
        kind: &'static str,
        name: &ObjectName,
        condition: Condition,
    ) {
        let id = ObjectId {
            kind,
            name: name.clone(),
        };
        self.status.entry(id).or_default().push(condition);
    }

    /// Notes that all references of a route hold, unless it was noted that one does not.
    pub(super) fn references_hold(&mut self, kind: &'static str, name: &ObjectName) {
        let id = ObjectId {
            kind,
            name: name.clone(),
        };
        let conditions = self.status.entry(id).or_default();
        if !conditions.iter().any(|c| c.kind == "ResolvedRefs") {
            conditions.push(Condition::new("ResolvedRefs", true, "ResolvedRefs", ""));
        }
    }

    pub(super) fn finish(self, gateways: Gateways<'_>) -> Translation {
        Translation {
            resources: self.resources,
            status: self
                .status
                .into_iter()
                .map(|(object, conditions)| ObjectStatus { object, conditions })
                .collect(),
            gateway_accounts: gateways.into_accounts(),
        }
    }
}
