//! The rules of a pod with a proxy of its own (interop/zds-cni.md section 7, with the mark in the
//! place of the owner). Order matters.

use std::net::{Ipv4Addr, Ipv6Addr};

use mesh_model::{Cidr, PORT_INBOUND_PLAINTEXT, PORT_OUTBOUND};

use crate::PROXY_MARK;
use crate::options::{
    INBOUND_SOURCE_V4, INBOUND_SOURCE_V6, Interface, LoopExclusion, Ports, SIDECAR_PORTS,
    SidecarOptions,
};
use crate::rule::{Chain, Family, Match, Rule, Table, Target};

/// The loopback range: all of 127/8 for IPv4, one address for IPv6.
pub(crate) fn loopback(family: Family) -> Cidr {
    match family {
        // 8 and 128 are within the length of their family, so both arms are the good case.
        Family::V4 => Cidr::new(Ipv4Addr::new(127, 0, 0, 0).into(), 8)
            .unwrap_or_else(|_| Cidr::host(Ipv4Addr::LOCALHOST.into())),
        Family::V6 => Cidr::host(Ipv6Addr::LOCALHOST.into()),
    }
}

/// All rules of one family.
pub(crate) fn rules(options: &SidecarOptions, family: Family) -> Vec<Rule> {
    let mut rules = vec![
        add(
            Chain::SidecarInboundRedirect,
            [Match::Tcp],
            Target::Redirect(PORT_INBOUND_PLAINTEXT),
        ),
        add(
            Chain::SidecarOutboundRedirect,
            [Match::Tcp],
            Target::Redirect(PORT_OUTBOUND),
        ),
    ];
    rules.extend(inbound(options));
    rules.extend(outbound(options, family));
    rules
}

fn add(chain: Chain, matches: impl IntoIterator<Item = Match>, target: Target) -> Rule {
    Rule::new(Table::Nat, chain, matches, target)
}

fn inbound(options: &SidecarOptions) -> Vec<Rule> {
    let chain = Chain::SidecarInbound;
    let to = |port| [Match::Tcp, Match::DestinationPort(port)];
    let mut rules = vec![add(Chain::Prerouting, [Match::Tcp], Target::Jump(chain))];
    for interface in &options.exclude_interfaces {
        rules.push(add(chain, [Match::In(interface.clone())], Target::Return));
    }
    for port in SIDECAR_PORTS {
        rules.push(add(chain, to(port), Target::Return));
    }
    for port in &options.exclude_inbound_ports {
        if !SIDECAR_PORTS.contains(port) {
            rules.push(add(chain, to(*port), Target::Return));
        }
    }
    let capture = Target::Jump(Chain::SidecarInboundRedirect);
    match &options.include_inbound_ports {
        Ports::All => rules.push(add(chain, [Match::Tcp], capture)),
        Ports::Only(ports) => {
            rules.extend(ports.iter().map(|port| add(chain, to(*port), capture)));
        }
    }
    rules
}

fn outbound(options: &SidecarOptions, family: Family) -> Vec<Rule> {
    let chain = Chain::Outgoing;
    let inbound_source = Cidr::host(match family {
        Family::V4 => INBOUND_SOURCE_V4.into(),
        Family::V6 => INBOUND_SOURCE_V6.into(),
    });
    let out_loopback = Match::Out(Interface::loopback());
    let mut rules = vec![add(Chain::Output, [Match::Tcp], Target::Jump(chain))];
    rules.extend(own_packets(&options.exclusion));
    rules.push(add(
        chain,
        [Match::Source(inbound_source), out_loopback.clone()],
        Target::Return,
    ));
    // The application calls itself, by loopback or by its pod address.
    rules.push(add(chain, [out_loopback], Target::Return));
    rules.push(add(
        chain,
        [Match::Destination(loopback(family))],
        Target::Return,
    ));
    for interface in &options.exclude_interfaces {
        rules.push(add(chain, [Match::Out(interface.clone())], Target::Return));
    }
    for port in &options.exclude_outbound_ports {
        rules.push(add(
            chain,
            [Match::Tcp, Match::DestinationPort(*port)],
            Target::Return,
        ));
    }
    for range in of_family(&options.exclude_outbound_ranges, family) {
        rules.push(add(chain, [Match::Destination(range)], Target::Return));
    }
    rules.extend(captured(options, family));
    rules
}

fn own_packets(exclusion: &LoopExclusion) -> Vec<Rule> {
    let chain = Chain::Outgoing;
    match exclusion {
        LoopExclusion::Mark => vec![add(chain, [Match::PacketMark(PROXY_MARK)], Target::Return)],
        LoopExclusion::Owner { uid, gid } => vec![
            add(chain, [Match::OwnerUser(*uid)], Target::Return),
            add(chain, [Match::OwnerGroup(*gid)], Target::Return),
        ],
    }
}

fn captured(options: &SidecarOptions, family: Family) -> Vec<Rule> {
    let chain = Chain::Outgoing;
    let capture = Target::Jump(Chain::SidecarOutboundRedirect);
    let Some(ranges) = &options.include_outbound_ranges else {
        return vec![add(chain, [Match::Tcp], capture)];
    };
    let by_port = options
        .include_outbound_ports
        .iter()
        .map(|port| add(chain, [Match::Tcp, Match::DestinationPort(*port)], capture));
    let by_range = of_family(ranges, family)
        .map(|range| add(chain, [Match::Tcp, Match::Destination(range)], capture));
    by_port.chain(by_range).collect()
}

fn of_family(ranges: &[Cidr], family: Family) -> impl Iterator<Item = Cidr> {
    ranges
        .iter()
        .copied()
        .filter(move |range| range.address().is_ipv4() == (family == Family::V4))
}
