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
    /// All, in the order of removal: the rule goes before the route it looks up.
    pub(crate) const ALL: [Self; 3] = [
        Self::ReturnRule,
        Self::ReturnRoute,
        Self::InboundSourceAddress,
    ];

    /// The entry in the words of `ip`.
    pub(crate) fn describe(self, family: Family) -> String {
        self.arguments("add", family).join(" ")
    }

    fn arguments(self, verb: &str, family: Family) -> Vec<String> {
        let everything = match family {
            Family::V4 => "0.0.0.0/0",
            Family::V6 => "::/0",
        };
        let text = match self {
            Self::ReturnRoute => {
                format!("route {verb} local {everything} dev lo table {ROUTE_TABLE}")
            }
            Self::ReturnRule => format!(
                "rule {verb} fwmark {RETURN_MARK} lookup {ROUTE_TABLE} priority {ROUTE_RULE_PRIORITY}"
            ),
            Self::InboundSourceAddress => format!("addr {verb} ::6/128 dev lo"),
        };
        text.split(' ').map(str::to_owned).collect()
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

/// Adds the entry unless it is there.
pub(crate) fn add(entry: RoutingEntry, family: Family) -> Result<(), RedirectError> {
    if !present(entry, family)? {
        ip(family, &entry.arguments("add", family))?.success()?;
    }
    Ok(())
}

/// Removes the entry if it is there.
pub(crate) fn remove(entry: RoutingEntry, family: Family) -> Result<(), RedirectError> {
    if entry.needed(family) && present(entry, family)? {
        ip(family, &entry.arguments("del", family))?.success()?;
    }
    Ok(())
}

/// Whether the entry stands, or is not needed.
pub(crate) fn present(entry: RoutingEntry, family: Family) -> Result<bool, RedirectError> {
    if !entry.needed(family) {
        return Ok(true);
    }
    let table = ROUTE_TABLE.to_string();
    let words: &[&str] = match entry {
        RoutingEntry::ReturnRoute => &["route", "show", "table", &table],
        RoutingEntry::ReturnRule => &["rule", "show"],
        RoutingEntry::InboundSourceAddress => &["addr", "show", "dev", "lo"],
    };
    let outcome = ip(family, words)?;
    // The kernel makes a table with its first route and answers a question before with an error.
    if entry == RoutingEntry::ReturnRoute && outcome.says("does not exist") {
        return Ok(false);
    }
    let listing = outcome.success()?;
    Ok(listing.lines().any(|line| stands_in(entry, line)))
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
            RoutingEntry::ReturnRule.describe(Family::V4),
            "rule add fwmark 0x111/0xfff lookup 100 priority 32764"
        );
        assert_eq!(
            RoutingEntry::ReturnRoute.describe(Family::V6),
            "route add local ::/0 dev lo table 100"
        );
    }
}
