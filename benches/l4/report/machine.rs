//! The machine and the programs: figures of two machines do not compare.

use crate::contender::Contender;
use crate::mesh;
use crate::settings::{Settings, Template};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a run ran on.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Machine {
    processor: String,
    processors: usize,
    memory_mib: u64,
    kernel: String,
    /// Load average as the run began: what else was busy.
    load: String,
    /// Seconds since 1970 as the run began.
    time: u64,
    /// What each program says it is.
    versions: BTreeMap<Contender, String>,
}

impl Machine {
    /// One line of it.
    pub(crate) fn summary(&self) -> String {
        let Self {
            processor,
            processors,
            memory_mib,
            kernel,
            load,
            ..
        } = self;
        format!("{processors} × {processor}, {memory_mib} MiB, Linux {kernel}, load {load}")
    }

    /// Each program on a line.
    pub(super) fn versions(&self) -> String {
        let line = |(contender, version): (&Contender, &String)| {
            format!("- {}: {version}\n", contender.as_str())
        };
        self.versions.iter().map(line).collect()
    }

    /// When the run began, UTC.
    pub(super) fn date(&self) -> String {
        let (year, month, day) = civil(self.time / 86_400);
        let (hour, minute) = (self.time / 3600 % 24, self.time / 60 % 60);
        format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
    }
}

/// The day of a count of days since 1970-01-01 (Gregorian; years begin in March while reckoning).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

/// Looks.
pub(crate) fn facts(settings: &Settings, aead: Option<&str>) -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let kibibytes = after(&read("/proc/meminfo"), "MemTotal");
    let kibibytes: u64 = kibibytes.trim_end_matches(" kB").parse().unwrap_or(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Machine {
        processor: after(&read("/proc/cpuinfo"), "model name"),
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        memory_mib: kibibytes / 1024,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        load: read("/proc/loadavg").trim().to_owned(),
        time: now.map_or(0, |time| time.as_secs()),
        versions: versions(settings, aead),
    }
}

fn versions(settings: &Settings, aead: Option<&str>) -> BTreeMap<Contender, String> {
    let mut versions = BTreeMap::new();
    let strata = settings.strata.display().to_string();
    versions.insert(Contender::Strata, said(&strata, "--version"));
    if let Some(base) = &settings.base {
        let base = base.display().to_string();
        versions.insert(Contender::Base, said(&base, "--version"));
    }
    if let Some(command) = &settings.peer
        && let Ok(template) = Template::new(command)
    {
        let program = template.fill(&[]).0.display().to_string();
        versions.insert(Contender::Peer, said(&program, "version"));
    }
    if let Ok(program) = mesh::haproxy(settings) {
        let program = program.display().to_string();
        versions.insert(Contender::Haproxy, said(&program, "-v"));
    }
    if let Some(aead) = aead {
        versions.insert(
            Contender::Limit,
            format!("{aead}, the fastest AES-256-GCM here"),
        );
    }
    versions
}

/// The first line that a program prints; nothing when it will not say.
fn said(program: &str, question: &str) -> String {
    let output = Command::new(program).arg(question).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dated() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_781), (2026, 11, 24));
    }

    #[test]
    fn this_machine_has_facts() {
        use clap::Parser;
        let settings = Settings::parse_from(["bench-l4", "--strata", "/no/such/file"]);
        let machine = facts(&settings, Some("ring-256"));
        assert!(machine.processors > 0 && machine.memory_mib > 0 && !machine.kernel.is_empty());
        assert!(machine.versions().contains("limit: ring-256"));
    }
}
