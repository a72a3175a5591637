//! What a user may choose about redirection; every default is that of interop/zds-cni.md.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use mesh_model::{Cidr, PORT_HBONE};

use crate::error::InterfaceError;

/// Which proxy the traffic is captured for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// The node proxy, which listens inside the pod's namespace (section 2).
    InPod(InPodOptions),
    /// A proxy in the pod itself (section 7).
    Sidecar(SidecarOptions),
}

/// Source of the kubelet's probes after the host's SNAT, IPv4 (section 3).
pub(crate) const PROBE_SOURCE_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 127);
/// Source of the kubelet's probes after the host's SNAT, IPv6.
pub(crate) const PROBE_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(
    0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff,
);
/// Source from which a sidecar connects to its application, IPv4.
pub(crate) const INBOUND_SOURCE_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// Source from which a sidecar connects to its application, IPv6.
pub(crate) const INBOUND_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// Choices of the in-pod rules, from the pod's annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InPodOptions {
    /// Whether plaintext inbound is captured; off for a pod that is itself an edge
    /// (`ambient.istio.io/bypass-inbound-capture`). HBONE works either way.
    pub capture_inbound: bool,
    /// Whether DNS is captured (`ambient.istio.io/dns-capture`). Only for a proxy that answers DNS.
    pub capture_dns: bool,
    /// Interfaces of virtual machines in the pod, whose inbound is someone's outbound
    /// (`istio.io/reroute-virtual-interfaces`).
    pub virtual_interfaces: Vec<Interface>,
    /// Source of kubelet probes over IPv4, let through uncaptured.
    pub probe_source_v4: Ipv4Addr,
    /// Source of kubelet probes over IPv6, let through uncaptured.
    pub probe_source_v6: Ipv6Addr,
}

impl Default for InPodOptions {
    fn default() -> Self {
        Self {
            capture_inbound: true,
            capture_dns: false,
            virtual_interfaces: Vec::new(),
            probe_source_v4: PROBE_SOURCE_V4,
            probe_source_v6: PROBE_SOURCE_V6,
        }
    }
}

/// How the sidecar's own packets are told from the application's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoopExclusion {
    /// By the mark on its sockets.
    Mark,
    /// By the user it runs as. Needs that user to be mapped in the namespace's user namespace.
    Owner {
        /// The proxy's user id.
        uid: u32,
        /// The proxy's group id.
        gid: u32,
    },
}

/// Which ports a rule covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// Every port.
    All,
    /// These only; none when empty.
    Only(Vec<u16>),
}

/// Choices of the sidecar rules, from the pod's `traffic.sidecar.istio.io/` annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarOptions {
    /// How the proxy's own packets are known.
    pub exclusion: LoopExclusion,
    /// `includeInboundPorts`.
    pub include_inbound_ports: Ports,
    /// `excludeInboundPorts`, besides the proxy's own ports that are never captured.
    pub exclude_inbound_ports: Vec<u16>,
    /// `includeOutboundPorts`: captured whatever the ranges say.
    pub include_outbound_ports: Vec<u16>,
    /// `excludeOutboundPorts`.
    pub exclude_outbound_ports: Vec<u16>,
    /// `includeOutboundIPRanges`: `None` captures every destination.
    pub include_outbound_ranges: Option<Vec<Cidr>>,
    /// `excludeOutboundIPRanges`.
    pub exclude_outbound_ranges: Vec<Cidr>,
    /// `excludeInterfaces`: traffic through these is not captured.
    pub exclude_interfaces: Vec<Interface>,
}

impl Default for SidecarOptions {
    fn default() -> Self {
        Self {
            exclusion: LoopExclusion::Mark,
            include_inbound_ports: Ports::All,
            exclude_inbound_ports: Vec::new(),
            include_outbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            include_outbound_ranges: None,
            exclude_outbound_ranges: Vec::new(),
            exclude_interfaces: Vec::new(),
        }
    }
}

/// The sidecar's own inbound ports: tunnel, admin, metrics, readiness, merged metrics.
pub(crate) const SIDECAR_PORTS: [u16; 5] = [PORT_HBONE, 15000, 15020, 15021, 15090];

/// An interface name that is safe inside a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface(String);

impl Interface {
    /// Longest name the kernel takes (IFNAMSIZ less its terminator).
    const LENGTH_MAX: usize = 15;

    /// The loopback interface.
    pub(crate) fn loopback() -> Self {
        Self("lo".to_owned())
    }
}

impl FromStr for Interface {
    type Err = InterfaceError;

    fn from_str(text: &str) -> Result<Self, InterfaceError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
        // A leading '-' would read as an option of iptables.
        let good = (1..=Self::LENGTH_MAX).contains(&text.len())
            && text.chars().all(allowed)
            && !text.starts_with('-');
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(InterfaceError(text.chars().take(64).collect()))
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
