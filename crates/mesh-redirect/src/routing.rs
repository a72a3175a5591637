//! What redirection needs beside the tables: the route back to the proxy for answers of the
//! application, and the sidecar's IPv6 source address.

use std::fs;

use crate::error::RedirectError;
use crate::rule::Family;
use crate::system::ip;
use crate::{RETURN_MARK, ROUTE_RULE_PRIORITY, ROUTE_TABLE};

/// One entry outside the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RoutingEntry {
    /// Everything in [`ROUTE_TABLE`] is local.
    ReturnRoute,
    /// Packets with [`RETURN_MARK`] look [`ROUTE_TABLE`] up.
    ReturnRule,
    /// `::6` on loopback, from which a sidecar connects to its application. IPv4 needs nothing:
    /// all of 127/8 is local.
    InboundSourceAddress,
}

impl RoutingEntry {
    /// All. The order is of no consequence: a rule that looks an empty table up goes on to the next.
    pub(crate) const ALL: [Self; 3] = [
        Self::ReturnRule,
        Self::ReturnRoute,
        Self::InboundSourceAddress,
    ];

    /// The change of the entry in the words of `ip`.
    fn line(self, verb: &str, family: Family) -> String {
        let everything = match family {
            Family::V4 => "0.0.0.0/0",
            Family::V6 => "::/0",
        };
        match self {
            Self::ReturnRoute => {
                format!("route {verb} local {everything} dev lo table {ROUTE_TABLE}")
            }
            Self::ReturnRule => format!(
                "rule {verb} fwmark {RETURN_MARK} lookup {ROUTE_TABLE} priority {ROUTE_RULE_PRIORITY}"
            ),
            Self::InboundSourceAddress => format!("addr {verb} ::6/128 dev lo"),
        }
    }

    /// Whether the family needs the entry here. Without IPv6 on loopback nothing arrives there.
    fn needed(self, family: Family) -> bool {
        match family {
            Family::V4 => self != Self::InboundSourceAddress,
            Family::V6 => fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
                .is_ok_and(|value| value.trim() == "0"),
        }
    }
}

/// Makes `wanted` the only ones of the entries that stand.
pub(crate) fn set(wanted: &[RoutingEntry], family: Family) -> Result<(), RedirectError> {
    let standing = standing(family)?;
    let mut batch = String::new();
    let mut change = |verb: &str, entry: RoutingEntry| {
        batch.push_str(&entry.line(verb, family));
        batch.push('\n');
    };
    for entry in RoutingEntry::ALL {
        match (wanted.contains(&entry), standing.contains(&entry)) {
            (false, true) => change("del", entry),
            (true, false) if entry.needed(family) => change("add", entry),
            _ => {}
        }
    }
    if !batch.is_empty() {
        ip(family, &["-batch", "-"], &batch)?.success()?;
    }
    Ok(())
}

/// Those of `wanted` that the family needs and that do not stand, in the words of `ip`.
pub(crate) fn missing(
    wanted: &[RoutingEntry],
    family: Family,
) -> Result<Vec<String>, RedirectError> {
    let standing = standing(family)?;
    let absent = wanted
        .iter()
        .filter(|entry| entry.needed(family) && !standing.contains(entry));
    Ok(absent.map(|entry| entry.line("add", family)).collect())
}

/// The entries that stand, all read in one go.
fn standing(family: Family) -> Result<Vec<RoutingEntry>, RedirectError> {
    let questions = format!("rule show\nroute show table {ROUTE_TABLE}\naddr show dev lo\n");
    let outcome = ip(family, &["-force", "-batch", "-"], &questions)?;
    // The kernel makes a table with its first route and answers a question before with an error.
    let listing = if outcome.says("does not exist") {
        outcome.printed()
    } else {
        outcome.success()?
    };
    let stands = |entry: &RoutingEntry| listing.lines().any(|line| stands_in(*entry, line));
    Ok(RoutingEntry::ALL.into_iter().filter(stands).collect())
}

fn stands_in(entry: RoutingEntry, line: &str) -> bool {
    let has = |wanted: &str| line.split_ascii_whitespace().any(|word| word == wanted);
    match entry {
        RoutingEntry::ReturnRoute => has("local") && has("default") && has("lo"),
        RoutingEntry::ReturnRule => has(&RETURN_MARK.to_string()) && has(&ROUTE_TABLE.to_string()),
        RoutingEntry::InboundSourceAddress => has("::6/128"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_of_iproute_are_understood() {
        assert!(stands_in(
            RoutingEntry::ReturnRule,
            "32764:\tfrom all fwmark 0x111/0xfff lookup 100"
        ));
        assert!(!stands_in(
            RoutingEntry::ReturnRule,
            "0:\tfrom all lookup local"
        ));
        assert!(stands_in(
            RoutingEntry::ReturnRoute,
            "local default dev lo metric 1024 pref medium"
        ));
        assert!(stands_in(
            RoutingEntry::ReturnRoute,
            "local default dev lo scope host"
        ));
        assert!(stands_in(
            RoutingEntry::InboundSourceAddress,
            "    inet6 ::6/128 scope global"
        ));
        assert!(!stands_in(
            RoutingEntry::InboundSourceAddress,
            "    inet6 ::1/128 scope host"
        ));
    }

    #[test]
    fn entries_read_as_ip_commands() {
        assert_eq!(
            RoutingEntry::ReturnRule.line("add", Family::V4),
            "rule add fwmark 0x111/0xfff lookup 100 priority 32764"
        );
        assert_eq!(
            RoutingEntry::ReturnRoute.line("add", Family::V6),
            "route add local ::/0 dev lo table 100"
        );
    }
}
