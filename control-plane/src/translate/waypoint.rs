//! Waypoints: which there are, and which object is bound to which (interop/waypoint.md section 1).

use super::output::Condition;
use super::selector::{Expression, matches, namespace_labels};
use super::{CLASS_WAYPOINT, LABEL_GATEWAY_NAME, Mesh};
use crate::objects::{Objects, annotation, label};
use gateway_api::gateways::{
    Gateway, GatewayListenersAllowedRoutesNamespaces, GatewayListenersAllowedRoutesNamespacesFrom,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_model::{
    GatewayAddress, GatewayDestination, NetworkAddress, ObjectName, PORT_HBONE, WeightedWaypoint,
};
use std::collections::BTreeMap;

const LABEL_USE: &str = "istio.io/use-waypoint";
const LABEL_USE_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
const LABEL_CANARY: &str = "istio.io/use-waypoint-canary";
const LABEL_CANARY_NAMESPACE: &str = "istio.io/use-waypoint-canary-namespace";
const ANNOTATION_CANARY_WEIGHT: &str = "istio.io/use-waypoint-canary-weight";
/// The weights of the two waypoints add up to this.
const WEIGHT_WHOLE: u32 = 100;
const LABEL_FOR: &str = "istio.io/waypoint-for";
const LABEL_INGRESS: &str = "istio.io/ingress-use-waypoint";
const CONDITION: &str = "istio.io/WaypointBound";

/// What is asking for a waypoint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    Service,
    Workload,
}

struct Waypoint<'a> {
    gateway: &'a Gateway,
    address: Option<GatewayAddress>,
    for_services: bool,
    for_workloads: bool,
}

/// The waypoints of the mesh.
pub(super) struct Waypoints<'a> {
    objects: &'a Objects,
    mesh: &'a Mesh,
    by_name: BTreeMap<ObjectName, Waypoint<'a>>,
}

impl<'a> Waypoints<'a> {
    pub(super) fn new(objects: &'a Objects, mesh: &'a Mesh) -> Self {
        let of_class = |g: &Gateway| g.spec.gateway_class_name == CLASS_WAYPOINT;
        let gateways = objects.gateways.iter().filter(|(_, g)| of_class(g));
        let by_name = gateways.map(|(name, gateway)| {
            let serves = label(&gateway.metadata, LABEL_FOR).unwrap_or("service");
            let waypoint = Waypoint {
                gateway,
                address: address(objects, mesh, name),
                for_services: matches!(serves, "service" | "all"),
                for_workloads: matches!(serves, "workload" | "all"),
            };
            (name.clone(), waypoint)
        });
        Self {
            objects,
            mesh,
            by_name: by_name.collect(),
        }
    }

    /// Whether a Gateway is a waypoint: neither its pods nor its Service have one themselves.
    pub(super) fn is_waypoint(&self, namespace: &str, name: &str) -> bool {
        self.by_name.contains_key(&ObjectName::new(namespace, name))
    }

    /// The waypoint of an object, and the condition that says so. `None, None`: it asks for none.
    ///
    /// An object that asks for a waypoint which is missing, not ready or closed to it is bound all the
    /// same, to a name that leads nowhere: its traffic fails until the waypoint is there. Going direct
    /// would pass by the policies that the waypoint enforces (docs/policy.md).
    pub(super) fn bound(
        &self,
        asking: Asking,
        metadata: &ObjectMeta,
        namespace: &str,
    ) -> (Option<GatewayAddress>, Option<Condition>) {
        let Some(wanted) = self.wanted(metadata, namespace) else {
            return (None, None);
        };
        let closed = |reason, message: String| {
            let condition = Condition::new(CONDITION, false, reason, message);
            (Some(self.service_of(&wanted)), Some(condition))
        };
        let Some(waypoint) = self.by_name.get(&wanted) else {
            return closed(
                "WaypointMissing",
                format!("no Gateway {wanted} of class {CLASS_WAYPOINT}"),
            );
        };
        let serves = match asking {
            Asking::Service => waypoint.for_services,
            Asking::Workload => waypoint.for_workloads,
        };
        if !serves {
            let message = format!("Gateway {wanted} is not for this kind of traffic ({LABEL_FOR})");
            let condition = Condition::new(CONDITION, false, "UnsupportedTrafficType", message);
            return (None, Some(condition));
        }
        if !self.allows(waypoint, &wanted, namespace) {
            let message = format!("Gateway {wanted} does not allow namespace {namespace}");
            return closed("AttachmentDenied", message);
        }
        match &waypoint.address {
            Some(address) => {
                let condition =
                    Condition::new(CONDITION, true, "WaypointAccepted", wanted.to_string());
                (Some(address.clone()), Some(condition))
            }
            None => closed(
                "WaypointNotReady",
                format!("Gateway {wanted} has neither a pod with an address nor a Service"),
            ),
        }
    }

    /// The shares of a service's waypoint and of its canary (interop/waypoint.md section 1). Empty:
    /// the waypoint takes all, for want of a canary, of a weight, or because the canary is not ready
    /// or may not be used. The waypoint enforces the service's policies as well, so nothing is passed
    /// by. The canary's label and weight are the object's own; a namespace has none.
    pub(super) fn canary(
        &self,
        primary: Option<&GatewayAddress>,
        metadata: &ObjectMeta,
        namespace: &str,
    ) -> Vec<WeightedWaypoint> {
        let shares = || {
            let name = label(metadata, LABEL_CANARY).filter(|n| !n.is_empty() && *n != "none")?;
            let of = label(metadata, LABEL_CANARY_NAMESPACE).unwrap_or(namespace);
            let weight = annotation(metadata, ANNOTATION_CANARY_WEIGHT)?;
            let weight = weight.trim().parse().ok();
            let weight = weight.filter(|w: &u32| (1..=WEIGHT_WHOLE).contains(w))?;
            let wanted = ObjectName::new(of, name);
            let canary = self.by_name.get(&wanted)?;
            let usable = canary.for_services && self.allows(canary, &wanted, namespace);
            let canary = canary.address.clone().filter(|_| usable)?;
            let share = |destination, weight| WeightedWaypoint {
                destination,
                weight,
            };
            let rest = WEIGHT_WHOLE.saturating_sub(weight);
            Some(vec![share(primary?.clone(), rest), share(canary, weight)])
        };
        shares().unwrap_or_default()
    }

    /// The Service that a Gateway has or would have.
    fn service_of(&self, gateway: &ObjectName) -> GatewayAddress {
        let name = self.mesh.service_name(&gateway.namespace, &gateway.name);
        GatewayAddress {
            destination: GatewayDestination::Hostname(name),
            hbone_port: PORT_HBONE,
        }
    }

    /// Whether ingress gateways also go through the waypoint.
    pub(super) fn for_ingress(&self, metadata: &ObjectMeta, namespace: &str) -> bool {
        let own = label(metadata, LABEL_INGRESS).map(str::to_owned);
        let value = own.or_else(|| namespace_labels(self.objects, namespace).remove(LABEL_INGRESS));
        value.as_deref() == Some("true")
    }

    /// The object's own label beats the namespace's completely.
    fn wanted(&self, metadata: &ObjectMeta, namespace: &str) -> Option<ObjectName> {
        let (name, of) = match label(metadata, LABEL_USE) {
            Some(name) => (
                name.to_owned(),
                label(metadata, LABEL_USE_NAMESPACE).map(str::to_owned),
            ),
            None => {
                let mut labels = namespace_labels(self.objects, namespace);
                (
                    labels.remove(LABEL_USE)?,
                    labels.remove(LABEL_USE_NAMESPACE),
                )
            }
        };
        if name == "none" || name.is_empty() {
            return None;
        }
        Some(ObjectName::new(
            of.unwrap_or_else(|| namespace.to_owned()),
            name,
        ))
    }

    fn allows(&self, waypoint: &Waypoint<'_>, name: &ObjectName, namespace: &str) -> bool {
        waypoint.gateway.spec.listeners.iter().any(|listener| {
            let routes = listener.allowed_routes.as_ref();
            let namespaces = routes.and_then(|r| r.namespaces.as_ref());
            namespace_allowed(self.objects, namespaces, &name.namespace, namespace)
        })
    }
}

/// Whether a listener of a Gateway in one namespace lets routes (or waypoint users) of another in.
pub(super) fn namespace_allowed(
    objects: &Objects,
    namespaces: Option<&GatewayListenersAllowedRoutesNamespaces>,
    own: &str,
    other: &str,
) -> bool {
    use GatewayListenersAllowedRoutesNamespacesFrom as From;
    match namespaces.and_then(|n| n.from.as_ref()) {
        Some(From::All) => true,
        None | Some(From::Same) => own == other,
        Some(From::Selector) => {
            let Some(selector) = namespaces.and_then(|n| n.selector.as_ref()) else {
                return false;
            };
            let labels = namespace_labels(objects, other);
            let expression = |e: &gateway_api::gateways::GatewayListenersAllowedRoutesNamespacesSelectorMatchExpressions| {
                Expression {
                    key: &e.key,
                    operator: &e.operator,
                    values: e.values.as_deref().unwrap_or_default(),
                }
                .matches(&labels)
            };
            selector.match_labels.iter().all(|l| matches(l, &labels))
                && selector.match_expressions.iter().flatten().all(expression)
        }
    }
}

/// A Service of the Gateway's name, with port 15008, is preferred: clients then choose among its
/// endpoints. Else the first pod's address.
fn address(objects: &Objects, mesh: &Mesh, name: &ObjectName) -> Option<GatewayAddress> {
    let has_port = |s: &k8s_openapi::api::core::v1::Service| {
        let ports = s.spec.as_ref().and_then(|s| s.ports.as_ref());
        ports
            .into_iter()
            .flatten()
            .any(|p| p.port == i32::from(PORT_HBONE))
    };
    let destination = if objects.services.get(name).is_some_and(|s| has_port(s)) {
        GatewayDestination::Hostname(mesh.service_name(&name.namespace, &name.name))
    } else {
        let pod = objects.pods.values().find_map(|pod| {
            let serves = label(&pod.metadata, LABEL_GATEWAY_NAME) == Some(&*name.name)
                && pod.metadata.namespace.as_deref().unwrap_or("default") == &*name.namespace;
            serves
                .then(|| super::pod::addresses(pod).first().copied())
                .flatten()
                .map(|ip| (ip, pod))
        });
        let (address, pod) = pod?;
        let none = BTreeMap::new();
        let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
        GatewayDestination::Address(NetworkAddress {
            network: super::networks::of_pod(mesh, labels),
            address,
        })
    };
    Some(GatewayAddress {
        destination,
        hbone_port: PORT_HBONE,
    })
}
