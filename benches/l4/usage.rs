//! What a process has cost so far: processor time and memory.

use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Memory of a process, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident, with what it shares of its program file.
    pub(crate) resident: u64,
    /// Of that, what is its own alone.
    pub(crate) private: u64,
}

/// Processor time of processes, all threads, user and system together.
///
/// # Errors
/// When one has ended.
pub(crate) fn cpu(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|pid| cpu_of(*pid)).sum()
}

/// From each thread's `schedstat`, whose unit is the nanosecond; `stat` counts ticks of 10 ms.
/// A thread that has ended is missing, but the threads of a proxy live as long as it does.
fn cpu_of(pid: u32) -> Result<Duration> {
    let threads = PathBuf::from(format!("/proc/{pid}/task"));
    let gone = || format!("process {pid} has ended");
    let mut nanoseconds = 0;
    for thread in fs::read_dir(&threads).with_context(gone)? {
        let file = thread.with_context(gone)?.path().join("schedstat");
        // A thread that ended between the two calls.
        let Ok(text) = fs::read_to_string(file) else {
            continue;
        };
        nanoseconds += first_number(&text).with_context(gone)?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Memory of a process.
///
/// # Errors
/// When it has ended.
pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    memory_of(&text).with_context(|| path)
}

fn memory_of(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    };
    Some(Memory {
        resident: field("Rss:")?,
        private: field("Private_Clean:")? + field("Private_Dirty:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_usage_is_read() {
        let own = std::process::id();
        assert!(cpu(&[own]).unwrap() > Duration::ZERO);
        let memory = memory(own).unwrap();
        assert!(memory.resident >= memory.private && memory.private > 0);
        assert!(cpu(&[u32::MAX]).is_err());
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "1000-2000 ---p\nRss:   12 kB\nPrivate_Clean:  1 kB\nPrivate_Dirty:  2 kB\n";
        let memory = memory_of(text).unwrap();
        assert_eq!((memory.resident, memory.private), (12 << 10, 3 << 10));
        assert_eq!(memory_of("Rss: 12 kB\n"), None);
    }
}
