//! The demo's result: a table for people, JSON for programs.

use serde::Serialize;

/// One check.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    /// Its name.
    pub(crate) name: &'static str,
    /// Whether it holds.
    pub(crate) ok: bool,
    /// The layers that the traffic crossed, such as `L4` or `L4 L7`.
    pub(crate) layers: String,
    /// The proxies that reported it, in the order of the way.
    pub(crate) hops: Vec<String>,
    /// Peer identities seen by the proxies, without the trust domain.
    pub(crate) identities: Vec<String>,
    /// Median latency with the mesh, microseconds.
    pub(crate) p50_us_mesh: Option<u64>,
    /// Median latency of the same without the mesh, microseconds.
    pub(crate) p50_us_direct: Option<u64>,
    /// What was seen.
    pub(crate) detail: String,
}

/// All checks.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether every check holds.
    pub(crate) ok: bool,
    /// The checks.
    pub(crate) checks: Vec<Check>,
}

impl Report {
    /// A report of checks; one that holds nothing is not ok.
    pub(crate) fn new(checks: Vec<Check>) -> Self {
        Self {
            ok: !checks.is_empty() && checks.iter().all(|c| c.ok),
            checks,
        }
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let header = [
            "check",
            "layers and hops",
            "peer identities",
            "p50 mesh",
            "p50 direct",
            "result",
        ];
        let mut rows = vec![header.map(str::to_owned)];
        rows.extend(self.checks.iter().map(row));
        let mut widths = [0; 6];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for (index, row) in rows.iter().enumerate() {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(row) {
                let pad = width.saturating_sub(cell.chars().count()) + 2;
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', pad));
            }
            text.push_str(line.trim_end());
            text.push('\n');
            if index == 0 {
                text.push_str(&"-".repeat(widths.iter().sum::<usize>() + 10));
                text.push('\n');
            }
        }
        for check in &self.checks {
            let mark = if check.ok { ' ' } else { '!' };
            text.push_str(&format!("{mark} {}: {}\n", check.name, check.detail));
        }
        text
    }
}

fn row(check: &Check) -> [String; 6] {
    let time = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), |us| format!("{us} us"));
    let hops = if check.hops.is_empty() {
        "-".to_owned()
    } else {
        check.hops.join(" > ")
    };
    [
        check.name.to_owned(),
        format!("{}: {hops}", check.layers),
        if check.identities.is_empty() {
            "-".to_owned()
        } else {
            check.identities.join(" ")
        },
        time(check.p50_us_mesh),
        time(check.p50_us_direct),
        if check.ok { "ok" } else { "FAILED" }.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ok: bool) -> Check {
        Check {
            name: "probe",
            ok,
            layers: "L4".into(),
            hops: vec!["ztunnel node-1".into(), "ztunnel node-2".into()],
            identities: vec!["demo/client".into()],
            p50_us_mesh: Some(310),
            p50_us_direct: None,
            detail: "seen".into(),
        }
    }

    #[test]
    fn one_failed_check_fails_the_report() {
        assert!(Report::new(vec![check(true)]).ok);
        assert!(!Report::new(vec![check(true), check(false)]).ok);
        assert!(!Report::new(Vec::new()).ok);
    }

    #[test]
    fn the_table_names_hops_and_result() {
        let table = Report::new(vec![check(true), check(false)]).table();
        assert!(
            table.contains("L4: ztunnel node-1 > ztunnel node-2"),
            "{table}"
        );
        assert!(table.contains("310 us"), "{table}");
        assert!(table.contains("FAILED"), "{table}");
        assert!(table.contains("! probe: seen"), "{table}");
    }
}
