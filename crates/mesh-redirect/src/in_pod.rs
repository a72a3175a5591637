//! The rules of a pod served by the node proxy (interop/zds-cni.md section 2). Order matters.

use mesh_model::{Cidr, PORT_HBONE, PORT_INBOUND_PLAINTEXT, PORT_OUTBOUND};

use crate::options::{InPodOptions, Interface};
use crate::rule::{Chain, Family, Match, Rule, Table, Target};
use crate::sidecar::loopback;
use crate::{PROXY_MARK, RETURN_MARK};

/// The proxy's DNS port inside the pod.
const PORT_DNS: u16 = 15053;
/// The port of DNS servers.
const DNS: u16 = 53;
/// Tracking zone of DNS that the proxy forwards, so that its reply is not taken for the client's.
const DNS_ZONE: u16 = 1;

/// All rules of one family.
pub(crate) fn rules(options: &InPodOptions, family: Family) -> Vec<Rule> {
    let mut rules = Vec::new();
    if options.capture_dns {
        rules.extend(dns_zones());
    }
    rules.extend(marks());
    rules.extend(incoming(options, family));
    rules.extend(outgoing(options, family));
    rules
}

fn dns_zones() -> [Rule; 4] {
    [
        Rule::new(
            Table::Raw,
            Chain::Prerouting,
            [],
            Target::Jump(Chain::InPodPrerouting),
        ),
        Rule::new(Table::Raw, Chain::Output, [], Target::Jump(Chain::Outgoing)),
        Rule::new(
            Table::Raw,
            Chain::Outgoing,
            [
                Match::Udp,
                Match::DestinationPort(DNS),
                Match::PacketMark(PROXY_MARK),
            ],
            Target::Zone(DNS_ZONE),
        ),
        Rule::new(
            Table::Raw,
            Chain::InPodPrerouting,
            [
                Match::Udp,
                Match::SourcePort(DNS),
                Match::NotPacketMark(PROXY_MARK),
            ],
            Target::Zone(DNS_ZONE),
        ),
    ]
}

/// The proxy connects to the application from the client's address. Its packets leave a mark on the
/// connection, and the answers take that mark and so the way back to the proxy.
fn marks() -> [Rule; 4] {
    let mangle = Table::Mangle;
    [
        Rule::new(
            mangle,
            Chain::Prerouting,
            [],
            Target::Jump(Chain::InPodPrerouting),
        ),
        Rule::new(mangle, Chain::Output, [], Target::Jump(Chain::Outgoing)),
        Rule::new(
            mangle,
            Chain::InPodPrerouting,
            [Match::PacketMark(PROXY_MARK)],
            Target::SetConnectionMark(RETURN_MARK),
        ),
        Rule::new(
            mangle,
            Chain::Outgoing,
            [Match::ConnectionMark(RETURN_MARK)],
            Target::RestoreMark,
        ),
    ]
}

fn probe_source(options: &InPodOptions, family: Family) -> Cidr {
    Cidr::host(match family {
        Family::V4 => options.probe_source_v4.into(),
        Family::V6 => options.probe_source_v6.into(),
    })
}

fn incoming(options: &InPodOptions, family: Family) -> Vec<Rule> {
    let chain = Chain::InPodPrerouting;
    let add = |matches: Vec<Match>, target| Rule::new(Table::Nat, chain, matches, target);
    let mut rules = vec![Rule::new(
        Table::Nat,
        Chain::Prerouting,
        [],
        Target::Jump(chain),
    )];
    for interface in &options.virtual_interfaces {
        let from = Match::In(interface.clone());
        rules.push(add(
            vec![from.clone(), Match::Tcp],
            Target::Redirect(PORT_OUTBOUND),
        ));
        rules.push(add(vec![from], Target::Return));
    }
    if options.capture_inbound {
        let probe = Match::Source(probe_source(options, family));
        rules.push(add(vec![probe, Match::Tcp], Target::Accept));
        rules.push(add(
            vec![
                Match::NotDestination(loopback(family)),
                Match::Tcp,
                Match::NotDestinationPort(PORT_HBONE),
                Match::NotPacketMark(PROXY_MARK),
            ],
            Target::Redirect(PORT_INBOUND_PLAINTEXT),
        ));
    }
    rules
}

fn outgoing(options: &InPodOptions, family: Family) -> Vec<Rule> {
    let chain = Chain::Outgoing;
    let add = |matches: Vec<Match>, target| Rule::new(Table::Nat, chain, matches, target);
    let not_loopback = Match::NotDestination(loopback(family));
    let not_ours = Match::NotPacketMark(PROXY_MARK);
    let mut rules = vec![Rule::new(
        Table::Nat,
        Chain::Output,
        [],
        Target::Jump(chain),
    )];
    let probe = Match::Destination(probe_source(options, family));
    rules.push(add(vec![probe, Match::Tcp], Target::Accept));
    if options.capture_dns {
        let to_dns = Match::DestinationPort(DNS);
        rules.push(add(
            vec![
                Match::NotOut(Interface::loopback()),
                Match::Udp,
                to_dns.clone(),
                not_ours.clone(),
            ],
            Target::Redirect(PORT_DNS),
        ));
        rules.push(add(
            vec![not_loopback.clone(), Match::Tcp, to_dns, not_ours.clone()],
            Target::Redirect(PORT_DNS),
        ));
    }
    rules.push(add(
        vec![Match::Tcp, Match::PacketMark(RETURN_MARK)],
        Target::Accept,
    ));
    // The application calls itself by its pod address.
    rules.push(add(
        vec![not_loopback.clone(), Match::Out(Interface::loopback())],
        Target::Accept,
    ));
    rules.push(add(
        vec![not_loopback, Match::Tcp, not_ours],
        Target::Redirect(PORT_OUTBOUND),
    ));
    rules
}
