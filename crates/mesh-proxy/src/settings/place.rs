//! Where in the mesh a proxy is.

use super::control::environment;
use mesh_discovery::{NodeInfo, Role};
use mesh_model::TRUST_DOMAIN_DEFAULT;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Flags that say where in the mesh a proxy is. Pod name, namespace and service account are not
/// among them: what is assumed of them differs from proxy to proxy.
#[derive(Debug, Clone, clap::Args)]
pub struct PlaceFlags {
    /// Cluster; sent to the control plane and the certificate authority.
    #[arg(long, env = "ISTIO_META_CLUSTER_ID")]
    pub cluster_id: Option<String>,
    /// Cluster, under its other name.
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster: String,
    /// The node this runs on.
    #[arg(long, env = "NODE_NAME", default_value = "")]
    pub node_name: String,
    /// This pod's address.
    #[arg(long, env = "INSTANCE_IP", default_value = "127.0.0.1")]
    pub instance_ip: IpAddr,
    /// Trust domain of this proxy, and of the pods of its node.
    #[arg(long, env = "TRUST_DOMAIN", default_value = TRUST_DOMAIN_DEFAULT)]
    pub trust_domain: String,
    /// Network of this proxy; empty on a mesh of one network.
    #[arg(long, env = "NETWORK", default_value = "")]
    pub network: String,
}

impl PlaceFlags {
    /// The cluster: `ISTIO_META_CLUSTER_ID`, else `CLUSTER_ID`.
    pub fn cluster(&self) -> &str {
        self.cluster_id.as_deref().unwrap_or(&self.cluster)
    }

    /// Who the proxy says it is on a discovery stream (interop/xds-workload.md section 2).
    pub fn node_info(
        &self,
        role: Role,
        namespace: &str,
        pod: &str,
        service_account: &str,
    ) -> NodeInfo {
        NodeInfo {
            role,
            ip: self.instance_ip.to_string(),
            pod: pod.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
            node: self.node_name.clone(),
            cluster: self.cluster().into(),
            network: self.network.clone(),
            metadata: metadata(environment()),
        }
    }
}

/// What `ISTIO_META_*` says of the proxy (interop/xds-workload.md section 2).
fn metadata(variables: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let cut = |(name, value): (String, String)| {
        let name = name.strip_prefix("ISTIO_META_")?;
        (!name.is_empty()).then(|| (name.to_owned(), value))
    };
    variables.filter_map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        place: PlaceFlags,
    }

    fn flags(arguments: &[&str]) -> PlaceFlags {
        Flags::try_parse_from([&["proxy"], arguments].concat())
            .unwrap()
            .place
    }

    #[test]
    fn the_cluster_has_two_names_and_a_default() {
        assert_eq!(flags(&[]).cluster(), "Kubernetes");
        assert_eq!(flags(&["--cluster=b"]).cluster(), "b");
        assert_eq!(flags(&["--cluster=b", "--cluster-id=a"]).cluster(), "a");
    }

    #[test]
    fn what_istio_says_of_the_proxy_is_passed_on() {
        let variables = [
            ("ISTIO_META_ZONE", "b"),
            ("ISTIO_META_", "no"),
            ("PATH", "/bin"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let found = metadata(variables.into_iter());
        assert_eq!(found, BTreeMap::from([("ZONE".to_owned(), "b".to_owned())]));
    }

    #[test]
    fn the_node_says_where_it_is() {
        let place = flags(&["--instance-ip=10.0.0.1", "--node-name=n1", "--network=blue"]);
        let node = place.node_info(Role::Gateway, "shop", "front", "door");
        assert_eq!(
            node.id(),
            "gateway~10.0.0.1~front.shop~shop.svc.cluster.local"
        );
        assert_eq!(
            (&*node.node, &*node.network, &*node.service_account),
            ("n1", "blue", "door")
        );
    }
}
