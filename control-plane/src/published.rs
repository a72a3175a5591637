//! What is served right now: encoded once, shared by every stream.

use mesh_discovery::codec;
use mesh_model::{GatewayListener, ObjectName, PolicyScope, Resource, ResourceKey};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Weak};

/// A namespace and a service account in it.
pub(crate) type Account = (Arc<str>, Arc<str>);

/// The account of the command line: it sees every Gateway's listeners, never their TLS keys.
const OPERATOR: (&str, &str) = ("strata-system", "mesh-cli");

/// A resource in the form it is sent.
#[derive(Debug)]
pub(crate) struct Served {
    /// The resource.
    pub(crate) resource: Resource,
    /// Its message.
    pub(crate) value: Vec<u8>,
    /// A hash of the message: equal content, equal version, also after a restart. Of a policy the reach
    /// follows, so that one who comes back with a version shows how far the policy applies there.
    pub(crate) version: String,
}

/// How far a policy applies without a workload that lists it: greater is further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reach(u8);

impl Reach {
    const MAX: Self = Self(2);

    /// None of what is no policy.
    fn of(resource: &Resource) -> Option<Self> {
        let (Resource::Policy(policy) | Resource::HttpPolicy(policy)) = resource else {
            return None;
        };
        Some(match policy.scope {
            PolicyScope::Global => Self::MAX,
            PolicyScope::Namespace => Self(1),
            PolicyScope::WorkloadSelector | PolicyScope::Targets => Self(0),
        })
    }

    /// From a policy's version; one that does not say might be anything.
    pub(crate) fn of_version(version: &str) -> Self {
        let said = version.rsplit_once('-').map(|(_, reach)| reach.parse());
        match said {
            Some(Ok(reach)) if reach <= Self::MAX.0 => Self(reach),
            _ => Self::MAX,
        }
    }
}

/// How many moments a stream may be behind for its difference to be looked up, not searched for.
const MOMENTS_MAX: usize = 32;

/// The resources of one type, by name.
pub(crate) type OfType = BTreeMap<String, Arc<Served>>;

/// The way from one moment to the next, for one type.
#[derive(Debug)]
struct Delta {
    /// Its address stays its own for as long as it is held here.
    from: Weak<OfType>,
    /// What is new, changed or gone.
    names: Vec<String>,
}

/// Everything served at one moment.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// By type URL. A type of which nothing has changed is shared with the moment before, so that
    /// streams can pass over it.
    pub(crate) types: BTreeMap<&'static str, Arc<OfType>>,
    /// Who may have a Gateway's listeners, with their TLS keys: the accounts its pods run as.
    pub(crate) gateway_accounts: BTreeMap<ObjectName, BTreeSet<Account>>,
    /// The way here from the moments before, by type, the oldest first.
    deltas: BTreeMap<&'static str, Vec<Arc<Delta>>>,
    /// Listeners as those may see them who may not have their TLS keys.
    keyless: OfType,
}

impl Published {
    /// Encodes what differs from before; the rest is shared with it.
    pub(crate) fn next(
        &self,
        resources: &BTreeMap<ResourceKey, Resource>,
        gateway_accounts: BTreeMap<ObjectName, BTreeSet<Account>>,
    ) -> Self {
        let mut types: BTreeMap<_, OfType> = BTreeMap::new();
        for type_url in codec::TYPES_ALL {
            types.insert(type_url, BTreeMap::new());
        }
        for (key, resource) in resources {
            let type_url = codec::type_url(key.kind);
            let before = self.types.get(type_url).and_then(|t| t.get(&*key.name));
            let served = match before {
                Some(served) if served.resource == *resource => served.clone(),
                _ => Arc::new(Served::new(resource)),
            };
            types
                .entry(type_url)
                .or_default()
                .insert(key.name.to_string(), served);
        }
        let keyless = resources
            .iter()
            .filter_map(|(key, resource)| match resource {
                Resource::Listener(listener) => {
                    let mut listener = GatewayListener::clone(listener);
                    listener.certificates.clear();
                    let served = Served::new(&Resource::Listener(Arc::new(listener)));
                    Some((key.name.to_string(), Arc::new(served)))
                }
                _ => None,
            })
            .collect();
        let mut deltas = self.deltas.clone();
        let shared = |(type_url, of_type): (&'static str, OfType)| {
            let Some(before) = self.types.get(type_url) else {
                return (type_url, Arc::new(of_type));
            };
            let names = differing(before, &of_type);
            if names.is_empty() {
                return (type_url, before.clone());
            }
            let from = Arc::downgrade(before);
            let way = deltas.entry(type_url).or_default();
            way.push(Arc::new(Delta { from, names }));
            shorten(way, of_type.len());
            (type_url, Arc::new(of_type))
        };
        Self {
            types: types.into_iter().map(shared).collect(),
            gateway_accounts,
            deltas,
            keyless,
        }
    }

    /// The names of a type that may differ from what was published at `level`, some perhaps more than
    /// once; none: any may.
    pub(crate) fn changed_since(
        &self,
        type_url: &str,
        level: &Arc<OfType>,
    ) -> Option<impl Iterator<Item = &String>> {
        let way = self.deltas.get(type_url)?;
        let is_start = |delta: &Arc<Delta>| std::ptr::eq(delta.from.as_ptr(), Arc::as_ptr(level));
        let start = way.iter().position(is_start)?;
        let rest = way.get(start..)?;
        Some(rest.iter().flat_map(|delta| &delta.names))
    }

    /// A resource in the form that a caller may have, if it may.
    pub(crate) fn visible(
        &self,
        type_url: &str,
        name: &str,
        account: &Account,
        keys_allowed: bool,
    ) -> Option<&Arc<Served>> {
        let served = self.types.get(type_url)?.get(name)?;
        match &served.resource {
            Resource::Listener(listener) => {
                self.listener(name, listener, served, account, keys_allowed)
            }
            _ => Some(served),
        }
    }

    /// A listener in the form that a caller may have, if any.
    fn listener<'a>(
        &'a self,
        name: &str,
        listener: &GatewayListener,
        served: &'a Arc<Served>,
        account: &Account,
        keys_allowed: bool,
    ) -> Option<&'a Arc<Served>> {
        let accounts = self.gateway_accounts.get(&listener.key.gateway);
        let is_own = accounts.is_some_and(|accounts| accounts.contains(account));
        if is_own && (keys_allowed || listener.certificates.is_empty()) {
            return Some(served);
        }
        let is_operator = (&*account.0, &*account.1) == OPERATOR;
        self.keyless.get(name).filter(|_| is_operator)
    }
}

/// The names under which two moments do not hold the very same resource.
fn differing(before: &OfType, now: &OfType) -> Vec<String> {
    let changed = now
        .iter()
        .filter(|(name, served)| !before.get(*name).is_some_and(|b| Arc::ptr_eq(b, served)));
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    changed.map(|(name, _)| name).chain(gone).cloned().collect()
}

/// Forgets the oldest moments past the bound, and those from which more names have changed than there
/// are: comparing all of them is no dearer.
fn shorten(way: &mut Vec<Arc<Delta>>, names_max: usize) {
    let mut names = 0;
    let kept = way.iter().rev().take(MOMENTS_MAX).take_while(|delta| {
        names += delta.names.len();
        names <= names_max
    });
    let kept = kept.count();
    way.drain(..way.len() - kept);
}

impl Served {
    fn new(resource: &Resource) -> Self {
        let value = codec::encode(resource).value;
        // The hasher may differ between builds of this program: then everything is sent once more.
        let mut hasher = DefaultHasher::new();
        hasher.write(&value);
        let mut version = format!("{:016x}", hasher.finish());
        if let Some(Reach(reach)) = Reach::of(resource) {
            version = format!("{version}-{reach}");
        }
        Self {
            resource: resource.clone(),
            version,
            value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_discovery::codec::TYPE_LISTENER;
    use mesh_model::{ListenerKey, ListenerProtocol, TlsCertificatePem};

    #[test]
    fn tls_keys_go_to_the_gateways_own_pods_over_tls_and_to_nobody_else() {
        let gateway = ObjectName::new("demo", "edge");
        let listener = Resource::Listener(Arc::new(GatewayListener {
            key: ListenerKey {
                gateway: gateway.clone(),
                name: "https".into(),
            },
            port: 443,
            protocol: ListenerProtocol::Https,
            hostname: None,
            certificates: vec![TlsCertificatePem {
                chain_pem: "chain".into(),
                key_pem: "the-key".into(),
            }],
        }));
        let own: Account = ("demo".into(), "gateway".into());
        let accounts = BTreeMap::from([(gateway, BTreeSet::from([own.clone()]))]);
        let name = listener.key().name;
        let resources = BTreeMap::from([(listener.key(), listener)]);
        let published = Published::default().next(&resources, accounts);
        let seen = |account: &Account, keys_allowed| {
            let visible = published.visible(TYPE_LISTENER, &name, account, keys_allowed);
            visible.map(|served| served.value.windows(7).any(|w| w == b"the-key"))
        };
        assert_eq!(seen(&own, true), Some(true));
        assert_eq!(seen(&own, false), None, "not without TLS");
        assert_eq!(seen(&("demo".into(), "other".into()), true), None);
        let operator = (OPERATOR.0.into(), OPERATOR.1.into());
        assert_eq!(seen(&operator, true), Some(false));
    }

    #[test]
    fn a_type_without_changes_is_shared_with_the_moment_before() {
        let service = |name: &str| {
            let name = mesh_model::ServiceName::new("demo", name);
            Resource::Service(Arc::new(mesh_model::Service::new(name, "s")))
        };
        let of = |names: &[&str]| -> BTreeMap<_, _> {
            names
                .iter()
                .map(|n| service(n))
                .map(|s| (s.key(), s))
                .collect()
        };
        let first = Published::default().next(&of(&["a", "b"]), BTreeMap::new());
        let same = first.next(&of(&["a", "b"]), BTreeMap::new());
        let other = same.next(&of(&["a", "c"]), BTreeMap::new());
        let addresses = |p: &Published| p.types[codec::TYPE_ADDRESS].clone();
        assert!(Arc::ptr_eq(&addresses(&first), &addresses(&same)));
        assert!(!Arc::ptr_eq(&addresses(&same), &addresses(&other)));
        let name = service("a").key().name.to_string();
        assert!(Arc::ptr_eq(
            &addresses(&same)[&name],
            &addresses(&other)[&name]
        ));
    }

    /// What it costs is printed, not asserted.
    #[test]
    fn of_a_hundred_thousand_workloads_one_change_is_one_name() {
        let workload = |n: u32, revision: &str| {
            let uid = format!("Kubernetes//Pod/ns-{}/pod-{n}", n % 100);
            let mut w = mesh_model::Workload::new(&uid, "ns", &format!("pod-{n}"));
            w.canonical_revision = revision.into();
            let resource = Resource::Workload(Arc::new(w));
            (resource.key(), resource)
        };
        let mut resources: BTreeMap<_, _> = (0..100_000).map(|n| workload(n, "v1")).collect();
        let began = std::time::Instant::now();
        let first = Published::default().next(&resources, BTreeMap::new());
        println!("encoded anew: {:?}", began.elapsed());
        let (key, resource) = workload(4711, "v2");
        resources.insert(key.clone(), resource);
        let began = std::time::Instant::now();
        let second = first.next(&resources, BTreeMap::new());
        println!("one of 100000 changed: {:?}", began.elapsed());
        let changed = |now: &Published, level: &Published| {
            let names = now.changed_since(codec::TYPE_ADDRESS, &level.types[codec::TYPE_ADDRESS]);
            names.map(|names| names.cloned().collect::<Vec<_>>())
        };
        assert_eq!(changed(&second, &first), Some(vec![key.name.to_string()]));
        assert_eq!(changed(&second, &second), None);
        resources.remove(&key);
        let third = second.next(&resources, BTreeMap::new());
        let twice = vec![key.name.to_string(); 2];
        assert_eq!(changed(&third, &first), Some(twice), "two moments behind");
    }

    #[test]
    fn what_is_kept_of_the_past_is_bounded() {
        let workload = |n: usize, revision: usize| {
            let mut w = mesh_model::Workload::new(&n.to_string(), "ns", "pod");
            w.canonical_revision = revision.to_string().into();
            let resource = Resource::Workload(Arc::new(w));
            (resource.key(), resource)
        };
        let all = |revision| {
            (0..100)
                .map(|n| workload(n, revision))
                .collect::<BTreeMap<_, _>>()
        };
        let way = |published: &Published| published.deltas[codec::TYPE_ADDRESS].len();
        let mut resources = all(0);
        let mut now = Published::default().next(&resources, BTreeMap::new());
        for revision in 1..=2 * MOMENTS_MAX {
            resources.extend([workload(7, revision)]);
            now = now.next(&resources, BTreeMap::new());
            assert_eq!(way(&now), revision.min(MOMENTS_MAX));
        }
        now = now.next(&all(MOMENTS_MAX * 3), BTreeMap::new());
        assert_eq!(way(&now), 1, "as many names as there are");
    }
}
