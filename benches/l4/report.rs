//! What comes out: every sample as JSON, a table, a picture.

pub(crate) mod machine;
mod picture;
mod table;
mod targets;

use crate::contender::Contender;
use crate::rows::{Metric, Metrics, Row};
use crate::settings::Settings;
use anyhow::{Context, Result};
use machine::Machine;
use serde::Serialize;
use std::fs;
use std::path::Path;

/// One sample.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    round: u16,
    row: Row,
    contender: Contender,
    metrics: Metrics,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Sample {
    /// Of what a row found.
    pub(crate) fn new(
        round: u16,
        row: Row,
        contender: Contender,
        outcome: Result<Metrics>,
    ) -> Self {
        let (metrics, error) = match outcome {
            Ok(metrics) => (metrics, None),
            Err(error) => (Metrics::new(), Some(format!("{error:#}"))),
        };
        Self {
            round,
            row,
            contender,
            metrics,
            error,
        }
    }

    /// Its figures, for the terminal.
    pub(crate) fn line(&self) -> String {
        let figures: Vec<String> = self
            .metrics
            .iter()
            .map(|(metric, value)| format!("{} {}", figure(*value), metric.unit()))
            .collect();
        figures.join(", ")
    }
}

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    rounds: u16,
    seconds: f64,
    workers: u16,
    idle_connections: u16,
    note: String,
    /// Every sample, in the order in which they were taken.
    pub(crate) samples: Vec<Sample>,
}

impl Report {
    /// Without a sample yet.
    pub(crate) fn new(settings: &Settings, machine: Machine) -> Self {
        Self {
            machine,
            rounds: 0,
            seconds: settings.seconds.as_secs_f64(),
            workers: settings.workers,
            idle_connections: settings.idle,
            note: settings.note.clone(),
            samples: Vec::new(),
        }
    }

    /// One more round is whole.
    pub(crate) fn finish_round(&mut self) {
        self.rounds += 1;
    }

    /// Samples that failed.
    pub(crate) fn failures(&self) -> usize {
        let failed = |sample: &&Sample| sample.error.is_some();
        self.samples.iter().filter(failed).count()
    }

    /// Writes `l4.json`, `l4.md` and `l4.svg`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let files = [
            ("l4.json", serde_json::to_string_pretty(self)? + "\n"),
            ("l4.md", self.markdown()),
            ("l4.svg", picture::draw(self)),
        ];
        for (name, text) in files {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// The tables.
    pub(crate) fn markdown(&self) -> String {
        table::markdown(self)
    }

    /// Whoever has a sample, in the order of the tables.
    fn contenders(&self) -> Vec<Contender> {
        let present = |c: &Contender| self.samples.iter().any(|sample| sample.contender == *c);
        Contender::ALL.into_iter().filter(present).collect()
    }

    /// Each figure that anyone has, in the order of the table.
    fn figures(&self) -> Vec<(Row, Metric)> {
        let mut figures: Vec<(Row, Metric)> = self
            .samples
            .iter()
            .flat_map(|sample| sample.metrics.keys().map(|metric| (sample.row, *metric)))
            .collect();
        figures.sort_unstable();
        figures.dedup();
        figures
    }

    fn value(&self, round: u16, row: Row, contender: Contender, metric: Metric) -> Option<f64> {
        let of = |s: &&Sample| (s.round, s.row, s.contender) == (round, row, contender);
        self.samples.iter().find(of)?.metrics.get(&metric).copied()
    }

    /// The median over the rounds.
    fn median(&self, row: Row, contender: Contender, metric: Metric) -> Option<f64> {
        let values = (1..=self.last_round()).filter_map(|r| self.value(r, row, contender, metric));
        median(values.collect())
    }

    /// The median over the rounds of ours by the other's in the same round: what drifts between
    /// rounds on a machine that others use too does not count.
    fn ratio(&self, row: Row, ours: Contender, other: Contender, metric: Metric) -> Option<f64> {
        let values = (1..=self.last_round()).filter_map(|round| {
            let (a, b) = (
                self.value(round, row, ours, metric)?,
                self.value(round, row, other, metric)?,
            );
            (b > 0.0).then_some(a / b)
        });
        median(values.collect())
    }

    fn last_round(&self) -> u16 {
        self.samples.iter().map(|s| s.round).max().unwrap_or(0)
    }
}

/// The middle one, or between the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *values.get(middle.checked_sub(1)?)?;
    Some(f64::midpoint(lower, upper))
}

/// Three significant digits, or all that stand before the point.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

impl Metric {
    /// What it counts in.
    fn unit(self) -> &'static str {
        match self {
            Self::GbitS => "Gbit/s",
            Self::CpuSGb => "CPU s/GB",
            Self::Rate => "/s",
            Self::P50Us => "µs p50",
            Self::P99Us => "µs p99",
            Self::CpuUs => "CPU µs",
            Self::CpuMs => "CPU ms",
            Self::IdleMib => "MiB resident",
            Self::PrivateMib => "MiB private",
            Self::ConnectionKib => "KiB a connection",
            Self::ReadyMs => "ms",
        }
    }

    /// Whether more of it is better.
    fn more_is_better(self) -> bool {
        matches!(self, Self::GbitS | Self::Rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(figure(12_345.6), "12346");
        assert_eq!(figure(12.34), "12.3");
        assert_eq!(figure(1.2345), "1.23");
        assert_eq!(figure(0.1234), "0.123");
    }
}

#[cfg(test)]
pub(crate) mod example {
    use super::*;

    /// A run of two rounds in which ours carries twice the peer's.
    pub(crate) fn report() -> Report {
        let bulk = |round, contender, gbit: f64| {
            let metrics = Metrics::from([(Metric::GbitS, gbit), (Metric::CpuSGb, 1.0 / gbit)]);
            Sample::new(round, Row::Bulk1, contender, Ok(metrics))
        };
        Report {
            machine: Machine::default(),
            rounds: 2,
            seconds: 2.0,
            workers: 2,
            idle_connections: 10,
            note: "a <test>".to_owned(),
            samples: vec![
                bulk(1, Contender::Strata, 8.0),
                bulk(1, Contender::Peer, 4.0),
                bulk(2, Contender::Peer, 1.0),
                bulk(2, Contender::Strata, 2.0),
                Sample::new(2, Row::Bulk8, Contender::Peer, Err(anyhow::anyhow!("gone"))),
            ],
        }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let report = report();
        let (row, metric) = (Row::Bulk1, Metric::GbitS);
        let ratio = report.ratio(row, Contender::Strata, Contender::Peer, metric);
        assert_eq!(ratio, Some(2.0));
        assert_eq!(report.median(row, Contender::Strata, metric), Some(5.0));
        assert_eq!(
            report.ratio(row, Contender::Strata, Contender::Limit, metric),
            None
        );
        assert_eq!(report.failures(), 1);
    }
}
