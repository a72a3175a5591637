//! What is held of each type: names, versions, and which types have been answered.

use crate::codec;
use crate::hub::Hub;
use mesh_model::{PolicyCompatibility, Resource, ResourceKey};
use mesh_proto::discovery::Resource as WireResource;
use std::collections::{BTreeMap, BTreeSet};

/// The longest error text of one resource that goes into a refusal, in bytes.
const ERROR_BYTES_MAX: usize = 512;

struct Entry {
    /// Empty when the newest version of it was refused: no control plane has that version, so at a
    /// reconnect it is sent again, or said to be removed.
    version: String,
    key: ResourceKey,
}

/// What is held.
pub(super) struct Held {
    kinds: Vec<&'static str>,
    entries: BTreeMap<&'static str, BTreeMap<String, Entry>>,
    unanswered: BTreeSet<&'static str>,
    complete: bool,
}

impl Held {
    pub(super) fn new(kinds: Vec<&'static str>) -> Self {
        Self {
            entries: kinds.iter().map(|k| (*k, BTreeMap::new())).collect(),
            unanswered: kinds.iter().copied().collect(),
            kinds,
            complete: false,
        }
    }

    /// The types subscribed to, in the order they are asked for.
    pub(super) fn kinds(&self) -> impl Iterator<Item = &'static str> {
        self.kinds.iter().copied()
    }

    /// Whether the type is one of those subscribed to.
    pub(super) fn knows(&self, type_url: &str) -> bool {
        self.entries.contains_key(type_url)
    }

    /// The versions to tell at a reconnect: of everything held, as what is not told is never said to
    /// be removed.
    pub(super) fn versions(&self, type_url: &str) -> BTreeMap<String, String> {
        let entries = self.entries.get(type_url).into_iter().flatten();
        entries
            .map(|(name, entry)| (name.clone(), entry.version.clone()))
            .collect()
    }

    /// Notes an answer for the type; true exactly once, when the last type got its first.
    pub(super) fn answered(&mut self, type_url: &str) -> bool {
        self.unanswered.remove(type_url);
        let now = self.unanswered.is_empty() && !self.complete;
        self.complete |= now;
        now
    }

    /// Takes in one resource. A refused one leaves the old version of it in place; a refused
    /// policy without an old version is stood in for by one that denies, unless policies are to be
    /// read as Istio's ztunnel reads them.
    pub(super) fn apply(
        &mut self,
        hub: &mut Hub,
        type_url: &str,
        wire: WireResource,
    ) -> Result<(), String> {
        let Some(entries) = self.entries.get_mut(type_url) else {
            return Ok(());
        };
        let WireResource {
            name,
            version,
            resource,
            ..
        } = wire;
        let any = resource.unwrap_or_default();
        // The payload's own type decides, should it differ from the response's.
        let payload_type = if any.type_url.is_empty() {
            type_url
        } else {
            &any.type_url
        };
        match codec::decode(payload_type, &name, &any.value) {
            Ok(resource) => {
                hub.clear_rejection(type_url, &name);
                put(entries, hub, name, version, resource);
                Ok(())
            }
            Err(error) => {
                let why: String = error.to_string().chars().take(ERROR_BYTES_MAX).collect();
                hub.reject(type_url, &name, why.clone());
                let lenient = hub.compatibility() == PolicyCompatibility::Istio;
                if lenient
                    && let Some(read) =
                        codec::decode_leniently(payload_type, &name, &any.value, &why)
                {
                    tracing::warn!(type_url, why, "entries of a policy are left out");
                    put(entries, hub, name, version, read);
                    return Ok(());
                }
                if let Some(old) = entries.get_mut(&name) {
                    old.version.clear();
                } else if !lenient
                    && let Some(stand_in) = codec::unreadable(type_url, &name, &any.value, &why)
                {
                    put(entries, hub, name, String::new(), stand_in);
                }
                Err(why)
            }
        }
    }

    /// Forgets a resource the control plane no longer has.
    pub(super) fn forget(&mut self, hub: &mut Hub, type_url: &str, name: &str) {
        hub.clear_rejection(type_url, name);
        let entries = self.entries.get_mut(type_url);
        if let Some(entry) = entries.and_then(|e| e.remove(name)) {
            hub.remove(&entry.key);
        }
    }
}

fn put(
    entries: &mut BTreeMap<String, Entry>,
    hub: &mut Hub,
    name: String,
    version: String,
    resource: Resource,
) {
    let key = resource.key();
    if let Some(old) = entries.get(&name).filter(|old| old.key != key) {
        hub.remove(&old.key);
    }
    hub.upsert(resource);
    entries.insert(name, Entry { version, key });
}
