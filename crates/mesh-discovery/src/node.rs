//! Who a proxy says it is on a discovery stream (interop/xds-workload.md section 2).

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use std::collections::BTreeMap;
use std::fmt;

/// The part a proxy plays; the first element of the node id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Node proxy.
    Ztunnel,
    /// Pod proxy.
    Sidecar,
    /// Service proxy.
    Waypoint,
    /// Edge proxy.
    Gateway,
    /// Certificate authority: it reads which identities run on which node.
    Authority,
    /// Command line.
    Cli,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ztunnel => "ztunnel",
            Self::Sidecar => "sidecar",
            Self::Waypoint => "waypoint",
            Self::Gateway => "gateway",
            Self::Authority => "authority",
            Self::Cli => "cli",
        })
    }
}

/// Who is asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// The part it plays.
    pub role: Role,
    /// Its IP, as text.
    pub ip: String,
    /// Pod name.
    pub pod: String,
    /// Namespace.
    pub namespace: String,
    /// Service account; empty: not sent.
    pub service_account: String,
    /// Node it runs on.
    pub node: String,
    /// Cluster.
    pub cluster: String,
    /// Network; may be empty.
    pub network: String,
    /// What else is said of it: `ISTIO_META_*` without the prefix. Never in place of the above.
    pub metadata: BTreeMap<String, String>,
}

impl NodeInfo {
    /// `<role>~<ip>~<pod>.<namespace>~<namespace>.svc.cluster.local`: four parts, as istiod demands.
    pub fn id(&self) -> String {
        let (role, ip, pod, namespace) = (self.role, &self.ip, &self.pod, &self.namespace);
        format!("{role}~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local")
    }

    /// The wire form.
    pub(crate) fn wire(&self) -> mesh_proto::discovery::Node {
        let fields = [
            ("NAME", &self.pod),
            ("NAMESPACE", &self.namespace),
            ("SERVICE_ACCOUNT", &self.service_account),
            ("INSTANCE_IPS", &self.ip),
            ("NODE_NAME", &self.node),
            ("CLUSTER_ID", &self.cluster),
            ("NETWORK", &self.network),
        ];
        let own = |name: &str| fields.iter().any(|(own, _)| *own == name);
        let more = self.metadata.iter().filter(|(name, _)| !own(name));
        let more = more.map(|(name, value)| (name.as_str(), value));
        let text = |text: &String| Value {
            kind: Some(Kind::StringValue(text.clone())),
        };
        mesh_proto::discovery::Node {
            id: self.id(),
            cluster: String::new(),
            metadata: Some(Struct {
                fields: fields
                    .into_iter()
                    .chain(more)
                    .filter(|(_, value)| !value.is_empty())
                    .map(|(name, value)| (name.to_owned(), text(value)))
                    .collect(),
            }),
        }
    }
}
