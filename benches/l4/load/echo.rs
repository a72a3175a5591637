//! Small messages there and back.

use super::{MESSAGE, Shared};
use crate::net::{PATIENCE, Poller, connect, would_wait};
use anyhow::{Context, Result, bail, ensure};
use rustix::event::epoll::EventFlags;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Most latencies kept of one load.
const LATENCIES_MAX: usize = 4_000_000;
/// Messages that wait for a connection whose last one is not back; more, and the rate cannot be kept.
const WAITING_MAX: usize = 1_000_000;

/// A connection with at most one message on its way.
struct Exchange {
    stream: TcpStream,
    received: usize,
}

impl Exchange {
    fn open(to: SocketAddr) -> Result<Self> {
        let mut stream = connect(to)?;
        // Once before the clock runs, so that the way is there.
        stream.write_all(&[1; MESSAGE])?;
        let mut back = [0; MESSAGE];
        stream.read_exact(&mut back).context("no echo")?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            received: 0,
        })
    }

    fn send(&mut self) -> Result<()> {
        let count = self.stream.write(&[2; MESSAGE]).context("cannot send")?;
        ensure!(
            count == MESSAGE,
            "the socket took {count} bytes of a message"
        );
        Ok(())
    }

    /// Whether the whole message is back.
    fn receive(&mut self) -> Result<bool> {
        let mut buffer = [0; MESSAGE];
        let room = buffer.get_mut(self.received..).unwrap_or_default();
        match self.stream.read(room) {
            Ok(0) => bail!("the connection ended"),
            Ok(count) => self.received += count,
            Err(error) if would_wait(&error) => return Ok(false),
            Err(error) => return Err(error).context("the connection broke"),
        }
        let whole = self.received == MESSAGE;
        if whole {
            self.received = 0;
        }
        Ok(whole)
    }
}

fn open(to: SocketAddr, connections: usize, poller: &Poller) -> Result<Vec<Exchange>> {
    let mut exchanges = Vec::with_capacity(connections);
    for key in 0..connections {
        let exchange = Exchange::open(to).with_context(|| format!("connection {key}"))?;
        poller.add(&exchange.stream, key, EventFlags::IN)?;
        exchanges.push(exchange);
    }
    Ok(exchanges)
}

/// The next message when the last is back, on each connection.
pub(super) fn saturate(shared: &Shared, to: SocketAddr, connections: usize) -> Result<()> {
    let poller = Poller::new()?;
    let mut exchanges = open(to, connections, &poller)?;
    for exchange in &mut exchanges {
        exchange.send()?;
    }
    let mut ready = Vec::new();
    let mut last = Instant::now();
    while !shared.stopped() {
        poller.wait(&mut ready)?;
        let mut back = 0;
        for key in &ready {
            if let Some(exchange) = exchanges.get_mut(*key)
                && exchange.receive()?
            {
                back += 1;
                exchange.send()?;
            }
        }
        if back > 0 {
            shared.count(back);
            last = Instant::now();
        }
        ensure!(last.elapsed() < PATIENCE, "no message came back any more");
    }
    Ok(())
}

/// How long messages took, sorted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self(all)
    }

    /// The latency that this percentage of messages did not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> Option<Duration> {
        let index = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(index).copied()
    }
}

/// When the message on its way counts as sent, and those that wait for it.
#[derive(Default)]
struct Queue {
    on_its_way: Option<Instant>,
    waiting: VecDeque<Instant>,
}

/// Messages at a rate, to each connection in turn. A message whose connection is free counts from
/// when it is sent; one that has to wait counts from when it was due, so that a proxy that stalls
/// does not hide the messages it holds up.
pub(super) fn paced(
    shared: &Shared,
    to: SocketAddr,
    connections: usize,
    rate: f64,
) -> Result<Latencies> {
    ensure!(rate >= 1.0, "less than one message a second");
    let interval = Duration::from_secs_f64(1.0 / rate);
    // Else the kernel may wake this thread 50 µs late.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let poller = Poller::new()?;
    let mut exchanges = open(to, connections, &poller)?;
    let mut queues: Vec<Queue> = exchanges.iter().map(|_| Queue::default()).collect();
    let timer = ticking(interval)?;
    poller.add(&timer, connections, EventFlags::IN)?;

    let mut latencies = Vec::new();
    let (started, mut sent) = (Instant::now(), 0_u32);
    let mut ready = Vec::new();
    while !shared.stopped() {
        poller.wait(&mut ready)?;
        for key in &ready {
            if *key == connections {
                // Unread it would not tick again.
                rustix::io::read(&timer, &mut [0; 8][..])?;
            }
            let both = exchanges.get_mut(*key).zip(queues.get_mut(*key));
            if let Some((exchange, queue)) = both
                && exchange.receive()?
                && let Some(since) = queue.on_its_way.take()
            {
                if latencies.len() < LATENCIES_MAX {
                    latencies.push(since.elapsed());
                }
                shared.count(1);
                if let Some(due) = queue.waiting.pop_front() {
                    exchange.send()?;
                    queue.on_its_way = Some(due);
                }
            }
        }
        let now = Instant::now();
        while started + interval * sent <= now {
            let due = started + interval * sent;
            let key = sent as usize % connections;
            if let Some((exchange, queue)) = exchanges.get_mut(key).zip(queues.get_mut(key)) {
                if queue.on_its_way.is_some() {
                    queue.waiting.push_back(due);
                    let count = queue.waiting.len();
                    ensure!(
                        count < WAITING_MAX,
                        "{rate:.0} messages a second are too many"
                    );
                } else {
                    exchange.send()?;
                    queue.on_its_way = Some(Instant::now());
                }
            }
            sent += 1;
        }
    }
    Ok(Latencies::of(latencies))
}

fn ticking(interval: Duration) -> Result<OwnedFd> {
    let timer = timerfd_create(
        TimerfdClockId::Monotonic,
        TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
    )?;
    let spec = Timespec {
        tv_sec: interval.as_secs().try_into()?,
        tv_nsec: interval.subsec_nanos().into(),
    };
    let ticks = Itimerspec {
        it_interval: spec,
        it_value: spec,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &ticks)?;
    Ok(timer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let latencies = Latencies::of((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(latencies.percentile(50), Some(Duration::from_millis(50)));
        assert_eq!(latencies.percentile(99), Some(Duration::from_millis(99)));
        assert_eq!(latencies.percentile(100), Some(Duration::from_millis(100)));
        assert_eq!(Latencies::default().percentile(50), None);
    }
}
