//! The byte pump: two streams joined until both directions have ended.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read at once, and so the most that one direction ever holds. Large enough that a system
/// call moves a full receive buffer, small enough to stay in the CPU's cache.
pub const PUMP_BUFFER_BYTES: usize = 64 * 1024;
/// Reads of one direction before the others of the thread have their turn.
const ROUNDS_MAX: u32 = 16;

thread_local! {
    /// One read buffer for all the pumps of a thread: a pump uses it within one poll only, so an
    /// idle connection holds no buffer at all.
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Bytes moved so far. Written by the pump as they move, read by anyone at any time.
#[derive(Debug, Default)]
pub struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Counters {
    /// Counters at zero.
    pub const fn new() -> Self {
        Self {
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        }
    }

    /// Counts bytes moved from downstream to upstream.
    pub fn add_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes moved from upstream to downstream.
    pub fn add_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes moved from downstream to upstream.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes moved from upstream to downstream.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// One side of a pump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The side that connected to us.
    Downstream,
    /// The side we connected to.
    Upstream,
}

/// How a pump ended.
#[derive(Debug)]
pub enum PumpEnd {
    /// Both sides ended their stream and all bytes arrived.
    Complete,
    /// A side failed; what was under way in the other direction is lost.
    Failed {
        /// The side whose stream gave the error.
        side: Side,
        /// The error.
        error: io::Error,
    },
}

/// Moves bytes both ways until both directions have ended. The end of one side is passed on once
/// its bytes have arrived, while the other direction goes on (half-close). A direction whose
/// receiver is slow holds at most [`PUMP_BUFFER_BYTES`] and reads no more until they are gone; an
/// idle one holds nothing. Dropping the future ends the session where it stands.
pub async fn pump<A, B>(down: &mut A, up: &mut B, counters: &Counters) -> PumpEnd
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut pump = Pump::default();
    poll_fn(|cx| pump.poll(cx, down, up, counters)).await
}

/// Bytes that were read from one side and not taken by the other yet; they are not counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unsent {
    /// From downstream, for upstream.
    pub forth: Vec<u8>,
    /// From upstream, for downstream.
    pub back: Vec<u8>,
}

/// [`pump`], as a value: between two polls it can be taken apart, and its streams joined again by
/// another.
#[derive(Default)]
pub struct Pump {
    forth: Direction,
    back: Direction,
}

impl Pump {
    /// One that goes on where another was taken apart. An end that was passed on already is read, and
    /// passed on, once more, which changes nothing.
    pub fn resume(unsent: Unsent) -> Self {
        Self {
            forth: Direction::resume(unsent.forth),
            back: Direction::resume(unsent.back),
        }
    }

    /// Moves what can be moved; ready when both directions have ended.
    pub fn poll<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut A,
        up: &mut B,
        counters: &Counters,
    ) -> Poll<PumpEnd>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = |fault: DirectionFault, reader| {
            let (side, error) = fault.seen_from(reader);
            Poll::Ready(PumpEnd::Failed { side, error })
        };
        let forth = self.forth.poll(cx, down, up, &counters.sent);
        if let Poll::Ready(Err(fault)) = forth {
            return failed(fault, Side::Downstream);
        }
        let back = self.back.poll(cx, up, down, &counters.received);
        if let Poll::Ready(Err(fault)) = back {
            return failed(fault, Side::Upstream);
        }
        match (forth, back) {
            (Poll::Ready(_), Poll::Ready(_)) => Poll::Ready(PumpEnd::Complete),
            _ => Poll::Pending,
        }
    }

    /// What it holds, for another to go on with.
    pub fn into_unsent(self) -> Unsent {
        Unsent {
            forth: self.forth.into_held(),
            back: self.back.into_held(),
        }
    }
}

/// What failed within a direction.
enum DirectionFault {
    Reading(io::Error),
    Writing(io::Error),
}

impl DirectionFault {
    fn seen_from(self, reader: Side) -> (Side, io::Error) {
        match (self, reader) {
            (Self::Reading(error), side) => (side, error),
            (Self::Writing(error), Side::Downstream) => (Side::Upstream, error),
            (Self::Writing(error), Side::Upstream) => (Side::Downstream, error),
        }
    }
}

#[derive(Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Moving,
    /// The reader ended; what is held goes out, then the end itself.
    Ending,
    Done,
}

#[derive(Default)]
struct Direction {
    phase: Phase,
    /// Read and not taken by the writer yet; empty and without memory most of the time.
    held: Vec<u8>,
    /// How much of `held` has been written.
    written: usize,
    /// Something was written since the last flush.
    unflushed: bool,
}

impl Direction {
    fn resume(held: Vec<u8>) -> Self {
        Self {
            held,
            // The writer may gather what it was given before.
            unflushed: true,
            ..Self::default()
        }
    }

    fn into_held(mut self) -> Vec<u8> {
        self.held.split_off(self.written.min(self.held.len()))
    }

    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        count: &AtomicU64,
    ) -> Poll<Result<(), DirectionFault>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..ROUNDS_MAX {
            if self.phase == Phase::Done {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_held(cx, to, count)).map_err(DirectionFault::Writing)?;
            if self.phase == Phase::Ending {
                let ended = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                ended
                    .or_else(gone_already)
                    .map_err(DirectionFault::Writing)?;
                self.phase = Phase::Done;
                continue;
            }
            if self.poll_move(cx, from, to, count)?.is_pending() {
                // Nothing to read: let a stream that gathers writes (TLS, HTTP/2) send them.
                if self.unflushed {
                    let flushed = Pin::new(&mut *to).poll_flush(cx);
                    ready!(flushed).map_err(DirectionFault::Writing)?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes out what is held; ready when nothing is.
    fn poll_held<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        count: &AtomicU64,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.held.get(self.written..).filter(|r| !r.is_empty()) {
            self.written += ready!(poll_write(cx, to, rest, count))?;
        }
        if !self.held.is_empty() {
            self.held = Vec::new();
            self.written = 0;
            self.unflushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes as much as the writer takes; the rest is held. Ready: go on.
    fn poll_move<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        count: &AtomicU64,
    ) -> Result<Poll<()>, DirectionFault>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        with_scratch(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(from).poll_read(cx, &mut buffer) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(result) => result.map_err(DirectionFault::Reading)?,
            }
            let mut rest = buffer.filled();
            if rest.is_empty() {
                self.phase = Phase::Ending;
                return Ok(Poll::Ready(()));
            }
            while !rest.is_empty() {
                match poll_write(cx, to, rest, count) {
                    Poll::Ready(result) => {
                        let n = result.map_err(DirectionFault::Writing)?;
                        self.unflushed = true;
                        rest = rest.get(n..).unwrap_or_default();
                    }
                    Poll::Pending => {
                        self.held = rest.to_vec();
                        break;
                    }
                }
            }
            Ok(Poll::Ready(()))
        })
    }
}

/// All bytes were taken; a receiver that has gone away since does not miss the end. Should it have
/// gone too early, the other direction's read says so.
fn gone_already(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotConnected
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset => Ok(()),
        _ => Err(error),
    }
}

fn poll_write<W: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    to: &mut W,
    data: &[u8],
    count: &AtomicU64,
) -> Poll<io::Result<usize>> {
    let n = ready!(Pin::new(to).poll_write(cx, data))?;
    if n == 0 {
        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
    }
    count.fetch_add(n as u64, Ordering::Relaxed);
    Poll::Ready(Ok(n))
}

/// Lends the thread's buffer. It is taken out meanwhile, so that a pump within the poll of another
/// (a stream that is itself pumped) makes one of its own instead of sharing.
fn with_scratch<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    let taken = SCRATCH.try_with(Cell::take).ok().flatten();
    let mut scratch = taken.unwrap_or_else(|| vec![0; PUMP_BUFFER_BYTES].into_boxed_slice());
    let result = f(&mut scratch);
    // At the end of the thread there is no place to put it back; it is freed instead.
    SCRATCH.try_with(|place| place.set(Some(scratch))).ok();
    result
}

#[cfg(test)]
mod tests;
