//! What really went over the wire, by tcpdump.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::place::Place;
use crate::process::{Process, ProcessSpec, tail};

/// How long tcpdump may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks at its messages.
const LOOK_INTERVAL: Duration = Duration::from_millis(15);
/// Longest packet record taken; longer means the file is damaged.
const RECORD_LENGTH_MAX: u32 = 1 << 20;

/// A running capture. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
    log: PathBuf,
}

impl Capture {
    /// Captures everything on an interface of a place, into a pcap file; returns when it listens.
    /// All traffic between nodes: `Capture::start(lab.outside(), topology::WIRE, file)`.
    ///
    /// # Errors
    /// When tcpdump cannot be run or does not listen within 10 s.
    pub async fn start(place: &Place, interface: &str, file: &Path) -> Result<Self> {
        let log = file.with_extension("log");
        let text = |path: &Path| path.display().to_string();
        // -Z root: it would else become a user that the lab's user namespace does not have.
        let spec = ProcessSpec::new("tcpdump", "tcpdump", &log)
            .args(["-Z", "root", "-U", "-n", "--immediate-mode", "-s", "0"])
            .args(["-i", interface, "-w"])
            .arg(text(file));
        let mut capture = Self {
            tcpdump: Process::start(place, spec)?,
            file: file.to_owned(),
            log,
        };
        let deadline = Instant::now() + PATIENCE;
        while !crate::process::read_lossy(&capture.log)?.contains("listening on") {
            let ended = capture.tcpdump.ended()?.is_some();
            if ended || Instant::now() > deadline {
                bail!(
                    "tcpdump does not listen on {interface}: {}",
                    tail(&capture.log)
                );
            }
            sleep(LOOK_INTERVAL).await;
        }
        Ok(capture)
    }

    /// Ends the capture.
    ///
    /// # Errors
    /// When tcpdump does not end by itself or its file cannot be read.
    pub async fn stop(mut self) -> Result<Captured> {
        self.tcpdump.signal(Signal::SIGINT)?;
        let deadline = Instant::now() + PATIENCE;
        while self.tcpdump.ended()?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "tcpdump does not end: {}",
                tail(&self.log)
            );
            sleep(LOOK_INTERVAL).await;
        }
        Captured::read(&self.file)
    }
}

/// A finished capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// The pcap file.
    pub file: PathBuf,
    /// Packets in it.
    pub packets: u64,
    /// Their bytes, link headers included.
    pub bytes: u64,
}

impl Captured {
    fn read(file: &Path) -> Result<Self> {
        let mut captured = Self {
            file: file.to_owned(),
            packets: 0,
            bytes: 0,
        };
        for_each_packet(open(file)?, |packet| {
            captured.packets += 1;
            captured.bytes += packet.len() as u64;
        })
        .with_context(|| file.display().to_string())?;
        Ok(captured)
    }

    /// In how many packets the bytes occur in the clear. A text that a packet boundary cuts in two
    /// is not found, so look for short ones.
    ///
    /// # Errors
    /// When the file cannot be read, or `needle` is empty.
    pub fn packets_with(&self, needle: &[u8]) -> Result<u64> {
        ensure!(!needle.is_empty(), "nothing to look for");
        let mut found = 0;
        for_each_packet(open(&self.file)?, |packet| {
            found += u64::from(packet.windows(needle.len()).any(|window| window == needle));
        })?;
        Ok(found)
    }
}

fn open(file: &Path) -> Result<BufReader<File>> {
    let opened = File::open(file).with_context(|| file.display().to_string())?;
    Ok(BufReader::new(opened))
}

/// Reads a pcap file (libpcap's classic format) in this machine's byte order.
fn for_each_packet(mut reader: impl Read, mut visit: impl FnMut(&[u8])) -> Result<()> {
    let mut header = [0; 24];
    reader
        .read_exact(&mut header)
        .context("the capture has no header")?;
    let [a, b, c, d, ..] = header;
    let magic = u32::from_ne_bytes([a, b, c, d]);
    // The first with microseconds, the second with nanoseconds.
    ensure!(
        [0xa1b2_c3d4, 0xa1b2_3c4d].contains(&magic),
        "not a pcap file"
    );
    let mut packet = Vec::new();
    loop {
        let mut record = [0; 16];
        match reader.read(&mut record[..1])? {
            0 => return Ok(()),
            _ => reader.read_exact(&mut record[1..])?,
        }
        let [_, _, _, _, _, _, _, _, a, b, c, d, ..] = record;
        let length = u32::from_ne_bytes([a, b, c, d]);
        ensure!(length <= RECORD_LENGTH_MAX, "a packet of {length} bytes");
        packet.resize(length as usize, 0);
        reader.read_exact(&mut packet)?;
        visit(&packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pcap(packets: &[&[u8]]) -> Vec<u8> {
        let mut file = 0xa1b2_c3d4_u32.to_ne_bytes().to_vec();
        file.extend([0; 20]);
        for packet in packets {
            let length = u32::try_from(packet.len()).unwrap().to_ne_bytes();
            file.extend([0; 8]);
            file.extend(length);
            file.extend(length);
            file.extend(*packet);
        }
        file
    }

    #[test]
    fn packets_are_read_and_damage_is_an_error() {
        let mut seen = Vec::new();
        let file = pcap(&[b"one", b"", b"three"]);
        for_each_packet(&file[..], |packet| seen.push(packet.to_vec())).unwrap();
        assert_eq!(seen, [b"one".to_vec(), Vec::new(), b"three".to_vec()]);
        assert!(for_each_packet(&file[..file.len() - 1], |_| ()).is_err());
        assert!(for_each_packet(&[0; 40][..], |_| ()).is_err());
        assert!(for_each_packet(&[][..], |_| ()).is_err());
    }
}
