//! Metrics of the process itself, read from `/proc/self` when scraped.

use crate::{logging, tracer};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;

/// Clock ticks a second in `/proc`: fixed at 100 in what Linux shows to programs (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug)]
pub(crate) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        counter(
            &mut to,
            "strata_log_records_dropped",
            "Log lines lost because the log could not be written fast enough.",
            &ConstCounter::new(logging::dropped()),
        )?;
        counter(
            &mut to,
            "strata_spans_lost",
            "Spans lost because the queue was full or the collector did not take them.",
            &ConstCounter::new(tracer::lost()),
        )?;
        if let Some(status) = Status::read() {
            gauge(
                &mut to,
                "process_resident_memory_bytes",
                "Resident memory.",
                status.resident_bytes,
            )?;
            gauge(&mut to, "process_threads", "Threads.", status.threads)?;
        }
        if let Some(seconds) = cpu_seconds() {
            counter(
                &mut to,
                "process_cpu_seconds",
                "Processor time used, user and system.",
                &ConstCounter::new(seconds),
            )?;
        }
        if let Some(count) = open_files() {
            gauge(&mut to, "process_open_fds", "Open file descriptors.", count)?;
        }
        if let Some(count) = max_files() {
            let help = "File descriptors that may be open.";
            gauge(&mut to, "process_max_fds", help, count)?;
        }
        Ok(())
    }
}

fn counter<N>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: &ConstCounter<N>,
) -> fmt::Result
where
    ConstCounter<N>: EncodeMetric,
{
    let kind = value.metric_type();
    value.encode(to.encode_descriptor(name, help, None, kind)?)
}

fn gauge(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: i64) -> fmt::Result {
    let value = ConstGauge::new(value);
    let kind = value.metric_type();
    value.encode(to.encode_descriptor(name, help, None, kind)?)
}

struct Status {
    resident_bytes: i64,
    threads: i64,
}

impl Status {
    fn read() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/status").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let number = |name: &str| -> Option<i64> {
            let line = text.lines().find_map(|l| l.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse().ok()
        };
        Some(Self {
            resident_bytes: number("VmRSS:")?.saturating_mul(1024),
            threads: number("Threads:")?,
        })
    }
}

fn cpu_seconds() -> Option<f64> {
    parse_cpu_seconds(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// `utime` and `stime` are the 14th and 15th fields; the second is a name in brackets that may hold
/// anything, so counting starts after its last bracket.
fn parse_cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

fn open_files() -> Option<i64> {
    // The directory handle that counts is itself one of the entries.
    let entries = std::fs::read_dir("/proc/self/fd").ok()?.count();
    i64::try_from(entries.saturating_sub(1)).ok()
}

fn max_files() -> Option<i64> {
    parse_max_files(&std::fs::read_to_string("/proc/self/limits").ok()?)
}

/// The soft limit; none when there is no limit.
fn parse_max_files(limits: &str) -> Option<i64> {
    let line = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_stat_are_read() {
        let status = Status::parse("Name:\tx\nVmRSS:\t    12 kB\nThreads:\t3\n").unwrap();
        assert_eq!(status.resident_bytes, 12 * 1024);
        assert_eq!(status.threads, 3);
        let stat = "1 (a ) b) S 1 1 1 0 -1 4194560 1 1 0 0 150 50 0 0 20";
        assert_eq!(parse_cpu_seconds(stat), Some(2.0));
        let limits =
            "Limit  Soft  Hard\nMax open files            1024                 4096    files\n";
        assert_eq!(parse_max_files(limits), Some(1024));
        assert!(Status::parse("").is_none());
        assert!(parse_cpu_seconds("1").is_none());
    }

    #[test]
    fn this_process_has_memory_and_files() {
        assert!(Status::read().unwrap().resident_bytes > 0);
        assert!(open_files().unwrap() > 0);
        assert!(cpu_seconds().is_some());
    }
}
