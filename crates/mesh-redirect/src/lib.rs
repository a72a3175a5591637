//! Redirection of a pod's traffic into its proxy: a typed rule set, applied to the **current**
//! network namespace in one `iptables-restore` transaction a family (interop/zds-cni.md sections 2
//! and 7).
//!
//! [`RuleSet`] is plain data made by [`Mode`]; [`RuleSet::render`] is pure. [`RuleSet::apply`] first
//! reads what stands, then writes one transaction that turns it into the rule set, so applying twice
//! gives the same rules and applying another mode replaces the first. [`RuleSet::remove`] takes
//! every chain, jump, route and address away again.
//!
//! Invariant: the proxy's own packets are never captured. They are known by the mark
//! [`mesh_model::PACKET_MARK`]; an owner match is the alternative for clusters whose proxy cannot
//! mark ([`LoopExclusion::Owner`]), and does not work in a user namespace that maps only root.

mod check;
mod error;
mod in_pod;
mod options;
mod routing;
mod rule;
mod sidecar;
mod system;
mod transaction;

use mesh_model::PACKET_MARK;

pub use check::{Finding, Report};
pub use error::{InterfaceError, RedirectError};
pub use options::{InPodOptions, Interface, LoopExclusion, Mode, Ports, SidecarOptions};
pub use rule::{Chain, Family, Mark, Match, Rule, Table, Target};

use routing::RoutingEntry;

/// The mark of a packet that a proxy itself sent, as a netfilter mark with its mask.
pub const PROXY_MARK: Mark = Mark {
    value: PACKET_MARK,
    mask: 0xfff,
};
/// The mark of a connection that came in through the proxy, and of the application's answers to it.
pub const RETURN_MARK: Mark = Mark {
    value: 0x111,
    mask: 0xfff,
};
/// Routing table that delivers packets with [`RETURN_MARK`] to the local proxy.
pub const ROUTE_TABLE: u32 = 100;
/// Priority of the `ip rule` that looks [`ROUTE_TABLE`] up.
pub const ROUTE_RULE_PRIORITY: u32 = 32764;

/// The complete redirection of one mode, for both families.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSet {
    v4: Vec<Rule>,
    v6: Vec<Rule>,
    routing: Vec<RoutingEntry>,
}

impl RuleSet {
    /// The rules of a mode.
    pub fn new(mode: &Mode) -> Self {
        match mode {
            Mode::InPod(options) => Self {
                v4: in_pod::rules(options, Family::V4),
                v6: in_pod::rules(options, Family::V6),
                routing: vec![RoutingEntry::ReturnRoute, RoutingEntry::ReturnRule],
            },
            Mode::Sidecar(options) => Self {
                v4: sidecar::rules(options, Family::V4),
                v6: sidecar::rules(options, Family::V6),
                routing: vec![RoutingEntry::InboundSourceAddress],
            },
        }
    }

    /// The rules of one family, in the order in which the kernel sees them within each chain.
    pub fn rules(&self, family: Family) -> &[Rule] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// The transaction for a namespace that has none of our rules yet, as `iptables-restore
    /// --noflush` reads it.
    pub fn render(&self, family: Family) -> String {
        transaction::install(self.rules(family), &transaction::Standing::default())
    }

    /// Puts the rules, routes and addresses into the current network namespace. Applying again
    /// changes nothing; applying another mode replaces this one. IPv6 is left out, with a log line,
    /// where the kernel has none.
    ///
    /// # Errors
    /// When a command is missing or refuses. Whatever was applied up to there is taken away again,
    /// so a pod is never left half captured.
    pub fn apply(&self) -> Result<(), RedirectError> {
        let outcome = self.apply_each_family();
        if outcome.is_err()
            && let Err(second) = self.remove()
        {
            tracing::warn!(error = %second, "taking back a failed redirection failed too");
        }
        outcome
    }

    fn apply_each_family(&self) -> Result<(), RedirectError> {
        for family in system::families() {
            // Routes and address first: nothing may be captured that has no way back.
            routing::set(&self.routing, family)?;
            let standing = system::standing(family, self.rules(family))?;
            let text = transaction::install(self.rules(family), &standing);
            system::restore(family, &text)?;
        }
        Ok(())
    }

    /// Compares the current network namespace with the rule set.
    ///
    /// # Errors
    /// When the tables cannot be read at all.
    pub fn check(&self) -> Result<Report, RedirectError> {
        let mut report = Report::default();
        for family in system::families() {
            let standing = system::standing(family, self.rules(family))?;
            check::tables(self.rules(family), family, &standing, &mut report)?;
            let missing = routing::missing(&self.routing, family)?;
            let missing = missing.into_iter().map(|what| Finding { family, what });
            report.missing.extend(missing);
        }
        Ok(report)
    }

    /// Takes every rule, chain, route and address of either mode out of the current network
    /// namespace. Removing what is not there is no error.
    ///
    /// # Errors
    /// When a command is missing or refuses. Capture ends before marks and routes go.
    pub fn remove(&self) -> Result<(), RedirectError> {
        for family in system::families() {
            let standing = system::standing(family, self.rules(family))?;
            if let Some(text) = transaction::uninstall(&standing) {
                system::restore(family, &text)?;
            }
            routing::set(&[], family)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
