//! Nodes and pods as named network namespaces on one wire.
//!
//! ```text
//!  pod eth0 -- bridge `pods` of node-1 -- uplink == bridge `wire` == uplink -- bridge of node-2 -- eth0 pod
//! ```
//! Everything is one L2: pods `10.42.n.x/16` and `fd42::n:x/64` on node n, the node itself at
//! `10.42.n.1`, the lab's root namespace ("outside") at `10.42.0.1`. A pod's default route leads to
//! its node, so that service VIPs (`10.96.0.0/16`, `fd96::/112`) have a route and reach the
//! redirection; uncaptured, the node answers "unreachable" at once.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::output_of;
use crate::place::Place;

/// The bridge that joins the nodes, in the lab's root namespace: capture here.
pub const WIRE: &str = "wire";
/// Most nodes of one lab: the third octet of an address, less the outside's 0.
pub const NODES_MAX: usize = 254;

/// A node to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSpec {
    /// Name; also its namespace's.
    pub name: String,
    /// The `n` of its pods' addresses `10.42.n.x`, from 1.
    pub number: u8,
}

/// A pod to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSpec {
    /// Name; also its namespace's.
    pub name: String,
    /// Name of its node.
    pub node: String,
    /// Address in `10.42.0.0/16`; the IPv6 address follows from it, see [`v6_of`].
    pub address: Ipv4Addr,
}

/// The IPv6 address beside an IPv4 address of the lab: `fd42::1:10` beside `10.42.1.10`, the
/// decimal digits taken over as they read.
pub fn v6_of(address: Ipv4Addr) -> Ipv6Addr {
    let [.., third, fourth] = address.octets();
    let as_it_reads = |octet: u8| {
        let octet = u16::from(octet);
        octet / 100 * 0x100 + octet / 10 % 10 * 0x10 + octet % 10
    };
    let (third, fourth) = (as_it_reads(third), as_it_reads(fourth));
    Ipv6Addr::new(0xfd42, 0, 0, 0, 0, 0, third, fourth)
}

/// The network of one lab.
#[derive(Debug)]
pub struct Topology {
    outside: Place,
    nodes: BTreeMap<String, Place>,
    pods: BTreeMap<String, Place>,
}

impl Topology {
    /// Makes it. Only inside the isolation ([`crate::isolate`]), so that nothing of it is the host's.
    ///
    /// # Errors
    /// When a pod names no node, names or addresses collide, or a command fails.
    pub fn create(nodes: &[NodeSpec], pods: &[PodSpec]) -> Result<Self> {
        ensure!(
            crate::isolate::is_isolated(),
            "the lab's network is only made inside its own namespaces"
        );
        check(nodes, pods)?;
        ip(&netns_batch(nodes, pods)).context("cannot make the namespaces")?;
        let outside = Place::new(
            "outside".to_owned(),
            PathBuf::from("/proc/self/ns/net"),
            node_address(0),
        )?;
        let topology = Self {
            outside,
            nodes: nodes
                .iter()
                .map(|node| named(&node.name, node_address(node.number)))
                .collect::<Result<_>>()?,
            pods: pods
                .iter()
                .map(|pod| named(&pod.name, pod.address))
                .collect::<Result<_>>()?,
        };
        topology.connect(nodes, pods)?;
        Ok(topology)
    }

    fn connect(&self, nodes: &[NodeSpec], pods: &[PodSpec]) -> Result<()> {
        for place in self.nodes.values() {
            place.netns().enter(|| settings(true))??;
        }
        for place in self.pods.values() {
            place.netns().enter(|| settings(false))??;
        }
        settings(false)?;
        ip(&links_batch(nodes, pods)).context("cannot make the interfaces")?;
        for node in nodes {
            let batch = node_batch(node, pods);
            self.node(&node.name)?.netns().enter(|| ip(&batch))??;
        }
        for pod in pods {
            let batch = pod_batch(pod, self.node(&pod.node)?.v4());
            self.pod(&pod.name)?.netns().enter(|| ip(&batch))??;
        }
        Ok(())
    }

    /// Makes one more pod.
    ///
    /// # Errors
    /// When its name or address is taken, its node is not there, or a command fails.
    pub fn add_pod(&mut self, pod: &PodSpec) -> Result<&Place> {
        let node = self.node(&pod.node)?.clone();
        check_place(&pod.name, pod.address)?;
        for other in self.nodes().chain(self.pods()) {
            let free = other.name() != pod.name && other.v4() != pod.address;
            ensure!(
                free,
                "{} has the name or address of {}",
                pod.name,
                other.name()
            );
        }
        ip(&format!("netns add {}\n", pod.name))?;
        let (name, place) = named(&pod.name, pod.address)?;
        place.enter(|| settings(false))??;
        ip(&(pod_link(pod) + "\n"))?;
        let port = port_name(pod.address);
        node.enter(|| ip(&format!("link set {port} master pods up\n")))??;
        place.enter(|| ip(&pod_batch(pod, node.v4())))??;
        Ok(self.pods.entry(name).or_insert(place))
    }

    /// Takes a pod away. What still runs in it keeps its namespace, without a name and a network.
    ///
    /// # Errors
    /// When there is none of that name, or a command fails.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        let place = self.pods.remove(name);
        let place = place.with_context(|| format!("the lab has no pod {name}"))?;
        place.enter(|| ip("link del eth0\n"))??;
        ip(&format!("netns del {name}\n"))
    }

    /// Takes pods of a node off its bridge and puts them on one of their own, another network: of all
    /// places only `gateway`, a pod of the same node, has a leg there and reaches them, by IPv4.
    ///
    /// # Errors
    /// When the node or a pod is not there, or a command fails.
    pub fn separate(&self, node: &str, network: &str, pods: &[&str], gateway: &str) -> Result<()> {
        let gateway = self.pod(gateway)?;
        let [_, _, third, fourth] = gateway.v4().octets();
        let leg = format!("{network}-{third}-{fourth}");
        let mut at_node = vec![bridge(network), format!("link set {network} up")];
        let mut at_gateway = vec!["link set eth1 up".to_owned()];
        for pod in pods {
            let address = self.pod(pod)?.v4();
            at_node.push(format!("link set {} master {network}", port_name(address)));
            let route = format!("route add {address}/32 dev eth1 src {}", gateway.v4());
            at_gateway.push(route);
        }
        at_node.push(format!(
            "link add {leg} type veth peer name eth1 netns {}",
            gateway.name()
        ));
        at_node.push(format!("link set {leg} master {network} up"));
        self.node(node)?
            .enter(|| ip(&(at_node.join("\n") + "\n")))??;
        gateway.enter(|| ip(&(at_gateway.join("\n") + "\n")))?
    }

    /// A pod.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn pod(&self, name: &str) -> Result<&Place> {
        self.pods
            .get(name)
            .with_context(|| format!("the lab has no pod {name}"))
    }

    /// A node.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn node(&self, name: &str) -> Result<&Place> {
        self.nodes
            .get(name)
            .with_context(|| format!("the lab has no node {name}"))
    }

    /// The lab's root namespace: outside all nodes, on the wire.
    pub fn outside(&self) -> &Place {
        &self.outside
    }

    /// All pods by name.
    pub fn pods(&self) -> impl Iterator<Item = &Place> {
        self.pods.values()
    }

    /// All nodes by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Place> {
        self.nodes.values()
    }
}

impl Drop for Topology {
    /// Makes room for another lab in the same process. The namespaces end with their processes.
    fn drop(&mut self) {
        let mut lines = vec![format!("link del {WIRE}")];
        // With its uplink a node loses the wire now, not when the kernel gets round to it.
        lines.extend(
            self.nodes()
                .map(|node| format!("link del {}", uplink_name(number_of(node)))),
        );
        let places = self.nodes().chain(self.pods());
        lines.extend(places.map(|place| format!("netns del {}", place.name())));
        if let Err(error) = ip(&(lines.join("\n") + "\n")) {
            tracing::warn!(
                error = format!("{error:#}"),
                "some of the lab's network is still there"
            );
        }
    }
}

fn named(name: &str, address: Ipv4Addr) -> Result<(String, Place)> {
    let path = PathBuf::from("/run/netns").join(name);
    Ok((name.to_owned(), Place::new(name.to_owned(), path, address)?))
}

fn number_of(node: &Place) -> u8 {
    let [_, _, number, _] = node.v4().octets();
    number
}

/// A node's port of the wire.
fn uplink_name(number: u8) -> String {
    format!("wire-{number}")
}

/// A pod's port of its node's bridge.
fn port_name(pod: Ipv4Addr) -> String {
    let [_, _, third, fourth] = pod.octets();
    format!("pod-{third}-{fourth}")
}

fn node_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 42, number, 1)
}

fn check(nodes: &[NodeSpec], pods: &[PodSpec]) -> Result<()> {
    ensure!(
        nodes.len() <= NODES_MAX,
        "at most {NODES_MAX} nodes, not {}",
        nodes.len()
    );
    let mut names = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    let node_places = nodes
        .iter()
        .map(|node| (&node.name, node_address(node.number)));
    let pod_places = pods.iter().map(|pod| (&pod.name, pod.address));
    for (name, address) in node_places.chain(pod_places) {
        check_place(name, address)?;
        ensure!(
            names.insert(name, ()).is_none(),
            "two places are called {name}"
        );
        if let Some(other) = addresses.insert(address, name) {
            anyhow::bail!("{name} and {other} both have the address {address}");
        }
    }
    for pod in pods {
        let known = nodes.iter().any(|node| node.name == pod.node);
        ensure!(
            known,
            "pod {} is on node {}, which is not there",
            pod.name,
            pod.node
        );
    }
    Ok(())
}

fn check_place(name: &str, address: Ipv4Addr) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    ensure!(
        !name.is_empty() && !name.starts_with(['-', '.']) && name.chars().all(good),
        "'{name}' cannot name a namespace"
    );
    ensure!(
        address.octets().starts_with(&[10, 42]) && address != node_address(0),
        "{name}'s address {address} is outside 10.42.0.0/16 or taken"
    );
    Ok(())
}

/// Settings of a namespace before it gets interfaces: new ones take the defaults.
fn settings(forward: bool) -> Result<()> {
    let forward = if forward { "1" } else { "0" };
    let values = [
        // No waiting for duplicate address detection.
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/all/forwarding", forward),
        // A new namespace takes IPv4 settings from the host's, which are anyone's guess.
        ("ipv4/ip_forward", forward),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        // All pods are on one L2; a node never tells a pod of a better way.
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
    ];
    for (name, value) in values {
        let path = format!("/proc/sys/net/{name}");
        // A kernel without IPv6 has no such settings, and needs none.
        if fs::exists(&path)? {
            fs::write(&path, value).with_context(|| path)?;
        }
    }
    Ok(())
}

/// Runs one batch of `ip` in the current namespace.
fn ip(batch: &str) -> Result<()> {
    output_of(Command::new("ip").args(["-force", "-batch", "-"]), batch)
        .map(drop)
        .with_context(|| format!("of the batch\n{batch}"))
}

/// A bridge that forwards from the first frame on.
fn bridge(name: &str) -> String {
    format!("link add {name} type bridge forward_delay 0 stp_state 0 mcast_snooping 0")
}

fn netns_batch(nodes: &[NodeSpec], pods: &[PodSpec]) -> String {
    let names = nodes
        .iter()
        .map(|node| &node.name)
        .chain(pods.iter().map(|pod| &pod.name));
    names.map(|name| format!("netns add {name}\n")).collect()
}

fn links_batch(nodes: &[NodeSpec], pods: &[PodSpec]) -> String {
    let mut lines = vec![bridge(WIRE)];
    for NodeSpec { name, number } in nodes {
        let uplink = uplink_name(*number);
        lines.push(format!(
            "link add {uplink} type veth peer name uplink netns {name}"
        ));
        lines.push(format!("link set {uplink} master {WIRE} up"));
    }
    lines.extend(pods.iter().map(pod_link));
    lines.push(format!("link set {WIRE} up"));
    lines.extend(addresses(node_address(0), WIRE));
    lines.join("\n") + "\n"
}

fn pod_link(pod: &PodSpec) -> String {
    let port = port_name(pod.address);
    let PodSpec { name, node, .. } = pod;
    format!("link add eth0 netns {name} type veth peer name {port} netns {node}")
}

fn node_batch(node: &NodeSpec, pods: &[PodSpec]) -> String {
    let mut lines = vec!["link set lo up".to_owned(), bridge("pods")];
    lines.push("link set uplink master pods up".to_owned());
    for pod in pods.iter().filter(|pod| pod.node == node.name) {
        lines.push(format!(
            "link set {} master pods up",
            port_name(pod.address)
        ));
    }
    lines.push("link set pods up".to_owned());
    lines.extend(addresses(node_address(node.number), "pods"));
    lines.join("\n") + "\n"
}

fn pod_batch(pod: &PodSpec, gateway: Ipv4Addr) -> String {
    let mut lines = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
    lines.extend(addresses(pod.address, "eth0"));
    lines.push(format!("route add default via {gateway}"));
    lines.push(format!("route add ::/0 via {}", v6_of(gateway)));
    lines.join("\n") + "\n"
}

fn addresses(address: Ipv4Addr, interface: &str) -> [String; 2] {
    [
        format!("addr add {address}/16 dev {interface}"),
        format!("addr add {}/64 dev {interface} nodad", v6_of(address)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_addresses_of_a_pod_read_alike() {
        assert_eq!(v6_of([10, 42, 1, 10].into()).to_string(), "fd42::1:10");
        assert_eq!(
            v6_of([10, 42, 254, 205].into()).to_string(),
            "fd42::254:205"
        );
    }
}
