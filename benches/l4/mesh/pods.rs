//! Which pods there are, as network namespaces and as objects of the control plane.

use crate::contender::Contender;
use anyhow::Result;
use mesh_lab::Place;
use mesh_lab::topology::{NodeSpec, PodSpec, Topology};
use mesh_lab::world::{AUTHORITY, CONTROL};
use std::fs;
use std::net::Ipv4Addr;

/// Kubernetes namespace of all pods.
pub(crate) const NAMESPACE: &str = "bench";
/// The pod in which proxies are started only to see how long that takes.
pub(crate) const NURSERY: &str = "nursery";
const NURSERY_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 42, 1, 90);

/// Pods that the same kind of proxy serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// Outside the mesh.
    Plain,
    /// Served by our node proxy.
    Strata,
    /// Served by an earlier build of it, on nodes of its own.
    Base,
    /// Served by the peer, in each pod.
    Peer,
}

/// What a pod is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It asks.
    Client,
    /// It answers, on another node than the client.
    Server,
    /// It answers, on the client's node.
    Near,
}

/// A pod.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    /// Its name, its account's and its namespace's.
    pub(crate) name: String,
    /// Whose it is.
    pub(crate) group: Group,
    /// What for.
    pub(crate) role: Role,
    /// Its node.
    pub(crate) node: &'static str,
    /// Its address.
    pub(crate) address: Ipv4Addr,
}

impl Group {
    const ALL: [Self; 4] = [Self::Plain, Self::Strata, Self::Base, Self::Peer];

    /// The groups that contenders need.
    pub(crate) fn of(contenders: &[Contender]) -> Vec<Self> {
        let needed = |group: &Self| contenders.iter().any(|c| Self::carried_by(*c) == *group);
        Self::ALL.into_iter().filter(needed).collect()
    }

    /// The pods whose traffic a contender carries.
    pub(crate) fn carried_by(contender: Contender) -> Self {
        match contender {
            Contender::Direct | Contender::Haproxy | Contender::Limit => Self::Plain,
            Contender::Strata => Self::Strata,
            Contender::Base => Self::Base,
            Contender::Peer => Self::Peer,
        }
    }

    /// Whether traffic of its pods is captured.
    pub(crate) fn redirected(self) -> bool {
        self != Self::Plain
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Strata => "strata",
            Self::Base => "base",
            Self::Peer => "peer",
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Strata => 1,
            Self::Base => 2,
            Self::Peer => 3,
        }
    }

    /// The name of its pod.
    pub(crate) fn pod(self, role: Role) -> String {
        let role = match role {
            Role::Client => "client",
            Role::Server => "server",
            Role::Near => "near",
        };
        format!("{}-{role}", self.as_str())
    }

    /// The node of its pod. An earlier build has nodes of its own: two node proxies do not fit on one.
    pub(crate) fn node(self, role: Role) -> &'static str {
        match (self, role) {
            (Self::Base, Role::Client | Role::Near) => "node-3",
            (Self::Base, Role::Server) => "node-4",
            (_, Role::Client | Role::Near) => "node-1",
            (_, Role::Server) => "node-2",
        }
    }

    fn address(self, role: Role) -> Ipv4Addr {
        let last = match role {
            Role::Client | Role::Server => 10 + self.number(),
            Role::Near => 20 + self.number(),
        };
        let node = match self.node(role) {
            "node-2" => 2,
            "node-3" => 3,
            "node-4" => 4,
            _ => 1,
        };
        Ipv4Addr::new(10, 42, node, last)
    }
}

/// The pods of groups.
pub(crate) fn pods(groups: &[Group]) -> impl Iterator<Item = Pod> {
    let roles = [Role::Client, Role::Server, Role::Near];
    groups.iter().flat_map(move |&group| {
        roles.map(|role| Pod {
            name: group.pod(role),
            group,
            role,
            node: group.node(role),
            address: group.address(role),
        })
    })
}

/// Makes the network.
///
/// # Errors
/// Those of [`Topology::create`].
pub(super) fn network(groups: &[Group]) -> Result<Topology> {
    let nodes: Vec<NodeSpec> = (1..=4)
        .map(|number| NodeSpec {
            name: format!("node-{number}"),
            number,
        })
        .collect();
    let place = |name: &str, node: &str, address| PodSpec {
        name: name.to_owned(),
        node: node.to_owned(),
        address,
    };
    let mut places = vec![
        place("control", "node-1", CONTROL),
        place("ca", "node-1", AUTHORITY),
        place(NURSERY, "node-1", NURSERY_ADDRESS),
    ];
    places.extend(pods(groups).map(|pod| place(&pod.name, pod.node, pod.address)));
    Topology::create(&nodes, &places)
}

/// Settings of a pod without which thousands of connections a second would use up its ports and the
/// connection table, the same for every contender.
///
/// # Errors
/// When one that is there cannot be written.
pub(super) fn make_room(place: &Place) -> Result<()> {
    let values = [
        ("ipv4/ip_local_port_range", "1024 65000"),
        (
            "ipv4/ip_local_reserved_ports",
            "7000-7009,9000-9009,15000-15099",
        ),
        // A port in TIME_WAIT may be used again after a second.
        ("ipv4/tcp_tw_reuse", "1"),
        ("netfilter/nf_conntrack_tcp_timeout_time_wait", "1"),
        ("netfilter/nf_conntrack_tcp_timeout_close", "1"),
    ];
    place.enter(|| {
        for (name, value) in values {
            let path = format!("/proc/sys/net/{name}");
            if fs::exists(&path)? {
                fs::write(&path, value)?;
            }
        }
        Ok(())
    })?
}

/// The pods of the mesh as the control plane reads them.
pub(super) fn objects(groups: &[Group]) -> String {
    pods(groups)
        .filter(|pod| pod.group.redirected())
        .map(|pod| object(&pod))
        .collect()
}

fn object(pod: &Pod) -> String {
    let Pod {
        name,
        node,
        address,
        ..
    } = pod;
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {NAMESPACE}
  labels:
    app: {name}
    istio.io/dataplane-mode: ambient
  annotations:
    ambient.istio.io/redirection: enabled
spec:
  nodeName: {node}
  serviceAccountName: {name}
  containers:
    - name: app
status:
  phase: Running
  podIP: {address}
  podIPs:
    - ip: {address}
  conditions:
    - type: Ready
      status: \"True\"
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_pods_share_a_name_or_an_address() {
        let all: Vec<Pod> = pods(&Group::ALL).collect();
        let names: BTreeSet<&str> = all.iter().map(|pod| pod.name.as_str()).collect();
        let addresses: BTreeSet<Ipv4Addr> = all.iter().map(|pod| pod.address).collect();
        assert_eq!((names.len(), addresses.len()), (all.len(), all.len()));
    }

    #[test]
    fn the_control_plane_is_told_of_the_mesh_only() {
        let yaml = objects(&Group::of(&[Contender::Direct, Contender::Peer]));
        assert_eq!(yaml.matches("kind: Pod").count(), 3);
        assert!(!yaml.contains("plain-"));
    }
}
