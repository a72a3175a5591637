//! Comparison of a namespace with a rule set.

use std::fmt;

use crate::error::RedirectError;
use crate::rule::{Chain, Family, Rule, Table};
use crate::system;
use crate::transaction::{Standing, chains_of, chains_standing, jumps_of};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The family it is in.
    pub family: Family,
    /// The rule, chain, route or address, in the words of `iptables` or `ip`.
    pub what: String,
}

/// The differences between a namespace and a rule set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What should stand and does not.
    pub missing: Vec<Finding>,
    /// What stands in our chains, or jumps to them, and should not.
    pub unexpected: Vec<Finding>,
}

impl Report {
    /// Whether the namespace holds the rule set and nothing else of ours.
    pub fn is_in_place(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_in_place() {
            return f.write_str("redirection is in place");
        }
        for finding in &self.missing {
            writeln!(f, "missing ({}): {}", finding.family, finding.what)?;
        }
        for finding in &self.unexpected {
            writeln!(f, "unexpected ({}): {}", finding.family, finding.what)?;
        }
        Ok(())
    }
}

/// Adds the differences of one family's tables to the report.
pub(crate) fn tables(
    rules: &[Rule],
    family: Family,
    standing: &Standing,
    report: &mut Report,
) -> Result<(), RedirectError> {
    let library = system::tables(family)?;
    for rule in rules {
        let table = rule.table.as_str();
        let chain_stands =
            rule.chain.is_builtin() || standing.chains.contains_key(&(rule.table, rule.chain));
        let stands = chain_stands
            && library
                .exists(table, rule.chain.as_str(), &rule.specification())
                .map_err(|error| RedirectError::Iptables {
                    command: format!("{} -t {table} -C", system::program(family)),
                    family,
                    message: error.to_string(),
                })?;
        if !stands {
            report.missing.push(Finding {
                family,
                what: format!("-t {table} {rule}"),
            });
        }
    }
    let extra = Table::ALL
        .into_iter()
        .flat_map(|table| unexpected(rules, table, standing));
    let extra = extra.map(|what| Finding { family, what });
    report.unexpected.extend(extra);
    Ok(())
}

/// What stands of ours in a table beyond the rule set: whole chains, surplus rules, surplus jumps.
fn unexpected(rules: &[Rule], table: Table, standing: &Standing) -> Vec<String> {
    let name = table.as_str();
    let mut found = Vec::new();
    let wanted = chains_of(rules, table);
    for chain in chains_standing(standing, table) {
        let have = standing.chains.get(&(table, chain)).map_or(0, Vec::len);
        let want = count(rules, table, chain);
        let chain_name = chain.as_str();
        if !wanted.contains(&chain) {
            found.push(format!("-t {name} -N {chain_name}"));
        } else if have > want {
            found.push(format!(
                "-t {name} {chain_name} has {have} rules, not {want}"
            ));
        }
    }
    let want = count(rules, table, Chain::Prerouting) + count(rules, table, Chain::Output);
    let have = jumps_of(standing, table).count();
    if have > want {
        found.push(format!(
            "-t {name} has {have} jumps to our chains, not {want}"
        ));
    }
    found
}

fn count(rules: &[Rule], table: Table, chain: Chain) -> usize {
    let of = |rule: &&Rule| rule.table == table && rule.chain == chain;
    rules.iter().filter(of).count()
}
