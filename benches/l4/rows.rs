//! One sample of each row.

use crate::contender::Contender;
use crate::limit::Limit;
use crate::load::{self, Load};
use crate::mesh::{Distance, Mesh, Service};
use crate::net::PATIENCE;
use crate::usage;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

/// Connections of the small messages on one node.
const NODE_CONNECTIONS: usize = 64;
/// New connections in flight.
const IN_FLIGHT: usize = 16;
/// Time for what a load left behind to be done with before the next.
const SETTLE: Duration = Duration::from_millis(150);
/// Time before memory is read, in which a proxy does what it does after a start or a burst.
const REST: Duration = Duration::from_secs(1);
/// How long opening the idle connections may take.
const OPEN_WITHIN: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Row {
    /// Memory, idle and with idle connections.
    Memory,
    /// From start to ready with local files.
    Ready,
    /// Bytes over one connection.
    #[value(name = "bulk-1")]
    #[serde(rename = "bulk-1")]
    Bulk1,
    /// Bytes over eight.
    #[value(name = "bulk-8")]
    #[serde(rename = "bulk-8")]
    Bulk8,
    /// Small messages over one connection.
    #[value(name = "ping-1")]
    #[serde(rename = "ping-1")]
    Ping1,
    /// Over 32.
    #[value(name = "ping-32")]
    #[serde(rename = "ping-32")]
    Ping32,
    /// Over 64.
    #[value(name = "ping-64")]
    #[serde(rename = "ping-64")]
    Ping64,
    /// Over 256.
    #[value(name = "ping-256")]
    #[serde(rename = "ping-256")]
    Ping256,
    /// New connections.
    Connections,
    /// Bytes between two pods of one node.
    NodeBulk,
    /// Small messages between two pods of one node.
    NodePing,
}

/// A figure of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// Gbit/s that arrived.
    GbitS,
    /// Processor seconds a GB and proxy; on one node of all proxies.
    CpuSGb,
    /// Messages or connections a second.
    Rate,
    /// Median latency at half the rate, µs.
    P50Us,
    /// 99th percentile of it, µs.
    P99Us,
    /// Processor time a message and proxy, µs; on one node of all proxies.
    CpuUs,
    /// Processor time a connection and proxy, ms.
    CpuMs,
    /// Resident memory of an idle proxy, MiB.
    IdleMib,
    /// The part of it that is the proxy's own, MiB.
    PrivateMib,
    /// More of it for each idle connection, KiB.
    ConnectionKib,
    /// From the start to ready, ms.
    ReadyMs,
}

/// What one sample found.
pub(crate) type Metrics = BTreeMap<Metric, f64>;

impl Row {
    /// Every row, in the order in which they are run: memory first, of fresh processes.
    pub(crate) fn all() -> &'static [Self] {
        <Self as clap::ValueEnum>::value_variants()
    }

    /// Its name in tables and flags.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Ready => "ready",
            Self::Bulk1 => "bulk-1",
            Self::Bulk8 => "bulk-8",
            Self::Ping1 => "ping-1",
            Self::Ping32 => "ping-32",
            Self::Ping64 => "ping-64",
            Self::Ping256 => "ping-256",
            Self::Connections => "connections",
            Self::NodeBulk => "node-bulk",
            Self::NodePing => "node-ping",
        }
    }

    /// Whether a contender has such a figure.
    pub(crate) fn applies_to(self, contender: Contender) -> bool {
        match contender {
            Contender::Limit => self == Self::Bulk1,
            Contender::Direct => !matches!(self, Self::Memory | Self::Ready),
            _ => true,
        }
    }

    /// Takes one sample.
    ///
    /// # Errors
    /// When a connection fails, a proxy ends, or something takes too long.
    pub(crate) fn sample(self, bench: &mut Bench, contender: Contender) -> Result<Metrics> {
        if contender == Contender::Limit {
            let limit = bench.limit.as_ref().context("--limit is not given")?;
            return limit.sample(bench.seconds);
        }
        let outcome = match self {
            Self::Memory => memory(bench, contender),
            Self::Ready => ready(bench, contender),
            Self::Bulk1 => bulk(bench, contender, Distance::Far, 1),
            Self::Bulk8 => bulk(bench, contender, Distance::Far, 8),
            Self::NodeBulk => bulk(bench, contender, Distance::Near, 1),
            Self::Ping1 => ping(bench, contender, Distance::Far, 1),
            Self::Ping32 => ping(bench, contender, Distance::Far, 32),
            Self::Ping64 => ping(bench, contender, Distance::Far, 64),
            Self::Ping256 => ping(bench, contender, Distance::Far, 256),
            Self::NodePing => ping(bench, contender, Distance::Near, NODE_CONNECTIONS),
            Self::Connections => connections(bench, contender),
        };
        thread::sleep(SETTLE);
        outcome
    }
}

/// What samples are taken with.
pub(crate) struct Bench {
    /// What runs.
    pub(crate) mesh: Mesh,
    /// The floor, if there is one.
    pub(crate) limit: Option<Limit>,
    /// Length of a sample.
    pub(crate) seconds: Duration,
    /// Idle connections of the memory row.
    pub(crate) idle: usize,
}

/// What happened in the measured time.
struct Window {
    units: f64,
    seconds: f64,
    /// Of all proxies, seconds.
    cpu: f64,
}

impl Window {
    fn rate(&self) -> f64 {
        self.units / self.seconds
    }

    /// Processor seconds a unit: a proxy's share when they stand one behind the other on two nodes,
    /// all of it when what counts is how few of them there are.
    fn cpu_per_unit(&self, distance: Distance) -> f64 {
        let proxies = match distance {
            Distance::Far => 2.0,
            Distance::Near => 1.0,
        };
        self.cpu / self.units / proxies
    }
}

impl Bench {
    /// Lets a load run for the warm-up and then for the sample.
    fn window<T>(
        &self,
        load: &Load<T>,
        pids: &[u32],
        units: impl Fn() -> u64,
    ) -> Result<Option<Window>> {
        let begun = Instant::now();
        while load.done() == 0 && !load.ended() {
            ensure!(begun.elapsed() < PATIENCE * 2, "the load did not begin");
            thread::sleep(Duration::from_millis(1));
        }
        if !go_on(load, self.seconds / 4) {
            return Ok(None);
        }
        let (from, before, cpu) = (Instant::now(), units(), usage::cpu(pids)?);
        if !go_on(load, self.seconds) {
            return Ok(None);
        }
        let (seconds, after) = (from.elapsed().as_secs_f64(), units());
        let cpu = usage::cpu(pids)?.saturating_sub(cpu).as_secs_f64();
        ensure!(after > before, "nothing arrived");
        Ok(Some(Window {
            units: exact(after - before),
            seconds,
            cpu,
        }))
    }
}

/// Waits; whether the load still runs.
fn go_on<T>(load: &Load<T>, time: Duration) -> bool {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || load.ended() {
            return !load.ended();
        }
        thread::sleep(left.min(crate::net::LOOK));
    }
}

/// The result of a load that had to run to its end to be measured.
fn whole<T>(load: Load<T>, window: Option<Window>) -> Result<(T, Window)> {
    let outcome = load.finish()?;
    Ok((outcome, window.context("the load ended early")?))
}

fn bulk(
    bench: &Bench,
    contender: Contender,
    distance: Distance,
    connections: usize,
) -> Result<Metrics> {
    let mesh = &bench.mesh;
    let to = mesh.address(contender, distance, Service::Sink)?;
    let pids = mesh.proxies(contender, distance)?;
    let load = load::bulk(mesh.client(contender)?, to, connections)?;
    let window = bench.window(&load, &pids, || mesh.server().sunk())?;
    let ((), window) = whole(load, window)?;
    let mut metrics = Metrics::from([(Metric::GbitS, window.rate() * 8e-9)]);
    if !pids.is_empty() {
        metrics.insert(Metric::CpuSGb, window.cpu_per_unit(distance) * 1e9);
    }
    Ok(metrics)
}

fn ping(
    bench: &Bench,
    contender: Contender,
    distance: Distance,
    connections: usize,
) -> Result<Metrics> {
    let mesh = &bench.mesh;
    let to = mesh.address(contender, distance, Service::Echo)?;
    let pids = mesh.proxies(contender, distance)?;
    let load = load::echo(mesh.client(contender)?, to, connections)?;
    let window = bench.window(&load, &pids, || load.done())?;
    let ((), window) = whole(load, window)?;
    let mut metrics = Metrics::from([(Metric::Rate, window.rate())]);
    if !pids.is_empty() {
        metrics.insert(Metric::CpuUs, window.cpu_per_unit(distance) * 1e6);
    }
    if distance == Distance::Far {
        thread::sleep(SETTLE);
        let half = window.rate() / 2.0;
        let load = load::paced(mesh.client(contender)?, to, connections, half)?;
        let window = bench.window(&load, &pids, || load.done())?;
        let (latencies, _) = whole(load, window)?;
        for (metric, percent) in [(Metric::P50Us, 50), (Metric::P99Us, 99)] {
            let latency = latencies.percentile(percent).context("no latency")?;
            metrics.insert(metric, latency.as_secs_f64() * 1e6);
        }
    }
    Ok(metrics)
}

fn connections(bench: &Bench, contender: Contender) -> Result<Metrics> {
    let mesh = &bench.mesh;
    let to = mesh.address(contender, Distance::Far, Service::Echo)?;
    let pids = mesh.proxies(contender, Distance::Far)?;
    let load = load::connections(mesh.client(contender)?, to, IN_FLIGHT)?;
    let window = bench.window(&load, &pids, || load.done())?;
    let ((), window) = whole(load, window)?;
    let mut metrics = Metrics::from([(Metric::Rate, window.rate())]);
    if !pids.is_empty() {
        metrics.insert(Metric::CpuMs, window.cpu_per_unit(Distance::Far) * 1e3);
    }
    Ok(metrics)
}

/// Of fresh processes that have carried a byte each way, so that tunnels and certificates are there.
fn memory(bench: &mut Bench, contender: Contender) -> Result<Metrics> {
    bench.mesh.restart(contender)?;
    let mesh = &bench.mesh;
    let pids = mesh.proxies(contender, Distance::Far)?;
    let to = mesh.address(contender, Distance::Far, Service::Echo)?;
    thread::sleep(REST);
    let before = mean(&pids)?;
    let load = load::idle(mesh.client(contender)?, to, bench.idle)?;
    let (begun, wanted) = (Instant::now(), bench.idle as u64);
    while load.done() < wanted && !load.ended() && begun.elapsed() < OPEN_WITHIN {
        thread::sleep(crate::net::LOOK);
    }
    let opened = load.done();
    thread::sleep(REST);
    let after = mean(&pids)?;
    load.finish()?;
    ensure!(opened == wanted, "{opened} of {wanted} connections in time");
    let more = (after.0 - before.0) / exact(opened);
    Ok(Metrics::from([
        (Metric::IdleMib, before.0 / MIB),
        (Metric::PrivateMib, before.1 / MIB),
        (Metric::ConnectionKib, more / 1024.0),
    ]))
}

const MIB: f64 = 1_048_576.0;

/// Resident and private memory of the mean proxy, bytes.
fn mean(pids: &[u32]) -> Result<(f64, f64)> {
    let (mut resident, mut private) = (0.0, 0.0);
    for pid in pids {
        let memory = usage::memory(*pid)?;
        resident += exact(memory.resident);
        private += exact(memory.private);
    }
    let count = exact(pids.len() as u64);
    Ok((resident / count, private / count))
}

fn ready(bench: &Bench, contender: Contender) -> Result<Metrics> {
    let (spec, ready) = bench.mesh.alone(contender)?;
    let time = bench.mesh.time_to_ready(spec, &ready)?;
    Ok(Metrics::from([(Metric::ReadyMs, time.as_secs_f64() * 1e3)]))
}

/// Counts here are far below 2^53.
fn exact(count: u64) -> f64 {
    count as f64
}
