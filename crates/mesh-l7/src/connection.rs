//! What the requests of one downstream connection share, and its clock.

use mesh_model::Reason;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// The state of one downstream connection.
pub(crate) struct ConnectionState {
    in_flight: Cell<usize>,
    /// The last moment something of a request happened.
    idle_since: Cell<Instant>,
    /// When the first byte of a head came of which the end did not.
    head_since: Cell<Option<Instant>>,
    /// Why the connection is being cut, for the exchanges that are dropped with it.
    cut: Cell<Option<Reason>>,
    /// A switch of protocols that was confirmed, to be carried on when the codec is done.
    switched: RefCell<Option<crate::tunnel::Switched>>,
}

impl ConnectionState {
    pub(crate) fn new() -> Self {
        Self {
            in_flight: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            head_since: Cell::new(None),
            cut: Cell::new(None),
            switched: RefCell::new(None),
        }
    }

    pub(crate) fn exchange_began(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.head_since.set(None);
    }

    pub(crate) fn exchange_ended(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        self.idle_since.set(Instant::now());
    }

    /// Bytes came while no request was in flight: a head has begun.
    pub(crate) fn bytes_read(&self) {
        if self.in_flight.get() == 0 && self.head_since.get().is_none() {
            self.head_since.set(Some(Instant::now()));
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.get() == 0
    }

    pub(crate) fn set_cut(&self, reason: Reason) {
        self.cut.set(Some(reason));
    }

    pub(crate) fn cut_reason(&self) -> Option<Reason> {
        self.cut.get()
    }

    pub(crate) fn set_switched(&self, switched: crate::tunnel::Switched) {
        self.switched.borrow_mut().replace(switched);
    }

    pub(crate) fn take_switched(&self) -> Option<crate::tunnel::Switched> {
        self.switched.borrow_mut().take()
    }
}

/// What passed its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// A head that began and did not end.
    Head,
    /// The connection, without a request.
    Idle,
}

/// Watches the times of a connection with one timer. The timer is set later only when it fires, so
/// a busy connection does not touch the timer wheel at each request.
pub(crate) struct Watchdog {
    sleep: Pin<Box<Sleep>>,
    header_read_timeout: Option<Duration>,
    idle_timeout: Duration,
}

impl Watchdog {
    /// `header_read_timeout` is `None` where heads cannot be told from the bytes (HTTP/2).
    pub(crate) fn new(header_read_timeout: Option<Duration>, idle_timeout: Duration) -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep(idle_timeout)),
            header_read_timeout,
            idle_timeout,
        }
    }

    /// Poll it after the connection, so that it sees the newest state.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, state: &ConnectionState) -> Poll<Expired> {
        loop {
            let (due, what) = self.due(state);
            if due < self.sleep.deadline() {
                self.sleep.as_mut().reset(due);
            }
            ready!(self.sleep.as_mut().poll(cx));
            if state.is_idle() && due <= Instant::now() {
                return Poll::Ready(what);
            }
            self.sleep
                .as_mut()
                .reset(due.max(Instant::now() + MIN_STEP));
        }
    }

    fn due(&self, state: &ConnectionState) -> (Instant, Expired) {
        match (state.head_since.get(), self.header_read_timeout) {
            _ if !state.is_idle() => (Instant::now() + self.idle_timeout, Expired::Idle),
            (Some(since), Some(limit)) => (since + limit, Expired::Head),
            _ => (state.idle_since.get() + self.idle_timeout, Expired::Idle),
        }
    }
}

/// The timer is never set nearer than this after it fired too early.
const MIN_STEP: Duration = Duration::from_millis(1);
