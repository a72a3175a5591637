//! Objects to the model: pure, YAML in, resources and conditions out.
//!
//! Nothing here knows where objects come from or where resources go. The same objects always give
//! the same resources, in the same order.

mod authorization;
mod backend;
mod endpoint_slice;
mod gateway;
mod grants;
mod http_filter;
mod http_route;
mod networks;
mod output;
mod peer_authentication;
mod pod;
mod policy_rules;
mod ports;
mod route_parents;
mod secret;
mod selector;
mod service;
mod service_entry;
mod tcp_route;
#[cfg(test)]
mod tests;
mod waypoint;
mod workload_entry;
mod workloads;

pub(crate) use output::{Condition, ObjectStatus, Translation};

use crate::objects::Objects;
use mesh_model::ServiceName;
use output::Output;
use std::sync::Arc;

/// The GatewayClass of north-south gateways.
pub(crate) const CLASS_GATEWAY: &str = "strata";
/// The GatewayClass of waypoints.
pub(crate) const CLASS_WAYPOINT: &str = "strata-waypoint";
/// The GatewayClass of gateways between networks.
pub(crate) const CLASS_EAST_WEST: &str = "strata-east-west";
/// On pods: the Gateway they serve.
pub(crate) const LABEL_GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// What is the same for the whole mesh.
#[derive(Debug, Clone)]
pub(crate) struct Mesh {
    /// Trust domain of all identities.
    pub(crate) trust_domain: Arc<str>,
    /// Name of this cluster, the first part of workload keys.
    pub(crate) cluster: Arc<str>,
    /// Network of all addresses; may be empty.
    pub(crate) network: Arc<str>,
    /// The namespace whose policies are for the whole mesh.
    pub(crate) root_namespace: Arc<str>,
    /// Suffix of service host names.
    pub(crate) domain: Arc<str>,
    /// Every pod asks for encryption even within a node.
    pub(crate) encrypt_same_node: bool,
}

impl Mesh {
    /// The host name of a Kubernetes Service.
    fn service_name(&self, namespace: &str, name: &str) -> ServiceName {
        ServiceName::new(
            namespace,
            &format!("{name}.{namespace}.svc.{}", self.domain),
        )
    }
}

/// Translates everything.
pub(crate) fn translate(objects: &Objects, mesh: &Mesh) -> Translation {
    let mut out = Output::default();
    let mesh = &Mesh {
        network: networks::own(objects, mesh),
        ..mesh.clone()
    };
    let waypoints = waypoint::Waypoints::new(objects, mesh);
    let services = service::Services::collect(objects, mesh, &waypoints, &mut out);
    let policies = authorization::Policies::translate(objects, mesh, &services, &mut out);
    let peers = peer_authentication::Peers::translate(objects, mesh, &mut out);
    let cx = workloads::WorkloadContext {
        objects,
        mesh,
        waypoints: &waypoints,
        services: &services,
        policies: &policies,
        peers: &peers,
    };
    workloads::translate(&cx, &mut out);
    networks::translate(objects, mesh, &mut out);
    let gateways = gateway::Gateways::translate(objects, &mut out);
    let routes = route_parents::Parents::new(objects, mesh, &gateways, &services);
    http_route::translate(objects, &routes, &services, mesh, &mut out);
    tcp_route::translate(objects, &routes, &services, mesh, &mut out);
    out.finish(gateways)
}
