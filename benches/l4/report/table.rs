//! The tables, as Markdown.

use super::targets::TARGETS;
use super::{Report, figure};
use crate::contender::Contender;
use crate::rows::{Metric, Row};

/// What is measured in words.
pub(super) fn title(row: Row, metric: Metric) -> String {
    let what = match row {
        Row::Memory => match metric {
            Metric::IdleMib => "memory, idle",
            Metric::PrivateMib => "memory, idle, its own alone",
            _ => "memory for an idle connection",
        },
        Row::Ready => "start to ready, local files",
        Row::Bulk1 => "bulk, 1 connection",
        Row::Bulk8 => "bulk, 8 connections",
        Row::Ping1 => "128 B there and back, 1 connection",
        Row::Ping32 => "128 B there and back, 32 connections",
        Row::Ping64 => "128 B there and back, 64 connections",
        Row::Ping256 => "128 B there and back, 256 connections",
        Row::Connections => "new connections, 16 in flight",
        Row::NodeBulk => "same node: bulk, all proxies",
        Row::NodePing => "same node: 128 B, 64 connections, all proxies",
    };
    format!("{what}, {}", metric.unit())
}

/// Everything.
pub(super) fn markdown(report: &Report) -> String {
    let mut text = format!(
        "# ztunnel at L4\n\n{}, {} round(s), {} s a sample, {} worker threads. {}\n\n{}\n\n{}\n",
        report.machine.date(),
        report.rounds,
        report.seconds,
        report.workers,
        report.note,
        report.machine.summary(),
        report.machine.versions(),
    );
    text +=
        "## Targets\n\nRatio: the median over the rounds of ours by theirs in the same round.\n\n";
    text += &targets(report);
    text += "\n## Medians\n\nCPU per proxy, of two, unless all are named.\n\n";
    text += &medians(report);
    text += "\n## Ours by theirs\n\n";
    text += &ratios(report);
    if report.failures() > 0 {
        text += &format!("\n{} sample(s) failed.\n", report.failures());
    }
    text
}

fn targets(report: &Report) -> String {
    let mut rows = Vec::new();
    for target in TARGETS {
        let (row, metric) = (target.row, target.metric);
        let median = |contender| {
            let value = report.median(row, contender, metric);
            value.map_or_else(none, figure)
        };
        let ratio = report.ratio(row, Contender::Strata, target.other, metric);
        let verdict = match ratio {
            Some(ratio) if target.met(ratio) => "met",
            Some(_) => "**not met**",
            None => "not measured",
        };
        rows.push(vec![
            title(row, metric),
            median(Contender::Strata),
            median(target.other),
            ratio.map_or_else(none, |ratio| format!("{ratio:.2}")),
            target.words(),
            verdict.to_owned(),
        ]);
    }
    let head = ["measure", "ours", "theirs", "ratio", "must reach", ""];
    table(&head.map(str::to_owned), &rows)
}

fn medians(report: &Report) -> String {
    let contenders = report.contenders();
    let mut head = vec!["measure".to_owned()];
    head.extend(contenders.iter().map(|c| c.as_str().to_owned()));
    let mut rows = Vec::new();
    for (row, metric) in report.figures() {
        let mut cells = vec![title(row, metric)];
        cells.extend(contenders.iter().map(|contender| {
            let value = report.median(row, *contender, metric);
            value.map_or_else(none, figure)
        }));
        rows.push(cells);
    }
    table(&head, &rows)
}

fn ratios(report: &Report) -> String {
    let mut others = report.contenders();
    others.retain(|contender| *contender != Contender::Strata);
    let mut head = vec!["measure".to_owned()];
    head.extend(others.iter().map(|c| format!("÷ {}", c.as_str())));
    let mut rows = Vec::new();
    for (row, metric) in report.figures() {
        let mut cells = vec![title(row, metric)];
        cells.extend(others.iter().map(|other| {
            let ratio = report.ratio(row, Contender::Strata, *other, metric);
            ratio.map_or_else(none, |ratio| format!("{ratio:.2}"))
        }));
        rows.push(cells);
    }
    table(&head, &rows)
}

/// Where there is no figure.
fn none() -> String {
    "-".to_owned()
}

fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule = vec!["---".to_owned(); head.len()];
    let rows: String = rows.iter().map(|row| line(row)).collect();
    format!("{}{}{rows}", line(head), line(&rule))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    #[test]
    fn each_target_is_judged() {
        let text = markdown(&example::report());
        assert!(
            text.contains(
                "| bulk, 1 connection, Gbit/s | 5.00 | 2.50 | 2.00 | ≥ 1.4 × peer | met |"
            )
        );
        assert!(text.contains("× limit | not measured |"));
        assert!(text.contains("| bulk, 1 connection, Gbit/s | 5.00 | 2.50 |\n"));
        assert!(text.contains("1 sample(s) failed"));
    }
}
