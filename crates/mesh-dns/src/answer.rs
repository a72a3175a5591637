//! What the mesh itself answers: A and AAAA of its services.
//!
//! The rules are those of Istio's ztunnel, so that a pod sees no difference (interop/migrate.md
//! section 5): a name is tried as it is, as a short name within Kubernetes' domains, and without the
//! search domain that the pod's resolver put on it; each first by itself, then by wildcards.

use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use mesh_model::{Cidr, Dice, Health, HealthPolicy, Service, Snapshot, Workload};
use std::net::IpAddr;
use std::sync::Arc;

/// How long an answer holds, seconds.
pub const TTL_S: u32 = 30;
/// Most addresses of one answer: of a headless service with more endpoints each answer has a part.
/// Keeps an answer below the 64 KiB of a message over TCP.
pub const ANSWERS_MAX: usize = 1000;

/// What is the same for every question.
#[derive(Debug, Clone)]
pub struct Zone {
    /// The cluster's domain, lower case, without dots at its ends: `cluster.local`.
    pub domain: Arc<str>,
    /// Of services of one name in several namespaces, the one preferred after the client's own
    /// (`PREFERED_SERVICE_NAMESPACE`).
    pub preferred_namespace: Option<Arc<str>>,
    /// What the pods' resolvers put behind short names.
    pub search: Search,
    /// With `false` there are no AAAA.
    pub ipv6: bool,
}

impl Zone {
    /// The zone of a cluster's domain, with Kubernetes' search domains.
    pub fn new(domain: &str) -> Self {
        Self {
            domain: domain.trim_matches('.').to_ascii_lowercase().into(),
            preferred_namespace: None,
            search: Search::Kubernetes,
            ipv6: true,
        }
    }
}

/// Search domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Search {
    /// Those that Kubernetes gives a pod: `NS.svc.DOMAIN`, `svc.DOMAIN`, `DOMAIN`.
    Kubernetes,
    /// These, lower case, without dots at their ends.
    Listed(Vec<String>),
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its network: addresses of others cannot be reached from there.
    pub network: &'a str,
}

/// What becomes of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The mesh knows nothing of it.
    Forward,
    /// The mesh answers.
    Answer(Answer),
}

/// What the mesh answers: NOERROR, and no records where the service has no address of the family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The service that was found.
    pub service: Arc<Service>,
    /// The records, in order.
    pub records: Vec<Record>,
}

/// Decides about one question. Chance decides which address comes first.
pub fn answer(
    snapshot: &Snapshot,
    zone: &Zone,
    client: Client<'_>,
    question: (&Name, RecordType, DNSClass),
    dice: &mut Dice,
) -> Decision {
    let (name, kind, class) = question;
    if class != DNSClass::IN || !matches!(kind, RecordType::A | RecordType::AAAA) {
        return Decision::Forward;
    }
    let Some(host) = host_of(name) else {
        return Decision::Forward;
    };
    let Some(found) = find(snapshot, zone, client, &host) else {
        return Decision::Forward;
    };
    let mut addresses = addresses(snapshot, zone, client, &found.service, kind);
    if let (false, Ok(count)) = (addresses.is_empty(), u64::try_from(addresses.len())) {
        let first = usize::try_from(dice.below(count)).unwrap_or(0);
        addresses.rotate_left(first);
        addresses.truncate(ANSWERS_MAX);
    }
    let records = records(name, found.stripped_labels, addresses);
    Decision::Answer(Answer {
        service: found.service,
        records,
    })
}

/// The name in lower case without the last dot; none for what no service can be called. Bytes that a
/// host name has none of, dots within a label among them, make a name foreign.
fn host_of(name: &Name) -> Option<String> {
    let mut host = String::with_capacity(name.len());
    for (n, label) in name.iter().enumerate() {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let wildcard = n == 0 && label == b"*";
        if !wildcard && !label.iter().all(plain) {
            return None;
        }
        if n > 0 {
            host.push('.');
        }
        host.extend(label.iter().map(|b| char::from(b.to_ascii_lowercase())));
    }
    (!host.is_empty()).then_some(host)
}

struct Found {
    service: Arc<Service>,
    /// The labels left of the question's name where a search domain was taken off.
    stripped_labels: Option<usize>,
}

fn find(snapshot: &Snapshot, zone: &Zone, client: Client<'_>, host: &str) -> Option<Found> {
    for alias in aliases(zone, client.namespace, host) {
        let at = |candidate: &str| best(snapshot, zone, client, candidate).cloned();
        if let Some(service) = at(&alias.host) {
            let stripped_labels = alias.stripped_labels;
            return Some(Found {
                service,
                stripped_labels,
            });
        }
        let mut rest = alias.host.as_str();
        while let Some((_, tail)) = rest.split_once('.') {
            if let Some(service) = at(&format!("*.{tail}")) {
                // The client's own name is as good an owner as any of a wildcard's.
                let stripped_labels = None;
                return Some(Found {
                    service,
                    stripped_labels,
                });
            }
            rest = tail;
        }
    }
    None
}

struct Alias {
    host: String,
    stripped_labels: Option<usize>,
}

/// The names that the host may stand for, in order, each once.
fn aliases(zone: &Zone, namespace: &str, host: &str) -> Vec<Alias> {
    let mut aliases: Vec<Alias> = Vec::new();
    let mut add = |host: String, stripped_labels| {
        if !aliases.iter().any(|a| a.host == host) {
            aliases.push(Alias {
                host,
                stripped_labels,
            });
        }
    };
    let domain = &zone.domain;
    let mut add_all = |host: &str, stripped_labels| {
        add(host.to_owned(), stripped_labels);
        for end in kubernetes_ends(host, namespace) {
            add(format!("{host}{end}.{domain}"), stripped_labels);
        }
    };
    add_all(host, None);
    let search = match &zone.search {
        Search::Listed(domains) => domains.clone(),
        Search::Kubernetes => vec![
            format!("{namespace}.svc.{domain}"),
            format!("svc.{domain}"),
            domain.to_string(),
        ],
    };
    for domain in &search {
        if let Some(stripped) = without_domain(host, domain) {
            add_all(stripped, Some(stripped.split('.').count()));
        }
    }
    aliases
}

/// What makes a short name a full one, before the cluster's domain. Services are
/// `NAME.NS.svc.DOMAIN`, pods with a subdomain `POD.NAME.NS.svc.DOMAIN`.
fn kubernetes_ends(host: &str, namespace: &str) -> Vec<String> {
    let of_namespace = || format!(".{namespace}.svc");
    match (host.split('.').count(), host.ends_with(".svc")) {
        (1, _) => vec![of_namespace()],
        (2, _) => vec![".svc".to_owned(), of_namespace()],
        (3, true) => vec![String::new(), ".svc".to_owned()],
        (3, false) => vec![".svc".to_owned()],
        (4, true) => vec![String::new()],
        _ => Vec::new(),
    }
}

fn without_domain<'h>(host: &'h str, domain: &str) -> Option<&'h str> {
    let rest = host.strip_suffix(domain)?.strip_suffix('.')?;
    (!rest.is_empty() && !domain.is_empty()).then_some(rest)
}

/// The service of a host name that the client sees: of its namespace, of the preferred one, the
/// canonical one, any.
fn best<'s>(
    snapshot: &'s Snapshot,
    zone: &Zone,
    client: Client<'_>,
    host: &str,
) -> Option<&'s Arc<Service>> {
    let rank = |service: &Service| {
        let namespace = &*service.name.namespace;
        if namespace == client.namespace {
            0
        } else if zone.preferred_namespace.as_deref() == Some(namespace) {
            1
        } else if service.canonical {
            2
        } else {
            3
        }
    };
    snapshot
        .services_of_hostname(host)
        .iter()
        .filter(|s| has_address(zone, s) && s.visible_to(client.namespace))
        .min_by_key(|s| (rank(s), s.name.namespace.clone()))
}

/// Whether its address is ours to tell. Without a virtual address only Kubernetes' headless services
/// are: an entry for an outside host is resolved outside.
fn has_address(zone: &Zone, service: &Service) -> bool {
    let of_cluster = || {
        let rest = service.name.hostname.strip_suffix(&*zone.domain);
        rest.is_some_and(|rest| rest.ends_with(".svc."))
    };
    virtual_addresses(service).next().is_some() || of_cluster()
}

/// Addresses one can connect to: a range is none.
fn virtual_addresses(service: &Service) -> impl Iterator<Item = (&str, IpAddr)> {
    service
        .vips
        .iter()
        .map(|(network, cidr)| (&**network, *cidr))
        .filter(|(_, cidr)| *cidr == Cidr::host(cidr.address()))
        .map(|(network, cidr)| (network, cidr.address()))
        .filter(|(_, address)| !address.is_unspecified())
}

fn addresses(
    snapshot: &Snapshot,
    zone: &Zone,
    client: Client<'_>,
    service: &Service,
    kind: RecordType,
) -> Vec<IpAddr> {
    let wanted = |address: &IpAddr| match kind {
        RecordType::A => address.is_ipv4(),
        _ => address.is_ipv6() && zone.ipv6,
    };
    let wanted = |address: &IpAddr| wanted(address) && service.ip_families.allows(address);
    if virtual_addresses(service).next().is_some() {
        return virtual_addresses(service)
            .filter(|(network, _)| *network == client.network)
            .map(|(_, address)| address)
            .filter(wanted)
            .collect();
    }
    let ready = |w: &Workload| {
        w.health == Health::Healthy || service.load_balancing.health == HealthPolicy::AllowAll
    };
    snapshot
        .endpoints(&service.name)
        .filter(|w| ready(w) && *w.network == *client.network)
        .filter_map(|w| w.addresses.iter().map(IpAddr::to_canonical).find(wanted))
        .collect()
}

/// The records: where a search domain was taken off, the way from the name asked for to the one
/// without it.
fn records(asked: &Name, stripped_labels: Option<usize>, addresses: Vec<IpAddr>) -> Vec<Record> {
    if addresses.is_empty() {
        return Vec::new();
    }
    let stripped = stripped_labels.and_then(|n| Name::from_labels(asked.iter().take(n)).ok());
    let mut records = Vec::with_capacity(addresses.len() + 1);
    if let Some(stripped) = &stripped {
        let way = RData::CNAME(CNAME(stripped.clone()));
        records.push(Record::from_rdata(asked.clone(), TTL_S, way));
    }
    let owner = stripped.unwrap_or_else(|| asked.clone());
    records.extend(addresses.into_iter().map(|address| {
        let data = match address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        Record::from_rdata(owner.clone(), TTL_S, data)
    }));
    records
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
