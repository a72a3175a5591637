//! Names, as an application of a pod resolves them: the system's own resolver (`getent`), captured.

use crate::world::{Running, Shared};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use mesh_lab::Place;
use mesh_lab::client::{Target, tcp_exchange};
use mesh_redirect::{InPodOptions, Mode, RuleSet};
use nix::mount::{MsFlags, mount};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The only server that `resolv.conf` names: on the wire, outside the nodes.
const UPSTREAM: &str = "10.42.0.1:53";
/// What it says of every name.
const FOREIGN: [u8; 4] = [192, 0, 2, 53];
/// How long anything may take; the proxy itself gives up after 5 s.
const WITHIN: Duration = Duration::from_secs(15);

pub(crate) fn trials(shared: &Shared) -> Vec<Trial> {
    vec![shared.trial("names_of_the_mesh_and_of_others_resolve_in_a_pod", resolves)]
}

/// Puts a `resolv.conf` of the lab's own over the system's. In the lab's mount namespace, and before
/// a ztunnel reads it.
pub(crate) fn resolv_conf() -> Result<()> {
    let file = "/run/lab-resolv.conf";
    let search = "demo.svc.cluster.local svc.cluster.local cluster.local";
    let text =
        format!("nameserver 10.42.0.1\nsearch {search}\noptions ndots:5 timeout:10 attempts:1\n");
    std::fs::write(file, text)?;
    mount(
        Some(file),
        "/etc/resolv.conf",
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .context("cannot put a resolv.conf in place")
}

/// A server outside that answers every A question, until it is told to be silent.
struct Upstream {
    speaks: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    fn start() -> Result<Self> {
        let socket = UdpSocket::bind(UPSTREAM).context("the upstream server")?;
        let speaks = Arc::new(AtomicBool::new(true));
        let ended = Arc::new(AtomicBool::new(false));
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (still, over) = (speaks.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !over.load(Ordering::Relaxed) {
                // Nothing in time, or an earlier answer that was not wanted.
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let reply = buffer.get(..length).and_then(answer);
                if let (Some(reply), true) = (reply, still.load(Ordering::Relaxed)) {
                    drop(socket.send_to(&reply, peer));
                }
            }
        });
        Ok(Self {
            speaks,
            ended,
            thread: Some(thread),
        })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has shown itself.
            drop(thread.join());
        }
    }
}

/// The question with an A record behind it, or with nothing for another type.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let labels = query.get(12..)?.iter().position(|b| *b == 0)? + 13;
    let mut reply = query.get(..labels + 4)?.to_vec();
    let is_a = reply.get(labels..labels + 2)? == [0, 1];
    for (at, byte) in [(2, 0x81), (3, 0x80), (7, u8::from(is_a)), (9, 0), (11, 0)] {
        *reply.get_mut(at)? = byte;
    }
    if is_a {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(FOREIGN);
    }
    Some(reply)
}

/// What the pod's C library makes of a name: the first address, or none.
async fn getent(place: &Place, name: &str) -> Result<Option<IpAddr>> {
    let (place, name) = (place.clone(), name.to_owned());
    let run = move || -> Result<Option<IpAddr>> {
        let mut command = Command::new("getent");
        command.args(["ahostsv4", &name]);
        let output = place.enter(|| command.output())??;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text
            .split_ascii_whitespace()
            .next()
            .and_then(|t| t.parse().ok()))
    };
    tokio::time::timeout(WITHIN, tokio::task::spawn_blocking(run)).await??
}

/// An A question.
fn question(name: &str) -> Result<Vec<u8>> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len())?);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    Ok(query)
}

/// RCODE and number of answers in the reply to [`question`].
fn outcome(reply: &[u8]) -> Result<(u8, u8)> {
    let [0x12, 0x34, _, codes, _, _, _, answers, ..] = reply else {
        bail!("too short, or another id: {reply:?}");
    };
    Ok((codes & 0xf, *answers))
}

/// Asks without the C library.
fn over_udp(place: &Place, name: &str) -> Result<(u8, u8)> {
    let socket = place.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
    socket.set_read_timeout(Some(WITHIN))?;
    socket.send_to(&question(name)?, UPSTREAM)?;
    let mut reply = [0; 512];
    let (length, from) = socket.recv_from(&mut reply)?;
    ensure!(from == UPSTREAM.parse::<SocketAddr>()?, "{from} answered");
    outcome(reply.get(..length).context("too short")?)
}

/// Asks a server that does not listen there: only the proxy can answer.
fn over_tcp(place: &Place, name: &str) -> Result<(u8, u8)> {
    let to = UPSTREAM.parse()?;
    let mut stream = place.enter(|| TcpStream::connect_timeout(&to, WITHIN))??;
    stream.set_read_timeout(Some(WITHIN))?;
    let question = question(name)?;
    stream.write_all(&u16::try_from(question.len())?.to_be_bytes())?;
    stream.write_all(&question)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply)?;
    outcome(&reply)
}

async fn asked(
    place: &Place,
    how: fn(&Place, &str) -> Result<(u8, u8)>,
    name: &'static str,
) -> Result<(u8, u8)> {
    let place = place.clone();
    tokio::task::spawn_blocking(move || how(&place, name)).await?
}

/// Captures the client's DNS, and takes that back however the test ends: others use the pod.
async fn resolves(running: &mut Running) -> Result<()> {
    let place = running.world.place("client")?.clone();
    let with = |capture_dns| {
        RuleSet::new(&Mode::InPod(InPodOptions {
            capture_dns,
            ..InPodOptions::default()
        }))
    };
    let [captured, usual] = [with(true), with(false)];
    place.enter(|| captured.apply())??;
    let outcome = names(&place).await;
    place.enter(|| usual.apply())??;
    outcome?;
    let tables = place.enter(|| Command::new("iptables-save").output())??;
    let tables = String::from_utf8_lossy(&tables.stdout).into_owned();
    ensure!(!tables.contains("15053"), "rules are left:\n{tables}");
    Ok(())
}

async fn names(place: &Place) -> Result<()> {
    let upstream = Upstream::start()?;

    let vip: IpAddr = "10.96.0.12".parse()?;
    for name in [
        "mail-ambient",
        "mail-ambient.demo",
        "mail-ambient.demo.svc",
        "mail-ambient.demo.svc.cluster.local",
        "MAIL-ambient.demo.svc.cluster.local.",
    ] {
        let got = getent(place, name).await?;
        ensure!(got == Some(vip), "{name} is {got:?}");
    }
    let got = getent(place, "www.outside.example").await?;
    ensure!(got == Some(FOREIGN.into()), "the foreign name is {got:?}");

    // The name leads to the service.
    let target = Target::new(SocketAddr::new(vip, 25)).from_place(place);
    let greeting = tcp_exchange(&target, b"QUIT\r\n", WITHIN).await?;
    ensure!(greeting.starts_with(b"220"), "no greeting: {greeting:?}");

    // Over TCP, where nobody listens upstream.
    let got = asked(place, over_tcp, "mail-ambient.demo.svc.cluster.local").await?;
    ensure!(got == (0, 1), "over TCP: {got:?}");
    let got = asked(place, over_tcp, "tcp.outside.example").await?;
    ensure!(got == (2, 0), "{got:?} instead of SERVFAIL over TCP");

    // With the upstream silent, names of the mesh hold, and others fail in time.
    upstream.speaks.store(false, Ordering::Relaxed);
    let got = asked(place, over_udp, "new.outside.example").await?;
    ensure!(got == (2, 0), "{got:?} instead of SERVFAIL");
    ensure!(getent(place, "mail-ambient").await? == Some(vip), "lost");
    Ok(())
}
