//! What really went over a wire of the lab, recorded as a pcap file.
//!
//! Not by tcpdump: it insists on changing its user when it is root, which a user namespace that
//! maps only root forbids. `tcpdump -r` and Wireshark read the file.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::spawn_blocking;

use crate::place::Place;

/// `ETH_P_ALL` in network byte order: every frame of every protocol.
const EVERY_PROTOCOL: i32 = 0x0300;
/// `PACKET_OUTGOING`: a frame that the interface sends.
const OUTGOING: u8 = 4;
/// Kernel memory for frames that arrive faster than they are written.
const RECEIVE_BUFFER: usize = 32 << 20;
/// Longest frame: the kernel hands segments on in aggregates of up to 64 KiB, or more with big TCP.
const FRAME_LENGTH_MAX: u32 = 256 << 10;
/// How often the recorder looks whether it is to stop.
const STOP_INTERVAL: Duration = Duration::from_millis(20);
/// Opening of a classic pcap file with microseconds, in the writer's byte order.
const MAGIC: u32 = 0xa1b2_c3d4;
/// Link type Ethernet.
const ETHERNET: u32 = 1;

/// A running capture. Dropping it ends it and leaves the file.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    recorder: Option<JoinHandle<io::Result<Captured>>>,
}

/// Interfaces to record.
struct Interfaces {
    /// The interface that was asked for.
    itself: usize,
    /// Its ports, if it is a bridge.
    ports: Vec<usize>,
}

impl Interfaces {
    /// Reads them in the current namespace. `/sys` would show another one's.
    fn find(name: &str) -> Result<Self> {
        let mut show = Command::new("ip");
        let listing = crate::command::output(show.args(["-o", "link", "show", "master", name]))?;
        let index = |line: &str| line.split_once(':')?.0.parse().ok();
        let itself = nix::net::if_::if_nametoindex(name).with_context(|| name.to_owned())?;
        Ok(Self {
            itself: itself as usize,
            ports: listing.lines().filter_map(index).collect(),
        })
    }

    /// Whether this sighting of a frame is the one to record: a bridged frame is seen coming in at
    /// one port and going out of others, and once only is it recorded.
    fn records(&self, address: &LinkAddr) -> bool {
        let outgoing = address.pkttype() == OUTGOING;
        if self.ports.contains(&address.ifindex()) {
            !outgoing
        } else {
            address.ifindex() == self.itself && (self.ports.is_empty() || outgoing)
        }
    }
}

impl Capture {
    /// Records every frame of an interface of a place, from now on. Of a bridge, that is what any of
    /// its ports takes in and what it sends itself, each frame once. All traffic between nodes:
    /// `Capture::start(lab.outside(), topology::WIRE, file)`.
    ///
    /// # Errors
    /// When there is no such interface, no permission, or the file cannot be written.
    pub async fn start(place: &Place, interface: &str, file: &Path) -> Result<Self> {
        let (place, interface) = (place.clone(), interface.to_owned());
        let opening = spawn_blocking(move || place.enter(|| open(&interface)));
        let (socket, interfaces) = opening.await???;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.set_read_timeout(Some(STOP_INTERVAL))?;
        let opened = File::create(file).with_context(|| file.display().to_string())?;
        let stop = Arc::new(AtomicBool::new(false));
        let recorder = Recorder {
            socket,
            interfaces,
            output: BufWriter::new(opened),
            stop: Arc::clone(&stop),
            captured: Captured {
                file: file.to_owned(),
                packets: 0,
                bytes: 0,
            },
        };
        let thread = thread::Builder::new().name("capture".to_owned());
        Ok(Self {
            stop,
            recorder: Some(thread.spawn(move || recorder.run())?),
        })
    }

    /// Ends the capture, when what has been sent up to now is recorded.
    ///
    /// # Errors
    /// When recording failed.
    pub async fn stop(mut self) -> Result<Captured> {
        self.stop.store(true, Ordering::Relaxed);
        let recorder = self.recorder.take().context("the capture has ended")?;
        let outcome = spawn_blocking(move || recorder.join()).await?;
        let outcome = outcome.map_err(|_| anyhow!("the recorder panicked"))?;
        outcome.context("cannot record")
    }
}

/// A socket that sees every frame of the current namespace, and which of them are meant.
fn open(interface: &str) -> Result<(Socket, Interfaces)> {
    let interfaces = Interfaces::find(interface)?;
    let protocol = Protocol::from(EVERY_PROTOCOL);
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))
        .context("cannot open a packet socket")?;
    Ok((socket, interfaces))
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Recorder {
    socket: Socket,
    interfaces: Interfaces,
    output: BufWriter<File>,
    stop: Arc<AtomicBool>,
    captured: Captured,
}

impl Recorder {
    fn run(mut self) -> io::Result<Captured> {
        self.output.write_all(&file_header())?;
        let mut frame = vec![0; FRAME_LENGTH_MAX as usize];
        loop {
            // Read before the socket is: what was sent before the stop is in its buffer by then.
            let stopping = self.stop.load(Ordering::Relaxed);
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut frame) {
                Ok((length, Some(address))) if self.interfaces.records(&address) => {
                    self.write(frame.get(..length).unwrap_or_default())?;
                }
                // Another interface's, or an interface went down.
                Ok(_) | Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(Errno::EAGAIN) if stopping => break,
                Err(Errno::EAGAIN) => self.output.flush()?,
                Err(error) => return Err(error.into()),
            }
        }
        self.output.flush()?;
        Ok(self.captured)
    }

    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // The format's 32 bits of seconds last until 2106.
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        for word in [seconds, now.subsec_micros(), length, length] {
            self.output.write_all(&word.to_ne_bytes())?;
        }
        self.output.write_all(frame)?;
        self.captured.packets += 1;
        self.captured.bytes += u64::from(length);
        Ok(())
    }
}

fn file_header() -> Vec<u8> {
    let mut header = MAGIC.to_ne_bytes().to_vec();
    header.extend(2_u16.to_ne_bytes());
    header.extend(4_u16.to_ne_bytes());
    // Time zone, accuracy (both always 0), longest packet, link type.
    for word in [0, 0, FRAME_LENGTH_MAX, ETHERNET] {
        header.extend(word.to_ne_bytes());
    }
    header
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
    /// In how many packets the bytes occur in the clear. A text that a packet boundary cuts in two
    /// is not found, so look for short ones.
    ///
    /// # Errors
    /// When the file cannot be read, or `needle` is empty.
    pub fn packets_with(&self, needle: &[u8]) -> Result<u64> {
        ensure!(!needle.is_empty(), "nothing to look for");
        let mut found = 0;
        let opened = File::open(&self.file).with_context(|| self.file.display().to_string())?;
        for_each_packet(BufReader::new(opened), |packet| {
            found += u64::from(packet.windows(needle.len()).any(|window| window == needle));
        })?;
        Ok(found)
    }
}

/// Reads a pcap file of this machine's byte order.
fn for_each_packet(mut reader: impl Read, mut visit: impl FnMut(&[u8])) -> Result<()> {
    let mut header = [0; 24];
    reader
        .read_exact(&mut header)
        .context("the capture has no header")?;
    ensure!(header.starts_with(&MAGIC.to_ne_bytes()), "not a pcap file");
    let mut packet = Vec::new();
    loop {
        let mut record = [0; 16];
        if let Err(error) = reader.read_exact(&mut record) {
            ensure!(error.kind() == ErrorKind::UnexpectedEof, error);
            return Ok(());
        }
        let [_, _, _, _, _, _, _, _, a, b, c, d, ..] = record;
        let length = u32::from_ne_bytes([a, b, c, d]);
        ensure!(length <= FRAME_LENGTH_MAX, "a packet of {length} bytes");
        packet.resize(length as usize, 0);
        reader
            .read_exact(&mut packet)
            .context("the capture ends within a packet")?;
        visit(&packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pcap(packets: &[&[u8]]) -> Vec<u8> {
        let mut file = file_header();
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
