//! The picture: a panel a figure, a bar a contender.

use super::table::title;
use super::{Report, figure};
use crate::contender::Contender;
use crate::rows::{Metric, Row};

/// Width of a panel.
const PANEL: f64 = 420.0;
/// Panels side by side.
const COLUMNS: usize = 3;
/// Between panels, and around them.
const GAP: f64 = 28.0;
/// Height of a bar with its gap.
const BAR: f64 = 22.0;
/// Height of a panel's title.
const HEAD: f64 = 26.0;
/// Height of the picture's title.
const TOP: f64 = 86.0;
/// Where bars begin, and the room for their figures behind the longest.
const LABELS: f64 = 70.0;
const FIGURES: f64 = 70.0;

fn colour(contender: Contender) -> &'static str {
    match contender {
        Contender::Direct => "#b8bec6",
        Contender::Strata => "#1f6feb",
        Contender::Base => "#8ab4f8",
        Contender::Peer => "#d97706",
        Contender::Haproxy => "#4d9e6b",
        Contender::Limit => "#6b7280",
    }
}

/// Draws the medians of a run. The direct way has no bar where it would dwarf the others; its figure
/// stands instead.
pub(super) fn draw(report: &Report) -> String {
    let figures = report.figures();
    let contenders = report.contenders();
    let tall = HEAD + BAR * to_f64(contenders.len()) + GAP;
    let lines = figures.len().div_ceil(COLUMNS);
    let width = GAP + (PANEL + GAP) * to_f64(COLUMNS);
    let height = TOP + tall * to_f64(lines) + GAP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"system-ui, sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let medians = format!("medians of {} round(s)", report.rounds);
    let lines = [
        (34.0, 20, "#111827", "ztunnel at L4".to_owned()),
        (54.0, 12, "#4b5563", report.machine.summary()),
        (
            70.0,
            12,
            "#4b5563",
            format!("{}, {medians}. {}", report.machine.date(), report.note),
        ),
    ];
    for (y, size, fill, words) in lines {
        text(&mut svg, GAP, y, size, fill, &words);
    }
    for (index, (row, metric)) in figures.into_iter().enumerate() {
        let x = GAP + (PANEL + GAP) * to_f64(index % COLUMNS);
        let y = TOP + tall * to_f64(index / COLUMNS);
        panel(&mut svg, report, &contenders, (row, metric), x, y);
    }
    svg + "</svg>\n"
}

fn panel(
    svg: &mut String,
    report: &Report,
    contenders: &[Contender],
    (row, metric): (Row, Metric),
    x: f64,
    y: f64,
) {
    let better = if metric.more_is_better() {
        "more is better"
    } else {
        "less is better"
    };
    let words = format!("{} ({better})", title(row, metric));
    text(svg, x, y + 14.0, 12, "#111827", &words);
    let values: Vec<(Contender, f64)> = contenders
        .iter()
        .filter_map(|c| Some((*c, report.median(row, *c, metric)?)))
        .collect();
    let longest = values
        .iter()
        .filter(|(contender, _)| *contender != Contender::Direct)
        .map(|(_, value)| *value)
        .fold(f64::MIN_POSITIVE, f64::max);
    let room = PANEL - LABELS - FIGURES;
    for (index, (contender, value)) in values.into_iter().enumerate() {
        let top = y + HEAD + BAR * to_f64(index);
        let length = (value / longest).clamp(0.0, 1.0) * room;
        let beyond = value > longest;
        let fill = colour(contender);
        text(svg, x, top + 12.0, 12, "#374151", contender.as_str());
        let left = x + LABELS;
        put(
            svg,
            &format!(
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"15\" rx=\"2\" \
                 fill=\"{fill}\"{}/>",
                if beyond { " fill-opacity=\"0.5\"" } else { "" }
            ),
        );
        let mark = if beyond { "› " } else { "" };
        let words = format!("{mark}{}", figure(value));
        text(svg, left + length + 6.0, top + 12.0, 12, "#111827", &words);
    }
}

fn text(svg: &mut String, x: f64, y: f64, size: u8, fill: &str, words: &str) {
    let words = words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let line = format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{fill}\">{words}</text>"
    );
    put(svg, &line);
}

fn put(svg: &mut String, line: &str) {
    svg.push_str(line);
    svg.push('\n');
}

/// Counts here are small.
fn to_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    #[test]
    fn words_are_escaped_and_every_figure_has_its_bars() {
        let svg = draw(&example::report());
        assert!(svg.contains("a &lt;test&gt;"));
        // The background, and two bars for each of two figures.
        assert_eq!(svg.matches("<rect").count(), 5);
        assert!(svg.trim_end().ends_with("</svg>"));
    }
}
