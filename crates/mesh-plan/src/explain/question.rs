//! Understanding the question: names to workloads, gateways and addresses.

use super::ExplainRequest;
use crate::{Client, Refusal};
use mesh_model::{ObjectName, Reason, Service, Snapshot, Workload};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Who asks.
#[derive(Debug)]
pub(super) enum Source {
    /// A pod.
    Pod(Arc<Workload>),
    /// An internet client of a gateway, at one of its listeners.
    Gateway(ObjectName, Option<String>),
}

/// What is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    /// The address connected to.
    pub(super) address: SocketAddr,
    /// The service meant, when one is.
    pub(super) service: Option<Arc<Service>>,
    /// The name by which an HTTP request would ask.
    pub(super) host: String,
}

/// Reads who asks.
pub(super) fn source(snapshot: &Snapshot, from: &str) -> Result<Source, Refusal> {
    let unreadable = || {
        let detail = format!(
            "'{from}' is neither a pod 'namespace/name', nor 'gateway:namespace/name[/listener]', \
             nor an IP address"
        );
        Refusal::new(Reason::BadRequest, detail)
    };
    if let Some(gateway) = from.strip_prefix("gateway:") {
        return match gateway.split('/').collect::<Vec<_>>().as_slice() {
            [namespace, name] => Ok(Source::Gateway(ObjectName::new(*namespace, *name), None)),
            [namespace, name, listener] => {
                let gateway = ObjectName::new(*namespace, *name);
                Ok(Source::Gateway(gateway, Some((*listener).to_owned())))
            }
            _ => Err(unreadable()),
        };
    }
    if let Ok(ip) = from.parse::<IpAddr>() {
        let known = snapshot.workload_at("", ip).cloned();
        return Ok(Source::Pod(known.unwrap_or_else(|| outside(ip))));
    }
    let name: ObjectName = from.parse().map_err(|_| unreadable())?;
    pod(snapshot, &name)
        .map(Source::Pod)
        .ok_or_else(|| Refusal::new(Reason::UnknownWorkload, format!("no pod {name} is known")))
}

/// A client that the mesh does not know: it has no proxy and can prove no identity.
fn outside(ip: IpAddr) -> Arc<Workload> {
    let mut client = Workload::new("", "outside", &ip.to_string());
    client.addresses = vec![ip];
    client.trust_domain = "".into();
    Arc::new(client)
}

/// A pod by its name, or the first of those of its owner (a Deployment).
fn pod(snapshot: &Snapshot, name: &ObjectName) -> Option<Arc<Workload>> {
    let exact = snapshot.workload_named("", &name.namespace, &name.name);
    let owned = || {
        let of_owner =
            |w: &&Arc<Workload>| w.namespace == name.namespace && *w.workload_name == *name.name;
        snapshot
            .workloads()
            .filter(of_owner)
            .min_by(|a, b| a.uid.cmp(&b.uid))
    };
    exact.or_else(owned).cloned()
}

/// Reads what is asked for, as the client resolves it.
pub(super) fn asked(
    snapshot: &Snapshot,
    client: &Client,
    request: &ExplainRequest,
) -> Result<Asked, Refusal> {
    let to = request.to.as_str();
    let bare = to.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(Asked {
            address: SocketAddr::new(ip, request.port),
            service: snapshot
                .service_at(&client.network, ip, &client.namespace)
                .cloned(),
            host: to.to_owned(),
        });
    }
    if let Some(service) = service(snapshot, client, to) {
        let ip = service
            .vip(&client.network)
            .or_else(|| headless(snapshot, &service));
        let ip = ip.ok_or_else(|| {
            let detail = format!("service {} has no address and no endpoint", service.name);
            Refusal::new(Reason::NoEndpoint, detail)
        })?;
        return Ok(Asked {
            address: SocketAddr::new(ip, request.port),
            host: service.name.hostname.to_string(),
            service: Some(service),
        });
    }
    let pod = to
        .parse::<ObjectName>()
        .ok()
        .and_then(|name| pod(snapshot, &name));
    match pod.and_then(|w| w.address()) {
        Some(ip) => Ok(Asked {
            address: SocketAddr::new(ip, request.port),
            service: None,
            host: ip.to_string(),
        }),
        None => Err(unknown(to)),
    }
}

/// A name nobody knows: what DNS answers outside the mesh is not known here.
fn unknown(to: &str) -> Refusal {
    let detail = format!("'{to}' is no address, service, host name or pod that the mesh knows");
    Refusal::new(Reason::WrongDestination, detail)
}

/// A service by `namespace/name` (short or host name), by host name, or by the head of one as DNS search
/// lists complete it: `shop` in the client's namespace, `shop.demo` anywhere.
pub(super) fn service(snapshot: &Snapshot, client: &Client, to: &str) -> Option<Arc<Service>> {
    if let Some((namespace, name)) = to.split_once('/') {
        let named = |s: &&Arc<Service>| {
            *s.name.namespace == *namespace
                && (*s.short_name == *name || s.name.hostname.eq_ignore_ascii_case(name))
        };
        return first(snapshot.services().filter(named));
    }
    if let Some(service) = snapshot.service_by_hostname(to, &client.namespace) {
        return Some(service.clone());
    }
    let to = to.to_ascii_lowercase();
    let completed = |s: &&Arc<Service>| {
        s.name
            .hostname
            .strip_prefix(to.as_str())
            .is_some_and(|rest| rest.starts_with('.'))
            && (to.contains('.') || s.name.namespace == client.namespace)
    };
    first(snapshot.services().filter(completed))
}

fn first<'a>(services: impl Iterator<Item = &'a Arc<Service>>) -> Option<Arc<Service>> {
    services.min_by(|a, b| a.name.cmp(&b.name)).cloned()
}

/// The name of a headless service resolves to the addresses of its endpoints.
fn headless(snapshot: &Snapshot, service: &Service) -> Option<IpAddr> {
    snapshot.endpoints(&service.name).find_map(|w| w.address())
}
