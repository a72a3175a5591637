//! What to measure and with which programs.

use crate::contender::Contender;
use crate::rows::Row;
use anyhow::{Context, Result, ensure};
use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;

/// Flags of the benchmark.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "bench-l4",
    about = "Measures our ztunnel against peers, in one run"
)]
pub(crate) struct Settings {
    /// Our ztunnel.
    #[arg(long, value_name = "FILE")]
    pub(crate) strata: PathBuf,
    /// An earlier build of our ztunnel, measured beside it as `base`.
    #[arg(long, value_name = "FILE")]
    pub(crate) base: Option<PathBuf>,
    /// Command of the peer, a ztunnel that takes Istio's environment; `{node}`, `{pod}`, `{config}`
    /// (file of the local configuration, if any) and `{workers}` in it are replaced.
    #[arg(long, value_name = "CMD")]
    pub(crate) peer: Option<String>,
    /// Command of the program that measures the floor.
    #[arg(long, value_name = "CMD")]
    pub(crate) limit: Option<String>,
    /// HAProxy; looked for on PATH when not given.
    #[arg(long, value_name = "FILE")]
    pub(crate) haproxy: Option<PathBuf>,
    /// Folder of our control plane and authority; that of this program when not given.
    #[arg(long, value_name = "DIR")]
    pub(crate) control: Option<PathBuf>,
    /// Rounds; the figures are medians of them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub(crate) rounds: u16,
    /// Length of one sample, after a warm-up of a quarter of it.
    #[arg(long, default_value = "1.5", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// Worker threads of every proxy.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) workers: u16,
    /// Idle connections that the memory row opens.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u16).range(1..=8000))]
    pub(crate) idle: u16,
    /// Folder for results.
    #[arg(long, value_name = "DIR", default_value = "target/bench-l4")]
    pub(crate) out: PathBuf,
    /// Only these rows, comma between.
    #[arg(long, value_delimiter = ',', value_name = "ROW")]
    pub(crate) only: Vec<Row>,
    /// Only these contenders, comma between.
    #[arg(long, value_delimiter = ',', value_name = "CONTENDER")]
    pub(crate) contenders: Vec<Contender>,
    /// Words about the run that are kept with its results: commit, profile, what else ran.
    #[arg(long, default_value = "")]
    pub(crate) note: String,
}

impl Settings {
    /// Whether a contender is wanted.
    pub(crate) fn wants(&self, contender: Contender) -> bool {
        self.contenders.is_empty() || self.contenders.contains(&contender)
    }

    /// The rows to measure, in the order of the table.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let all = Row::all();
        all.iter()
            .copied()
            .filter(|row| self.only.is_empty() || self.only.contains(row))
            .collect()
    }

    /// Folder of our control plane and authority.
    ///
    /// # Errors
    /// When this program's own folder is not known.
    pub(crate) fn control(&self) -> Result<PathBuf> {
        if let Some(folder) = &self.control {
            return Ok(folder.clone());
        }
        let program = std::env::current_exe().context("cannot find this program's file")?;
        let folder = program.parent().context("this program has no folder")?;
        Ok(folder.to_owned())
    }
}

fn seconds(text: &str) -> Result<Duration> {
    let seconds: f64 = text.parse().context("seconds are a number")?;
    ensure!(
        (0.05..=60.0).contains(&seconds),
        "from 0.05 to 60 seconds a sample"
    );
    Ok(Duration::from_secs_f64(seconds))
}

/// A command line of words with placeholders.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    words: Vec<String>,
}

impl Template {
    /// Splits at blanks; there is no quoting.
    ///
    /// # Errors
    /// When it is empty.
    pub(crate) fn new(text: &str) -> Result<Self> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        ensure!(!words.is_empty(), "an empty command");
        Ok(Self { words })
    }

    /// The program and its arguments, placeholders replaced.
    pub(crate) fn fill(&self, values: &[(&str, &str)]) -> (PathBuf, Vec<String>) {
        let mut words = self.words.iter().map(|word| {
            values.iter().fold(word.clone(), |word, (name, value)| {
                word.replace(&format!("{{{name}}}"), value)
            })
        });
        let program = words.next().unwrap_or_default();
        (program.into(), words.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced() {
        let template = Template::new("/bin/peer --node {node} {other}").unwrap();
        let (program, arguments) = template.fill(&[("node", "node-1")]);
        assert_eq!(program, PathBuf::from("/bin/peer"));
        assert_eq!(arguments, ["--node", "node-1", "{other}"]);
        assert!(Template::new("  ").is_err());
    }

    #[test]
    fn a_sample_has_a_bound() {
        assert_eq!(seconds("0.5").unwrap(), Duration::from_millis(500));
        assert!(seconds("600").is_err());
        assert!(seconds("x").is_err());
    }
}
