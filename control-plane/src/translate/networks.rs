//! Networks: which one a workload is on, and the gateways that lead to each (interop/waypoint.md
//! section 5, interop/xds-workload.md section 8).
//!
//! A Gateway of class `strata-east-west` with label `topology.istio.io/network` is the gateway of that
//! network. It is reached at `spec.addresses`, where given (that is how one which runs elsewhere is
//! described), else through the Service of its name, else at its pod.

use super::output::{Condition, Output};
use super::{CLASS_EAST_WEST, LABEL_GATEWAY_NAME, Mesh, pod};
use crate::objects::{Objects, annotation, label};
use gateway_api::gateways::Gateway;
use mesh_model::{
    Cidr, GatewayAddress, GatewayDestination, NetworkAddress, ObjectName, PORT_HBONE, Resource,
    ServiceName, SpiffeId, TunnelProtocol, Workload,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// On pods and Gateways, and on the mesh's root namespace for all that say nothing.
const LABEL_NETWORK: &str = "topology.istio.io/network";
/// On a Gateway with `spec.addresses`: the account it runs as, when not its name.
const ANNOTATION_ACCOUNT: &str = "gateway.istio.io/service-account";
const KIND: &str = "Gateway";

/// The network of what says nothing: as the root namespace is labelled, else as the setting says.
pub(super) fn own(objects: &Objects, mesh: &Mesh) -> Arc<str> {
    let root = ObjectName::new("", &*mesh.root_namespace);
    let root = objects.namespaces.get(&root);
    let said = root.and_then(|n| label(&n.metadata, LABEL_NETWORK));
    said.map_or_else(|| mesh.network.clone(), Arc::from)
}

/// The network of a pod.
pub(super) fn of_pod(mesh: &Mesh, labels: &BTreeMap<String, String>) -> Arc<str> {
    let said = labels.get(LABEL_NETWORK);
    said.map_or_else(|| mesh.network.clone(), |n| n.as_str().into())
}

/// Tells workloads the gateway of their network, and services their addresses on each, and who answers
/// for them behind a gateway.
pub(super) fn translate(objects: &Objects, mesh: &Mesh, out: &mut Output) {
    let mut gateways: BTreeMap<Arc<str>, GatewayAddress> = BTreeMap::new();
    let mut names = BTreeSet::new();
    let ours = |g: &Gateway| g.spec.gateway_class_name == CLASS_EAST_WEST;
    for (name, gateway) in objects.gateways.iter().filter(|(_, g)| ours(g)) {
        names.insert(name.clone());
        let condition = match found(objects, mesh, name, gateway) {
            Ok(found) if gateways.contains_key(&found.network) => {
                let message = format!("network {} has another gateway", found.network);
                Condition::new("Accepted", false, "Conflicted", message)
            }
            Ok(found) => {
                if let Some(workload) = found.workload {
                    out.put(Resource::Workload(Arc::new(workload)));
                }
                gateways.insert(found.network, found.address);
                Condition::new("Accepted", true, "Accepted", "")
            }
            Err((reason, message)) => Condition::new("Accepted", false, reason, message),
        };
        out.condition(KIND, name, condition);
    }
    let pods = objects.pods.values();
    let said = pods.filter_map(|p| label(&p.metadata, LABEL_NETWORK).map(Arc::from));
    let networks: BTreeSet<Arc<str>> = said.chain(gateways.keys().cloned()).collect();
    if networks.iter().all(|network| *network == mesh.network) && names.is_empty() {
        return;
    }
    let own_pods = own_pods(objects, mesh, &names);
    let services: BTreeSet<_> = names
        .iter()
        .map(|name| mesh.service_name(&name.namespace, &name.name))
        .collect();
    out.change(|resource| match resource {
        Resource::Workload(w) if own_pods.contains(&*w.uid.0) => {
            // A gateway is reached without one, and has no waypoint.
            Arc::make_mut(w).waypoint = None;
        }
        Resource::Workload(w) => {
            let at = gateways.get(&w.network).filter(|at| !is_it(at, w));
            if at.is_some() {
                Arc::make_mut(w).network_gateway = at.cloned();
            }
        }
        Resource::Service(s) => {
            let service = Arc::make_mut(s);
            if services.contains(&service.name) {
                (service.waypoint, service.weighted_waypoints) = (None, Vec::new());
            }
            let own: Vec<Cidr> = service.vips.iter().map(|(_, vip)| *vip).collect();
            for network in networks.iter().filter(|n| **n != mesh.network) {
                service
                    .vips
                    .extend(own.iter().map(|vip| (network.clone(), *vip)));
            }
        }
        _ => {}
    });
    vouch(out);
}

/// The pods of these Gateways.
fn own_pods(objects: &Objects, mesh: &Mesh, names: &BTreeSet<ObjectName>) -> BTreeSet<String> {
    objects
        .pods
        .iter()
        .filter(|(pod, object)| {
            let of = label(&object.metadata, LABEL_GATEWAY_NAME);
            of.is_some_and(|of| names.contains(&ObjectName::new(pod.namespace.clone(), of)))
        })
        .map(|(pod, _)| format!("{}//Pod/{}/{}", mesh.cluster, pod.namespace, pod.name))
        .collect()
}

/// Adds to each service the identities of its endpoints behind network gateways. Who comes through one
/// cannot tell which endpoint it got, and Istio's ztunnel goes by what the service vouches for, alone
/// (interop/hbone.md, "Double HBONE"). A workload without an address stands for others.
fn vouch(out: &mut Output) {
    let mut behind: BTreeMap<ServiceName, BTreeSet<SpiffeId>> = BTreeMap::new();
    out.change(|resource| {
        if let Resource::Workload(w) = resource
            && w.network_gateway.is_some()
            && !w.addresses.is_empty()
            && let Some(identity) = w.identity()
        {
            for service in w.services.keys() {
                let known = behind.entry(service.clone()).or_default();
                known.insert(identity.clone());
            }
        }
    });
    out.change(|resource| {
        if let Resource::Service(s) = resource
            && let Some(known) = behind.remove(&s.name)
        {
            let vouched = &mut Arc::make_mut(s).subject_alt_names;
            let new = known.into_iter().filter(|id| !vouched.contains(id));
            let new: Vec<SpiffeId> = new.collect();
            vouched.extend(new);
        }
    });
}

fn is_it(at: &GatewayAddress, w: &Workload) -> bool {
    match &at.destination {
        GatewayDestination::Address(at) => w.addresses.contains(&at.address),
        GatewayDestination::Hostname(name) => w.services.contains_key(name),
    }
}

struct Found {
    network: Arc<str>,
    address: GatewayAddress,
    /// Who is there, where no pod tells it.
    workload: Option<Workload>,
}

fn found(
    objects: &Objects,
    mesh: &Mesh,
    name: &ObjectName,
    gateway: &Gateway,
) -> Result<Found, (&'static str, String)> {
    let network: Arc<str> = label(&gateway.metadata, LABEL_NETWORK)
        .filter(|n| !n.is_empty())
        .ok_or_else(|| ("Invalid", format!("label {LABEL_NETWORK} is needed")))?
        .into();
    let listener = gateway
        .spec
        .listeners
        .iter()
        .find(|l| l.protocol == "HBONE");
    let listener = listener.ok_or_else(|| {
        (
            "UnsupportedProtocol",
            "no listener has protocol HBONE".to_owned(),
        )
    })?;
    let port = u16::try_from(listener.port).ok().filter(|p| *p != 0);
    let hbone_port = port.unwrap_or(PORT_HBONE);
    let given = gateway.spec.addresses.iter().flatten();
    let mut given = given.filter_map(|a| a.value.as_deref()?.parse::<IpAddr>().ok());
    if let Some(ip) = given.next() {
        let at = NetworkAddress {
            network: network.clone(),
            address: ip.to_canonical(),
        };
        return Ok(Found {
            workload: Some(described(mesh, name, gateway, &at, hbone_port)),
            address: GatewayAddress {
                destination: GatewayDestination::Address(at),
                hbone_port,
            },
            network,
        });
    }
    let service = objects.services.get(name).and_then(|s| s.spec.as_ref());
    let mut ports = service.into_iter().flat_map(|s| s.ports.iter().flatten());
    let destination = if ports.any(|p| p.port == i32::from(hbone_port)) {
        GatewayDestination::Hostname(mesh.service_name(&name.namespace, &name.name))
    } else {
        let address = instance(objects, name).ok_or_else(|| {
            let message = "neither spec.addresses nor a Service nor a pod tells where it is";
            ("AddressNotAssigned", message.to_owned())
        })?;
        GatewayDestination::Address(NetworkAddress {
            network: network.clone(),
            address,
        })
    };
    Ok(Found {
        network,
        address: GatewayAddress {
            destination,
            hbone_port,
        },
        workload: None,
    })
}

/// The first pod of a Gateway.
fn instance(objects: &Objects, name: &ObjectName) -> Option<IpAddr> {
    objects.pods.iter().find_map(|(pod, object)| {
        let serves = label(&object.metadata, LABEL_GATEWAY_NAME) == Some(&*name.name);
        (serves && pod.namespace == name.namespace)
            .then(|| pod::addresses(object).first().copied())
            .flatten()
    })
}

/// The workload at an address that was given.
fn described(
    mesh: &Mesh,
    name: &ObjectName,
    gateway: &Gateway,
    at: &NetworkAddress,
    port: u16,
) -> Workload {
    let uid = format!("NetworkGateway/{}/{}/{port}", at.network, at.address);
    let mut w = Workload::new(&uid, &name.namespace, &name.name);
    w.addresses = vec![at.address];
    w.network = at.network.clone();
    w.cluster = mesh.cluster.clone();
    w.trust_domain = mesh.trust_domain.clone();
    w.protocol = TunnelProtocol::Hbone;
    w.native_tunnel = true;
    w.service_account = annotation(&gateway.metadata, ANNOTATION_ACCOUNT)
        .unwrap_or(&name.name)
        .into();
    w
}
