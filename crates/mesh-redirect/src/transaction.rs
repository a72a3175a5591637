//! Pure: from what stands in a namespace and what should stand to the text of one
//! `iptables-restore --noflush` transaction.

use std::collections::{BTreeMap, BTreeSet};

use crate::rule::{Chain, Rule, Table};

/// What a family's tables hold of ours, read from `iptables -S`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Each of our chains that exists, with its rules as printed.
    pub chains: BTreeMap<(Table, Chain), Vec<String>>,
    /// Each rule of a built-in chain that jumps to one of ours, copies included, as printed after
    /// `-A `.
    pub jumps: Vec<(Table, String)>,
}

impl Standing {
    /// Takes up the rules of one table as `iptables -S` lists them.
    pub(crate) fn read(&mut self, table: Table, listing: &str) {
        for line in listing.lines() {
            let mut words = line.split_ascii_whitespace();
            match (words.next(), words.next()) {
                (Some("-N"), Some(name)) => {
                    if let Some(chain) = our_chain(name) {
                        self.chains.entry((table, chain)).or_default();
                    }
                }
                (Some("-A"), Some(name)) => self.read_rule(table, name, line),
                _ => {}
            }
        }
    }

    fn read_rule(&mut self, table: Table, chain_name: &str, line: &str) {
        let specification = line.strip_prefix("-A ").unwrap_or(line).to_owned();
        if let Some(chain) = our_chain(chain_name) {
            self.chains
                .entry((table, chain))
                .or_default()
                .push(specification);
        } else if jump_of(line).and_then(our_chain).is_some() {
            self.jumps.push((table, specification));
        }
    }
}

fn our_chain(name: &str) -> Option<Chain> {
    Chain::OURS.into_iter().find(|chain| chain.as_str() == name)
}

/// The target of a printed rule.
fn jump_of(line: &str) -> Option<&str> {
    let mut words = line.split_ascii_whitespace();
    words.find(|word| *word == "-j")?;
    words.next()
}

/// The transaction that makes `standing` into `rules`: declared chains are emptied by
/// `iptables-restore`, our old jumps go, chains that are no longer wanted go.
pub(crate) fn install(rules: &[Rule], standing: &Standing) -> String {
    let mut text = String::new();
    for table in Table::ALL {
        let wanted = chains_of(rules, table);
        let stale: Vec<Chain> = chains_standing(standing, table)
            .filter(|chain| !wanted.contains(chain))
            .collect();
        let in_table = |rule: &&Rule| rule.table == table;
        if wanted.is_empty() && stale.is_empty() && jumps_of(standing, table).next().is_none() {
            continue;
        }
        start(&mut text, table, wanted.iter().chain(&stale).copied());
        drop_jumps(&mut text, standing, table);
        for rule in rules.iter().filter(in_table) {
            line(&mut text, &rule.to_string());
        }
        finish(&mut text, stale);
    }
    text
}

/// The transaction that takes all of ours away, capture first; `None` when nothing stands.
pub(crate) fn uninstall(standing: &Standing) -> Option<String> {
    let mut text = String::new();
    for table in Table::ALL.into_iter().rev() {
        let chains: Vec<Chain> = chains_standing(standing, table).collect();
        if chains.is_empty() && jumps_of(standing, table).next().is_none() {
            continue;
        }
        start(&mut text, table, chains.iter().copied());
        drop_jumps(&mut text, standing, table);
        finish(&mut text, chains);
    }
    (!text.is_empty()).then_some(text)
}

fn start(text: &mut String, table: Table, chains: impl Iterator<Item = Chain>) {
    line(text, &format!("*{}", table.as_str()));
    for chain in chains {
        line(text, &format!(":{} - [0:0]", chain.as_str()));
    }
}

fn drop_jumps(text: &mut String, standing: &Standing, table: Table) {
    for specification in jumps_of(standing, table) {
        line(text, &format!("-D {specification}"));
    }
}

fn finish(text: &mut String, stale: Vec<Chain>) {
    for chain in stale {
        line(text, &format!("-X {}", chain.as_str()));
    }
    line(text, "COMMIT");
}

fn line(text: &mut String, content: &str) {
    text.push_str(content);
    text.push('\n');
}

/// Our chains that hold rules in this table.
pub(crate) fn chains_of(rules: &[Rule], table: Table) -> BTreeSet<Chain> {
    rules
        .iter()
        .filter(|rule| rule.table == table)
        .map(|rule| rule.chain)
        .filter(|chain| !chain.is_builtin())
        .collect()
}

pub(crate) fn chains_standing(standing: &Standing, table: Table) -> impl Iterator<Item = Chain> {
    let ours = standing.chains.keys().copied();
    ours.filter_map(move |(of, chain)| (of == table).then_some(chain))
}

pub(crate) fn jumps_of(standing: &Standing, table: Table) -> impl Iterator<Item = &str> {
    let jumps = standing.jumps.iter();
    jumps.filter_map(move |(of, text)| (*of == table).then_some(text.as_str()))
}
