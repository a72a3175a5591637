//! Rules as data, and their text as `iptables-restore` reads it.

use std::fmt;

use mesh_model::Cidr;

use crate::options::Interface;

/// An address family; each has tables of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4, `iptables`.
    V4,
    /// IPv6, `ip6tables`.
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A table, in the order in which a transaction writes them: marks stand before capture begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Before connection tracking.
    Raw,
    /// Marks.
    Mangle,
    /// Redirection.
    Nat,
}

impl Table {
    /// Every table we may have rules in.
    pub(crate) const ALL: [Self; 3] = [Self::Raw, Self::Mangle, Self::Nat];

    /// The table's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
        }
    }
}

/// A chain: a built-in hook, or one of ours. Ours carry the names that the CNI ecosystem knows, so
/// that a pod programmed by Istio is taken over instead of captured twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Chain {
    /// Built in: packets that come in.
    Prerouting,
    /// Built in: packets that local processes send.
    Output,
    /// In-pod, incoming.
    InPodPrerouting,
    /// Outgoing, both modes.
    Outgoing,
    /// Sidecar, incoming.
    SidecarInbound,
    /// Sidecar, ends in the inbound listener.
    SidecarInboundRedirect,
    /// Sidecar, ends in the outbound listener.
    SidecarOutboundRedirect,
}

impl Chain {
    /// Every chain that is ours, of either mode.
    pub(crate) const OURS: [Self; 5] = [
        Self::InPodPrerouting,
        Self::Outgoing,
        Self::SidecarInbound,
        Self::SidecarInboundRedirect,
        Self::SidecarOutboundRedirect,
    ];

    /// The chain's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Output => "OUTPUT",
            Self::InPodPrerouting => "ISTIO_PRERT",
            Self::Outgoing => "ISTIO_OUTPUT",
            Self::SidecarInbound => "ISTIO_INBOUND",
            Self::SidecarInboundRedirect => "ISTIO_IN_REDIRECT",
            Self::SidecarOutboundRedirect => "ISTIO_REDIRECT",
        }
    }

    /// Whether the chain is the kernel's own.
    pub fn is_builtin(self) -> bool {
        matches!(self, Self::Prerouting | Self::Output)
    }
}

/// A packet or connection mark with its mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The bits that are set.
    pub value: u32,
    /// The bits that are looked at.
    pub mask: u32,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

/// One condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The transport is TCP.
    Tcp,
    /// The transport is UDP.
    Udp,
    /// The source lies in the range.
    Source(Cidr),
    /// The destination lies in the range.
    Destination(Cidr),
    /// The destination lies outside the range.
    NotDestination(Cidr),
    /// The source port; after [`Match::Tcp`] or [`Match::Udp`].
    SourcePort(u16),
    /// The destination port; after [`Match::Tcp`] or [`Match::Udp`].
    DestinationPort(u16),
    /// Any other destination port; after [`Match::Tcp`] or [`Match::Udp`].
    NotDestinationPort(u16),
    /// The packet came in through the interface.
    In(Interface),
    /// The packet goes out through the interface.
    Out(Interface),
    /// The packet goes out through another interface.
    NotOut(Interface),
    /// The packet's mark.
    PacketMark(Mark),
    /// Any other packet mark.
    NotPacketMark(Mark),
    /// The connection's mark.
    ConnectionMark(Mark),
    /// The sending process's user.
    OwnerUser(u32),
    /// The sending process's group.
    OwnerGroup(u32),
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("-p tcp"),
            Self::Udp => f.write_str("-p udp"),
            Self::Source(range) => write!(f, "-s {range}"),
            Self::Destination(range) => write!(f, "-d {range}"),
            Self::NotDestination(range) => write!(f, "! -d {range}"),
            Self::SourcePort(port) => write!(f, "--sport {port}"),
            Self::DestinationPort(port) => write!(f, "--dport {port}"),
            Self::NotDestinationPort(port) => write!(f, "! --dport {port}"),
            Self::In(interface) => write!(f, "-i {interface}"),
            Self::Out(interface) => write!(f, "-o {interface}"),
            Self::NotOut(interface) => write!(f, "! -o {interface}"),
            Self::PacketMark(mark) => write!(f, "-m mark --mark {mark}"),
            Self::NotPacketMark(mark) => write!(f, "-m mark ! --mark {mark}"),
            Self::ConnectionMark(mark) => write!(f, "-m connmark --mark {mark}"),
            Self::OwnerUser(uid) => write!(f, "-m owner --uid-owner {uid}"),
            Self::OwnerGroup(gid) => write!(f, "-m owner --gid-owner {gid}"),
        }
    }
}

/// What a rule does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Goes on in one of our chains.
    Jump(Chain),
    /// Ends the table: not captured.
    Accept,
    /// Leaves the chain: not captured by it.
    Return,
    /// Delivered to this local port.
    Redirect(u16),
    /// Marks the connection.
    SetConnectionMark(Mark),
    /// Gives the packet its connection's mark.
    RestoreMark,
    /// Tracks the packet apart from the others.
    Zone(u16),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jump(chain) => write!(f, "-j {}", chain.as_str()),
            Self::Accept => f.write_str("-j ACCEPT"),
            Self::Return => f.write_str("-j RETURN"),
            Self::Redirect(port) => write!(f, "-j REDIRECT --to-ports {port}"),
            Self::SetConnectionMark(mark) => write!(f, "-j CONNMARK --set-xmark {mark}"),
            Self::RestoreMark => {
                f.write_str("-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff")
            }
            Self::Zone(zone) => write!(f, "-j CT --zone {zone}"),
        }
    }
}

/// One rule of one chain of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The table.
    pub table: Table,
    /// The chain it is appended to.
    pub chain: Chain,
    /// Conditions, all of which must hold.
    pub matches: Vec<Match>,
    /// What happens then.
    pub target: Target,
}

impl Rule {
    /// Makes a rule.
    pub fn new(
        table: Table,
        chain: Chain,
        matches: impl IntoIterator<Item = Match>,
        target: Target,
    ) -> Self {
        Self {
            table,
            chain,
            matches: matches.into_iter().collect(),
            target,
        }
    }

    /// Conditions and target without the chain: what follows `-A CHAIN`.
    pub fn specification(&self) -> String {
        let mut text = String::new();
        for condition in &self.matches {
            text.push_str(&condition.to_string());
            text.push(' ');
        }
        text.push_str(&self.target.to_string());
        text
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-A {} {}", self.chain.as_str(), self.specification())
    }
}
