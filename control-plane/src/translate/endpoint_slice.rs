//! EndpointSlices: endpoints that were given by hand, for Services without a selector.

use super::output::Output;
use super::service::ServiceInfo;
use super::workloads::WorkloadContext;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use mesh_model::{Health, NetworkMode, ObjectName, Resource, ServiceName, ServicePort, Workload};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

const LABEL_SERVICE: &str = "kubernetes.io/service-name";

struct Slice<'a> {
    name: &'a ObjectName,
    object: &'a EndpointSlice,
    service: &'a ServiceInfo,
}

/// The slices of Services without a selector.
pub(super) struct Slices<'a> {
    slices: Vec<Slice<'a>>,
    pod_addresses: BTreeSet<IpAddr>,
}

impl<'a> Slices<'a> {
    pub(super) fn collect(cx: &WorkloadContext<'a>) -> Self {
        let slice = |(name, object): (&'a ObjectName, &'a Arc<EndpointSlice>)| {
            let service = crate::objects::label(&object.metadata, LABEL_SERVICE)?;
            let service = ObjectName::new(name.namespace.clone(), service);
            let service = cx.services.of_object(&service)?;
            // Of a Service with a selector the slices only repeat what its pods say.
            service.selector.is_none().then_some(Slice {
                name,
                object,
                service,
            })
        };
        Self {
            slices: cx
                .objects
                .endpoint_slices
                .iter()
                .filter_map(slice)
                .collect(),
            pod_addresses: cx
                .objects
                .pods
                .values()
                .flat_map(|p| super::pod::addresses(p))
                .collect(),
        }
    }

    /// The services a pod is an endpoint of, by reference or by address.
    pub(super) fn of_pod(
        &self,
        pod: &ObjectName,
        addresses: &[IpAddr],
    ) -> BTreeMap<ServiceName, Vec<ServicePort>> {
        let mut services = BTreeMap::new();
        for slice in &self.slices {
            let hit = slice.object.endpoints.iter().any(|endpoint| {
                let by_name = endpoint.target_ref.as_ref().is_some_and(|t| {
                    t.kind.as_deref() == Some("Pod")
                        && t.name.as_deref() == Some(&pod.name)
                        && *slice.name.namespace == *pod.namespace
                });
                by_name || parsed(endpoint).any(|ip| addresses.contains(&ip))
            });
            if hit {
                services.insert(slice.service.name.clone(), ports(slice));
            }
        }
        services
    }

    /// Translates the endpoints that are no pods.
    pub(super) fn translate(&self, cx: &WorkloadContext<'_>, out: &mut Output) {
        for slice in &self.slices {
            let (namespace, name) = (&slice.name.namespace, &slice.name.name);
            for endpoint in slice.object.endpoints.iter() {
                for ip in parsed(endpoint).filter(|ip| !self.pod_addresses.contains(ip)) {
                    let cluster = &cx.mesh.cluster;
                    let uid =
                        format!("{cluster}/discovery.k8s.io/EndpointSlice/{namespace}/{name}/{ip}");
                    let mut w = Workload::new(&uid, namespace, name);
                    w.addresses = vec![ip];
                    w.network = cx.mesh.network.clone();
                    w.cluster = cx.mesh.cluster.clone();
                    w.trust_domain = cx.mesh.trust_domain.clone();
                    // Nobody knows what runs there: it is not found by address, only as an endpoint.
                    w.network_mode = NetworkMode::HostNetwork;
                    w.node = endpoint.node_name.as_deref().unwrap_or_default().into();
                    let ready = endpoint.conditions.as_ref().and_then(|c| c.ready);
                    if ready == Some(false) {
                        w.health = Health::Unhealthy;
                    }
                    w.services.insert(slice.service.name.clone(), ports(slice));
                    out.put(Resource::Workload(Arc::new(w)));
                }
            }
        }
    }
}

fn parsed(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> {
    let read = |text: &String| Some(text.parse::<IpAddr>().ok()?.to_canonical());
    endpoint.addresses.iter().filter_map(read)
}

/// The slice's ports under the service ports of the same name.
fn ports(slice: &Slice<'_>) -> Vec<ServicePort> {
    let port = |info: &super::service::PortInfo| {
        let ports = slice.object.ports.iter().flatten();
        let mut named = ports.filter(|p| p.name.as_deref().unwrap_or_default() == info.name);
        let target_port = u16::try_from(named.next()?.port?).ok()?;
        Some(ServicePort {
            target_port,
            ..info.port
        })
    };
    slice.service.ports.iter().filter_map(port).collect()
}
