//! What a peer has of one type, and the difference to what is published. No I/O.

use crate::published::{OfType, Published, Reach, Served};
use mesh_discovery::codec::{TYPE_AUTHORIZATION, TYPE_HTTP_POLICY, TYPE_LISTENER};
use mesh_proto::discovery::Resource as WireResource;
use prost_types::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Which part of a difference is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// New and changed resources, but policies that come to apply to less.
    Changed,
    /// Those and removals too.
    All,
}

/// What is to be sent.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// New and changed.
    pub(super) resources: Vec<WireResource>,
    /// Names of what is gone.
    pub(super) removed: Vec<String>,
}

/// What a peer has of one type: what was published when all of it had been sent, which costs a stream
/// nothing, and what it has beside or in place of that.
#[derive(Debug)]
pub(super) struct Subscription {
    /// What was published when all of it had been sent. Not for listeners, of which each peer may
    /// see others.
    level: Option<Arc<OfType>>,
    /// Versions, by name.
    beside: BTreeMap<String, String>,
}

impl Subscription {
    /// Of a peer that says it has these versions, by name.
    pub(super) const fn new(beside: BTreeMap<String, String>) -> Self {
        let level = None;
        Self { level, beside }
    }

    /// This part of what differs between what the peer has and what it may have now; from here on it
    /// has that. `visible` is the form in which it may have the resource of a name.
    pub(super) fn difference<'a>(
        &mut self,
        published: &'a Published,
        type_url: &str,
        part: Part,
        visible: impl Fn(&str) -> Option<&'a Arc<Served>>,
    ) -> Difference {
        let mut difference = Difference::default();
        let Some(now) = published.types.get(type_url) else {
            return difference;
        };
        if self.level.as_ref().is_some_and(|l| Arc::ptr_eq(l, now)) {
            return difference;
        }
        // Who may have a listener depends on more than the listeners.
        let levels = part == Part::All && type_url != TYPE_LISTENER;
        for name in self.names(published, type_url, now) {
            match (visible(&name), part) {
                (Some(served), Part::Changed) if self.narrows(type_url, &name, served) => {}
                (Some(served), _) if self.version(&name) != Some(&served.version) => {
                    difference.resources.push(wire(type_url, &name, served));
                    if !levels {
                        self.beside.insert(name, served.version.clone());
                    }
                }
                (None, Part::All) if self.version(&name).is_some() => {
                    self.beside.remove(&name);
                    difference.removed.push(name);
                }
                _ => {}
            }
        }
        if levels {
            self.beside = BTreeMap::new();
            self.level = Some(now.clone());
        }
        difference
    }

    fn version(&self, name: &str) -> Option<&str> {
        let beside = self.beside.get(name).map(String::as_str);
        beside.or_else(|| Some(self.level.as_ref()?.get(name)?.version.as_str()))
    }

    /// The names to look at for a difference to what is published now.
    fn names(&self, published: &Published, type_url: &str, now: &OfType) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = self.beside.keys().cloned().collect();
        let level = self.level.as_ref();
        match level.and_then(|level| published.changed_since(type_url, level)) {
            Some(changed) => names.extend(changed.cloned()),
            None => {
                names.extend(now.keys().cloned());
                names.extend(level.into_iter().flat_map(|l| l.keys()).cloned());
            }
        }
        names
    }

    /// Whether a policy would come to apply to fewer workloads of its own accord. The workloads that
    /// shall list it must have been told so before, or it would apply to none for a while.
    fn narrows(&self, type_url: &str, name: &str, now: &Served) -> bool {
        let reach = Reach::of_version;
        let held = self.version(name).filter(|_| is_policy(type_url));
        held.is_some_and(|held| reach(held) > reach(&now.version))
    }
}

/// Whether resources of a type are policies.
pub(super) fn is_policy(type_url: &str) -> bool {
    type_url == TYPE_AUTHORIZATION || type_url == TYPE_HTTP_POLICY
}

fn wire(type_url: &str, name: &str, served: &Served) -> WireResource {
    WireResource {
        name: name.into(),
        version: served.version.clone(),
        resource: Some(Any {
            type_url: type_url.into(),
            value: served.value.clone(),
        }),
        ..WireResource::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::{Action, AuthorizationPolicy, ObjectName, PolicyScope, Resource, ResourceKey};
    use proptest::prelude::*;

    const SCOPES: [PolicyScope; 3] = [
        PolicyScope::WorkloadSelector,
        PolicyScope::Namespace,
        PolicyScope::Global,
    ];

    /// Policies of these scopes; past the last one: there is none of that number.
    fn policies(scopes: &[usize]) -> BTreeMap<ResourceKey, Resource> {
        let numbered = scopes.iter().enumerate();
        numbered
            .filter_map(|(n, scope)| {
                let resource = Resource::Policy(Arc::new(AuthorizationPolicy {
                    name: ObjectName::new("demo", n.to_string()),
                    scope: *SCOPES.get(*scope)?,
                    targets: Vec::new(),
                    action: Action::Deny,
                    rules: Vec::new(),
                    dry_run: false,
                    invalid: None,
                    http_dropped: false,
                }));
                Some((resource.key(), resource))
            })
            .collect()
    }

    /// What a peer has, by name.
    type Held = BTreeMap<String, WireResource>;

    fn take(held: &mut Held, difference: Difference) {
        for resource in difference.resources {
            let name = resource.name.clone();
            assert_ne!(held.insert(name, resource.clone()), Some(resource), "again");
        }
        for name in difference.removed {
            assert!(held.remove(&name).is_some(), "{name} was not there");
        }
    }

    fn all(published: &Published) -> Held {
        let of_type = &published.types[TYPE_AUTHORIZATION];
        let wired = of_type
            .iter()
            .map(|(n, s)| (n, wire(TYPE_AUTHORIZATION, n, s)));
        wired
            .map(|(name, resource)| (name.clone(), resource))
            .collect()
    }

    fn step(subscription: &mut Subscription, now: &Published, part: Part) -> Difference {
        let visible = |name: &str| now.types[TYPE_AUTHORIZATION].get(name);
        subscription.difference(now, TYPE_AUTHORIZATION, part, visible)
    }

    proptest! {
        /// Whatever was published in between and however many moments the stream is behind: nothing is
        /// sent twice, in the end the peer has what is published, and before the last part no policy
        /// applies to less than it did.
        #[test]
        fn a_peer_comes_to_have_what_is_published(
            moments in proptest::collection::vec(
                (proptest::collection::vec(0_usize..4, 6), any::<bool>(), any::<bool>()), 1..80
            )
        ) {
            let mut now = Published::default().next(&policies(&[0; 6]), BTreeMap::new());
            let mut held = Held::new();
            let mut subscription = Subscription::new(BTreeMap::new());
            for (scopes, served, again) in &moments {
                now = now.next(&policies(scopes), BTreeMap::new());
                if !served {
                    continue;
                }
                if *again {
                    let versions = held.iter().map(|(n, r)| (n.clone(), r.version.clone()));
                    subscription = Subscription::new(versions.collect());
                }
                let first = step(&mut subscription, &now, Part::Changed);
                prop_assert!(first.removed.is_empty());
                for resource in &first.resources {
                    let old = held.get(&resource.name);
                    let reach = |r: &WireResource| Reach::of_version(&r.version);
                    prop_assert!(old.is_none_or(|old| reach(old) <= reach(resource)));
                }
                take(&mut held, first);
                take(&mut held, step(&mut subscription, &now, Part::All));
                prop_assert_eq!(&held, &all(&now));
            }
        }
    }
}
