//! What is served right now: encoded once, shared by every stream.

use mesh_discovery::codec;
use mesh_model::{GatewayListener, ObjectName, Resource, ResourceKey};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

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
    /// A hash of the message: equal content, equal version, also after a restart.
    pub(crate) version: String,
}

/// The resources of one type, by name.
pub(crate) type OfType = BTreeMap<String, Arc<Served>>;

/// Everything served at one moment.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// By type URL. A type of which nothing has changed is shared with the moment before, so that
    /// streams can pass over it.
    pub(crate) types: BTreeMap<&'static str, Arc<OfType>>,
    /// Who may have a Gateway's listeners, with their TLS keys: the accounts its pods run as.
    pub(crate) gateway_accounts: BTreeMap<ObjectName, BTreeSet<Account>>,
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
        let shared = |(type_url, of_type): (&'static str, OfType)| {
            let before = self.types.get(type_url);
            let same = before.filter(|before| same(before, &of_type)).cloned();
            (type_url, same.unwrap_or_else(|| Arc::new(of_type)))
        };
        Self {
            types: types.into_iter().map(shared).collect(),
            gateway_accounts,
            keyless,
        }
    }

    /// The resources of a type that a caller may have.
    pub(crate) fn visible<'a>(
        &'a self,
        type_url: &str,
        account: &'a Account,
        keys_allowed: bool,
    ) -> impl Iterator<Item = (&'a String, &'a Arc<Served>)> {
        self.types
            .get(type_url)
            .into_iter()
            .flat_map(|of_type| of_type.iter())
            .filter_map(move |(name, served)| match &served.resource {
                Resource::Listener(listener) => self
                    .listener(name, listener, served, account, keys_allowed)
                    .map(|served| (name, served)),
                _ => Some((name, served)),
            })
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

/// Whether two moments hold the very same resources of a type.
fn same(before: &OfType, now: &OfType) -> bool {
    before.len() == now.len()
        && before
            .iter()
            .zip(now)
            .all(|((a, x), (b, y))| a == b && Arc::ptr_eq(x, y))
}

impl Served {
    fn new(resource: &Resource) -> Self {
        let value = codec::encode(resource).value;
        // The hasher may differ between builds of this program: then everything is sent once more.
        let mut hasher = DefaultHasher::new();
        hasher.write(&value);
        Self {
            resource: resource.clone(),
            version: format!("{:016x}", hasher.finish()),
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
        let resources = BTreeMap::from([(listener.key(), listener)]);
        let published = Published::default().next(&resources, accounts);
        let seen = |account: &Account, keys_allowed| {
            let mut visible = published.visible(TYPE_LISTENER, account, keys_allowed);
            let holds_key = |served: &Arc<Served>| served.value.windows(7).any(|w| w == b"the-key");
            visible.next().map(|(_, served)| holds_key(served))
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
}
