//! What ours must reach, as ratios within one run.

use crate::contender::Contender;
use crate::rows::{Metric, Row};

/// A ratio to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Target {
    /// The row.
    pub(super) row: Row,
    /// Its figure.
    pub(super) metric: Metric,
    /// Compared with whom.
    pub(super) other: Contender,
    /// Ours by theirs: at least this where more is better, else at most.
    pub(super) ratio: f64,
}

const fn target(row: Row, metric: Metric, other: Contender, ratio: f64) -> Target {
    Target {
        row,
        metric,
        other,
        ratio,
    }
}

/// All of them.
pub(super) const TARGETS: &[Target] = &[
    target(Row::Bulk1, Metric::GbitS, Contender::Peer, 1.4),
    target(Row::Bulk1, Metric::GbitS, Contender::Limit, 0.85),
    target(Row::Bulk1, Metric::CpuSGb, Contender::Peer, 0.75),
    target(Row::Bulk1, Metric::CpuSGb, Contender::Limit, 1.2),
    target(Row::Bulk8, Metric::GbitS, Contender::Peer, 1.4),
    target(Row::Bulk8, Metric::CpuSGb, Contender::Peer, 0.75),
    target(Row::Ping64, Metric::Rate, Contender::Peer, 1.7),
    target(Row::Ping64, Metric::CpuUs, Contender::Peer, 0.55),
    target(Row::Ping64, Metric::CpuUs, Contender::Haproxy, 1.0),
    target(Row::Ping1, Metric::P50Us, Contender::Peer, 0.95),
    target(Row::Connections, Metric::Rate, Contender::Peer, 1.8),
    target(Row::Connections, Metric::CpuMs, Contender::Peer, 0.6),
    target(Row::Memory, Metric::IdleMib, Contender::Peer, 0.7),
    target(Row::Memory, Metric::ConnectionKib, Contender::Peer, 0.65),
    target(Row::Ready, Metric::ReadyMs, Contender::Peer, 1.0),
    target(Row::NodeBulk, Metric::CpuSGb, Contender::Haproxy, 1.1),
    target(Row::NodePing, Metric::CpuUs, Contender::Haproxy, 1.1),
];

impl Target {
    /// Whether a ratio is good enough.
    pub(super) fn met(&self, ratio: f64) -> bool {
        if self.metric.more_is_better() {
            ratio >= self.ratio
        } else {
            ratio <= self.ratio
        }
    }

    /// `≥ 1.4 × peer`.
    pub(super) fn words(&self) -> String {
        let sign = if self.metric.more_is_better() {
            '≥'
        } else {
            '≤'
        };
        format!("{sign} {} × {}", self.ratio, self.other.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_bytes_and_less_time_are_better() {
        let bytes = target(Row::Bulk1, Metric::GbitS, Contender::Peer, 1.4);
        assert!(bytes.met(1.4) && !bytes.met(1.3));
        assert_eq!(bytes.words(), "≥ 1.4 × peer");
        let time = target(Row::Ready, Metric::ReadyMs, Contender::Peer, 1.0);
        assert!(time.met(0.9) && !time.met(1.1));
        assert_eq!(time.words(), "≤ 1 × peer");
    }
}
