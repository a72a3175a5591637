//! The load and the server behind it. Both run on threads of this program, whose processor time is
//! nobody's cost.

mod bulk;
mod connections;
mod echo;
mod server;

pub(crate) use echo::Latencies;
pub(crate) use server::{ECHO, SINK, Server};

use anyhow::{Context, Result, anyhow};
use mesh_lab::Place;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

/// Size of a small message, each way, bytes.
pub(crate) const MESSAGE: usize = 128;

/// What a load and its owner share.
#[derive(Debug, Clone, Default)]
struct Shared {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn count(&self, more: u64) {
        self.done.fetch_add(more, Ordering::Relaxed);
    }
}

/// A load on its way. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Load<T> {
    shared: Shared,
    thread: Option<JoinHandle<Result<T>>>,
}

impl<T: Send + 'static> Load<T> {
    /// Starts `work` on a thread inside a place.
    fn start(
        place: &Place,
        work: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
    ) -> Result<Self> {
        let shared = Shared::default();
        let (inner, netns) = (shared.clone(), place.netns().clone());
        let thread = thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || netns.enter(|| work(&inner))?)
            .context("cannot start a thread")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }
}

impl<T> Load<T> {
    /// Units done so far: bytes, exchanges or connections.
    pub(crate) fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Whether it has ended, which before [`Self::finish`] only a failure makes it do.
    pub(crate) fn ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it and gives what it found.
    ///
    /// # Errors
    /// When a connection failed or a byte was wrong.
    pub(crate) fn finish(mut self) -> Result<T> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the load has been ended")?;
        thread.join().map_err(|_| anyhow!("the load panicked"))?
    }
}

impl<T> Drop for Load<T> {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A failed load has been reported, or nobody asked.
            drop(thread.join());
        }
    }
}

/// Bytes as fast as they go, from a thread a connection.
///
/// # Errors
/// When no thread can be made.
pub(crate) fn bulk(place: &Place, to: SocketAddr, connections: usize) -> Result<Load<()>> {
    Load::start(place, move |shared| bulk::run(shared, to, connections))
}

/// Small messages there and back, the next when the last has come back, on each connection.
///
/// # Errors
/// When no thread can be made.
pub(crate) fn echo(place: &Place, to: SocketAddr, connections: usize) -> Result<Load<()>> {
    Load::start(place, move |shared| echo::saturate(shared, to, connections))
}

/// Small messages at a given rate (a second, over all connections).
///
/// # Errors
/// When no thread can be made.
pub(crate) fn paced(
    place: &Place,
    to: SocketAddr,
    connections: usize,
    rate: f64,
) -> Result<Load<Latencies>> {
    Load::start(place, move |shared| {
        echo::paced(shared, to, connections, rate)
    })
}

/// New connections, a byte there and back on each, so many at a time.
///
/// # Errors
/// When no thread can be made.
pub(crate) fn connections(place: &Place, to: SocketAddr, in_flight: usize) -> Result<Load<()>> {
    Load::start(place, move |shared| connections::run(shared, to, in_flight))
}

/// Connections that have carried a byte there and back and are then idle, until it is dropped.
/// Counts them as they become so.
///
/// # Errors
/// When no thread can be made.
pub(crate) fn idle(place: &Place, to: SocketAddr, count: usize) -> Result<Load<()>> {
    Load::start(place, move |shared| connections::hold(shared, to, count))
}

/// One byte there and back over a new connection.
///
/// # Errors
/// When it does not come back.
pub(crate) fn once(place: &Place, to: SocketAddr) -> Result<()> {
    place.enter(|| connections::once(to))?
}
