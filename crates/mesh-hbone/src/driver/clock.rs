//! When a connection has something to do though nothing comes: one timer for all of it.

use crate::KeepAlive;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// The pace of the engine's budgets (mesh_http2::Limits).
const REFILL: Duration = Duration::from_secs(1);

/// Keep-alive, handshake, idle release.
pub(crate) struct Clock {
    keep_alive: KeepAlive,
    /// When the next PING goes out, or the answer to the last is overdue.
    ping_at: Instant,
    /// A PING has no answer yet.
    asked: bool,
    pings: u64,
    handshake_until: Instant,
    /// How long the connection may be without streams.
    idle: Option<Duration>,
    idle_since: Option<Instant>,
    refilled: Instant,
    timer: Pin<Box<Sleep>>,
    /// The timer knows whom to wake.
    registered: bool,
}

impl Clock {
    pub(crate) fn new(
        keep_alive: KeepAlive,
        handshake_timeout: Duration,
        idle: Option<Duration>,
    ) -> Self {
        let now = Instant::now();
        let ping_at = now + keep_alive.interval;
        let handshake_until = now + handshake_timeout;
        Self {
            keep_alive,
            ping_at,
            asked: false,
            pings: 0,
            handshake_until,
            idle,
            idle_since: None,
            refilled: now,
            timer: Box::pin(sleep_until(ping_at.min(handshake_until))),
            registered: false,
        }
    }

    /// Whether the engine's budgets are to be filled up. Lazily: an idle connection spends nothing.
    pub(crate) fn refill_is_due(&mut self, now: Instant) -> bool {
        let due = now.duration_since(self.refilled) >= REFILL;
        if due {
            self.refilled = now;
        }
        due
    }

    /// Whether anything may be due; the timer is never later than that.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now >= self.timer.deadline()
    }

    pub(crate) fn handshake_is_overdue(&self, now: Instant) -> bool {
        now >= self.handshake_until
    }

    /// The answer to a PING came.
    pub(crate) fn ponged(&mut self, now: Instant) {
        self.asked = false;
        self.ping_at = now + self.keep_alive.interval;
    }

    pub(crate) fn pong_is_overdue(&self, now: Instant) -> bool {
        self.asked && now >= self.ping_at
    }

    /// The PING that is to be sent, if it is time.
    pub(crate) fn ping(&mut self, now: Instant) -> Option<[u8; 8]> {
        if self.asked || now < self.ping_at {
            return None;
        }
        self.asked = true;
        self.ping_at = now + self.keep_alive.timeout;
        self.pings += 1;
        Some(self.pings.to_be_bytes())
    }

    /// The connection is to end as soon as nobody uses it.
    pub(crate) const fn release_at_once(&mut self) {
        self.idle = Some(Duration::ZERO);
    }

    /// Remembers since when nobody uses the connection.
    pub(crate) fn note_use(&mut self, now: Instant, is_idle: bool) {
        self.idle_since = match is_idle {
            true => self.idle_since.or(Some(now)),
            false => None,
        };
    }

    pub(crate) fn idle_is_over(&self, now: Instant) -> bool {
        self.idle_until().is_some_and(|until| now >= until)
    }

    fn idle_until(&self) -> Option<Instant> {
        Some(self.idle_since? + self.idle?)
    }

    pub(crate) fn forget_waker(&mut self) {
        self.registered = false;
    }

    /// Sets the timer for whatever comes first. It is moved only when it would be late or has fired:
    /// firing early costs one turn, moving it costs more and would happen often.
    pub(crate) fn arm(&mut self, cx: &mut Context<'_>, now: Instant, until: Option<Instant>) {
        let mut first = self.ping_at;
        let handshake = Some(self.handshake_until).filter(|at| *at > now);
        for at in [handshake, self.idle_until(), until].into_iter().flatten() {
            first = first.min(at);
        }
        let armed = self.timer.deadline();
        if first < armed || armed <= now {
            self.arm_at(cx, first);
        } else if !self.registered {
            self.register(cx);
        }
    }

    pub(crate) fn arm_at(&mut self, cx: &mut Context<'_>, at: Instant) {
        self.timer.as_mut().reset(at);
        self.register(cx);
    }

    fn register(&mut self, cx: &mut Context<'_>) {
        self.registered = true;
        if let Poll::Ready(()) = self.timer.as_mut().poll(cx) {
            // Past already: another turn sees what is due.
            cx.waker().wake_by_ref();
        }
    }
}
