//! The one task of a connection: reads, lets the engine think, wakes the streams, writes.
//!
//! What the streams wrote since its last turn leaves together: small messages of many streams share a
//! record and a system call.

mod clock;

use crate::buffers::{self, Buffers};
use crate::core::{Core, PING_LEAVING, Request, Shared, Slots, next_request};
use crate::frozen::{Frozen, TunnelState};
use crate::wire::Wire;
use crate::{KeepAlive, PoolSettings, ServerSettings, TunnelError, Windows};
use clock::Clock;
use mesh_http2::{
    Announce, Connection as Engine, ErrorCode, Limits, Outgoing, Role, Settings, StreamId,
};
use mesh_model::Reason;
use mesh_tls::TlsError;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// What one write may carry, bytes.
const WRITE_BYTES: usize = 256 * 1024;
/// What one turn reads before the streams have theirs, bytes: one full read, so that its memory comes
/// back for the next, still in the CPU's cache.
const TURN_BYTES: usize = buffers::READ_BYTES;
/// Writes of one turn.
const TURN_WRITES: usize = 8;
/// How long a connection that ends may take to send its last frames.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Data of all streams of a connection that may wait for output, bytes.
const UNSENT_BYTES_MAX: usize = 4 << 20;
/// One compressed header block, bytes: past what we announce it costs the peer its stream, past this
/// its connection.
const HEADER_BLOCK_BYTES_MAX: usize = 128 * 1024;
/// The header table is what RFC 9113 begins with.
const HEADER_TABLE_BYTES: u32 = 4096;

/// How a connection ends.
type End = Result<(), (TunnelError, io::ErrorKind)>;

/// Drives one connection; to be polled until it is done.
pub(crate) struct Driver<W> {
    wire: W,
    core: Owned,
    clock: Clock,
    closing: Option<Closing>,
    leaving: bool,
    done: bool,
}

/// What [`Driver::revive`] goes on from.
pub(crate) struct Revival {
    pub(crate) engine: Engine,
    pub(crate) slots: Slots,
    pub(crate) lingering: Vec<StreamId>,
    pub(crate) established: bool,
}

struct Closing {
    outcome: Result<(), TunnelError>,
    until: Instant,
    /// All frames are sent.
    sent: bool,
}

/// The client's end of a connection.
pub(crate) fn client<W: Wire>(wire: W, settings: &PoolSettings) -> Driver<W> {
    let announce = announce(&settings.windows, 0, settings.header_list_bytes_max);
    let engine = Engine::client(engine_settings(announce, &settings.windows));
    let idle = Some(settings.idle_release);
    Driver::new(
        wire,
        engine,
        settings.keep_alive,
        settings.handshake_timeout,
        idle,
    )
}

/// The server's end of a connection.
pub(crate) fn server<W: Wire>(wire: W, settings: &ServerSettings) -> Driver<W> {
    let announce = announce(
        &settings.windows,
        settings.streams_max,
        settings.header_list_bytes_max,
    );
    let engine = Engine::server(engine_settings(announce, &settings.windows));
    Driver::new(
        wire,
        engine,
        settings.keep_alive,
        settings.handshake_timeout,
        None,
    )
}

fn announce(windows: &Windows, streams_max: u32, header_list_bytes_max: u32) -> Announce {
    Announce {
        header_table_bytes: HEADER_TABLE_BYTES,
        streams_max,
        stream_window_bytes: windows.stream_bytes,
        frame_bytes_max: windows.frame_bytes_max,
        header_list_bytes_max,
        extended_connect: false,
    }
}

fn engine_settings(announce: Announce, windows: &Windows) -> Settings {
    Settings {
        announce,
        connection_window_bytes: windows.connection_bytes,
        limits: Limits {
            header_block_bytes_max: HEADER_BLOCK_BYTES_MAX,
            stream_buffer_bytes_max: windows.send_buffer_bytes_max,
            connection_buffer_bytes_max: UNSENT_BYTES_MAX,
            ..Limits::default()
        },
    }
}

impl<W> Driver<W> {
    fn new(
        wire: W,
        engine: Engine,
        keep_alive: KeepAlive,
        handshake_timeout: Duration,
        idle: Option<Duration>,
    ) -> Self {
        Self {
            wire,
            core: Owned(Core::new(engine)),
            clock: Clock::new(keep_alive, handshake_timeout, idle),
            closing: None,
            leaving: false,
            done: false,
        }
    }

    /// One that is taken up again.
    pub(crate) fn revive(wire: W, revival: Revival, keep_alive: KeepAlive) -> Self {
        // It is past its handshake, or has the time of a keep-alive for it.
        let handshake = keep_alive.interval + keep_alive.timeout;
        let idle = match revival.engine.role() {
            Role::Client => Some(Duration::ZERO),
            Role::Server => None,
        };
        let driver = Self::new(wire, revival.engine, keep_alive, handshake, idle);
        {
            let mut core = driver.core.0.borrow_mut();
            core.established = revival.established;
            core.put_streams(revival.slots, revival.lingering);
        }
        driver
    }

    /// What the streams share with it.
    pub(crate) fn shared(&self) -> &Shared {
        &self.core.0
    }

    /// Whether it takes no streams any more.
    pub(crate) fn is_over(&self) -> bool {
        self.closing.is_some() || self.done
    }

    /// Ends a client's connection with the last of its streams.
    pub(crate) const fn retire(&mut self) {
        self.clock.release_at_once();
    }

    /// Asks the peer to open no more streams. Those there, and those on their way, run on.
    pub(crate) fn leave(&mut self) {
        let mut core = self.core.0.borrow_mut();
        if self.leaving || core.engine.goaway_graceful().is_err() {
            return;
        }
        self.leaving = true;
        if core.engine.ping(PING_LEAVING).is_err() {
            // The peer reads nothing: it can only be told in one go.
            core.engine.goaway_final(ErrorCode::NO_ERROR, &[]).ok();
        }
    }
}

impl<W: Wire> Driver<W> {
    /// Drives the connection. Requests that came are handed to `on_request`.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        on_request: &mut dyn FnMut(Request),
    ) -> Poll<Result<(), TunnelError>> {
        let poll = buffers::lend(|buffers| {
            let poll = self.turn(cx, buffers);
            // Outside of all borrows: a waker may be the last of a task.
            buffers.woken.drain(..).for_each(|waker| waker.wake());
            poll
        });
        while let Some(request) = next_request(&self.core.0) {
            on_request(request);
        }
        if poll.is_ready() {
            self.done = true;
        }
        poll
    }

    /// Ends the connection at once: streams are cut, the peer is told, as far as it listens.
    pub(crate) async fn cut(mut self) {
        if self.is_over() {
            return;
        }
        let closed = Err((TunnelError::Closed, io::ErrorKind::ConnectionAborted));
        self.core
            .0
            .borrow_mut()
            .engine
            .goaway_final(ErrorCode::NO_ERROR, &[])
            .ok();
        buffers::lend(|buffers| {
            self.close(closed, Instant::now(), buffers);
            buffers.woken.drain(..).for_each(|waker| waker.wake());
        });
        poll_fn(|cx| self.poll(cx, &mut drop)).await.ok();
    }

    /// Ends the connection at once, as its peer is trusted no longer: its streams see why, and nothing
    /// that they wrote is sent to it any more.
    pub(crate) fn distrust(&mut self, reason: Reason) {
        if self.is_over() {
            return;
        }
        let end = (
            TunnelError::Untrusted(reason),
            io::ErrorKind::ConnectionAborted,
        );
        buffers::lend(|buffers| {
            self.close(Err(end), Instant::now(), buffers);
            buffers.woken.drain(..).for_each(|waker| waker.wake());
        });
        if let Some(closing) = &mut self.closing {
            closing.sent = true;
        }
    }

    /// Hands the connection over, taken apart, to who asked for it.
    pub(crate) fn give_to_freezer(self) {
        let Self { wire, core, .. } = self;
        let Some(freezer) = core.0.borrow_mut().freezer.take() else {
            return;
        };
        let (io, wire) = match wire.take_apart() {
            Ok(parts) => parts,
            Err(error) => return tracing::warn!(%error, "tunnel not taken apart"),
        };
        let state = TunnelState::of(&mut core.0.borrow_mut(), wire);
        // Nobody waits any more: the connection is dropped.
        freezer.send(Frozen { io, state }).ok();
    }

    fn turn(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
    ) -> Poll<Result<(), TunnelError>> {
        let now = Instant::now();
        self.begin_turn(cx);
        if self.closing.is_none() && self.core.0.borrow().freezer.is_some() {
            return Poll::Ready(Ok(()));
        }
        if self.closing.is_none() {
            match self.work(cx, now, buffers) {
                Ok(false) => {}
                Ok(true) => self.close(Ok(()), now, buffers),
                Err(failure) => self.close(Err(failure), now, buffers),
            }
        }
        if self.closing.is_some() {
            return self.poll_closing(cx, now, buffers);
        }
        let until = self.core.0.borrow().lingers_until();
        self.clock.arm(cx, now, until);
        Poll::Pending
    }

    fn begin_turn(&mut self, cx: &Context<'_>) {
        let mut core = self.core.0.borrow_mut();
        core.kicked = false;
        match &core.task {
            Some(task) if task.will_wake(cx.waker()) => {}
            _ => {
                core.task = Some(cx.waker().clone());
                self.clock.forget_waker();
            }
        }
    }

    /// One turn of an open connection; says whether it is finished.
    fn work(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        buffers: &mut Buffers,
    ) -> Result<bool, (TunnelError, io::ErrorKind)> {
        if self.clock.refill_is_due(now) {
            self.core.0.borrow_mut().engine.refill();
        }
        let end = self.read(cx, buffers)?;
        self.tick(now)?;
        self.write(cx, now, buffers)?;
        if end {
            return self.ended_by_peer().map(|()| true);
        }
        Ok(self.core.0.borrow().engine.is_finished())
    }

    /// What the clock asks for.
    fn tick(&mut self, now: Instant) -> Result<(), (TunnelError, io::ErrorKind)> {
        let mut core = self.core.0.borrow_mut();
        if std::mem::take(&mut core.pong) {
            self.clock.ponged(now);
        }
        if std::mem::take(&mut core.pong_leaving) {
            core.engine.goaway_final(ErrorCode::NO_ERROR, &[]).ok();
        }
        self.clock.note_use(now, core.is_idle());
        if !self.clock.is_due(now) {
            return Ok(());
        }
        if !core.established && self.clock.handshake_is_overdue(now) {
            let text = "timed out".to_owned();
            return Err((handshake_failed(&core, text), io::ErrorKind::TimedOut));
        }
        if self.clock.pong_is_overdue(now) {
            return Err((TunnelError::KeepAlive, io::ErrorKind::TimedOut));
        }
        if let Some(opaque) = self.clock.ping(now) {
            // Refused when the peer takes nothing; then its answer will be overdue.
            core.engine.ping(opaque).ok();
        }
        if self.clock.idle_is_over(now) {
            core.engine.goaway_final(ErrorCode::NO_ERROR, &[]).ok();
        }
        core.end_lingering(now);
        Ok(())
    }

    /// Reads what there is; says whether the peer has ended.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
    ) -> Result<bool, (TunnelError, io::ErrorKind)> {
        let mut total = 0;
        while total < TURN_BYTES {
            let read = match self.wire.poll_receive(cx, &mut buffers.scratch) {
                Poll::Pending => return Ok(false),
                Poll::Ready(read) => read.map_err(failed)?,
            };
            if read == 0 {
                return Ok(true);
            }
            total += read;
            self.receive(buffers)?;
        }
        cx.waker().wake_by_ref();
        Ok(false)
    }

    fn receive(&mut self, buffers: &mut Buffers) -> Result<(), (TunnelError, io::ErrorKind)> {
        let mut core = self.core.0.borrow_mut();
        let plain = &mut buffers.scratch.plain;
        while !plain.is_empty() {
            let received = core.engine.receive(plain);
            core.dispatch(&mut buffers.woken);
            if let Err(error) = received {
                plain.clear();
                let error = match core.established {
                    true => TunnelError::Failed(error.to_string()),
                    false => handshake_failed(&core, error.to_string()),
                };
                return Err((error, io::ErrorKind::InvalidData));
            }
        }
        Ok(())
    }

    /// Writes what waits, as far as the peer takes it.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        buffers: &mut Buffers,
    ) -> Result<(), (TunnelError, io::ErrorKind)> {
        for _ in 0..TURN_WRITES {
            match self
                .wire
                .poll_send(cx, &mut buffers.parts, &mut buffers.scratch)
            {
                Poll::Pending => return Ok(()),
                Poll::Ready(sent) => sent.map_err(failed)?,
            }
            if self.transmit(now, &mut buffers.parts, &mut buffers.woken) == 0 {
                return Ok(());
            }
        }
        if self
            .wire
            .poll_send(cx, &mut buffers.parts, &mut buffers.scratch)
            .map_err(failed)?
            .is_ready()
        {
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    fn transmit(
        &mut self,
        now: Instant,
        parts: &mut Vec<Outgoing>,
        woken: &mut Vec<std::task::Waker>,
    ) -> usize {
        let mut core = self.core.0.borrow_mut();
        let bytes = core.engine.transmit(WRITE_BYTES, parts);
        core.dispatch(woken);
        core.end_lingering(now);
        bytes
    }

    /// The peer closed: in order when nobody uses the connection.
    fn ended_by_peer(&self) -> End {
        let core = self.core.0.borrow();
        let text = "closed by the peer".to_owned();
        let error = match (core.established, core.is_idle()) {
            (true, true) => return Ok(()),
            (true, false) => TunnelError::Failed(text),
            (false, _) => handshake_failed(&core, text),
        };
        Err((error, io::ErrorKind::UnexpectedEof))
    }

    /// Begins the end: streams see it now, the peer gets the frames that are left.
    fn close(&mut self, end: End, now: Instant, buffers: &mut Buffers) {
        let (error, kind) = match &end {
            Ok(()) => (TunnelError::Closed, io::ErrorKind::ConnectionAborted),
            Err((error, kind)) => (error.clone(), *kind),
        };
        self.core
            .0
            .borrow_mut()
            .end(error, kind, &mut buffers.woken);
        self.closing = Some(Closing {
            outcome: end.map_err(|(error, _)| error),
            until: now + CLOSE_TIMEOUT,
            sent: false,
        });
    }

    /// The last frames are a courtesy; a peer that does not take them is cut all the same.
    fn poll_closing(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        buffers: &mut Buffers,
    ) -> Poll<Result<(), TunnelError>> {
        let Some(mut closing) = self.closing.take() else {
            return Poll::Ready(Ok(()));
        };
        let closed = self.poll_close(cx, now, &mut closing.sent, buffers);
        if closed.is_pending() && now < closing.until {
            self.clock.arm_at(cx, closing.until);
            self.closing = Some(closing);
            return Poll::Pending;
        }
        if let Poll::Ready(Err(error)) = closed {
            tracing::debug!(%error, "last frames not sent");
        }
        self.core.0.borrow_mut().task = None;
        Poll::Ready(closing.outcome)
    }

    fn poll_close(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        sent: &mut bool,
        buffers: &mut Buffers,
    ) -> Poll<io::Result<()>> {
        while !*sent {
            std::task::ready!(
                self.wire
                    .poll_send(cx, &mut buffers.parts, &mut buffers.scratch)
            )?;
            *sent = self.transmit(now, &mut buffers.parts, &mut buffers.woken) == 0;
        }
        self.wire.poll_close(cx, &mut buffers.scratch)
    }
}

/// The connection's state, as its task holds it: when the task goes, the streams see the end.
struct Owned(Shared);

impl Drop for Owned {
    fn drop(&mut self) {
        let mut woken = Vec::new();
        let task = {
            let mut core = self.0.borrow_mut();
            core.end(
                TunnelError::Closed,
                io::ErrorKind::ConnectionAborted,
                &mut woken,
            );
            core.task.take()
        };
        woken.into_iter().for_each(|waker| waker.wake());
        drop(task);
    }
}

/// Of a handshake that did not come to its end. A client may have sent a request by then.
fn handshake_failed(core: &Core, text: String) -> TunnelError {
    match core.engine.role() {
        Role::Client => TunnelError::Failed(format!("HTTP/2 handshake: {text}")),
        Role::Server => TunnelError::Handshake(text),
    }
}

/// Of a transport that failed. A server judges a client's certificate only after the client's
/// handshake (TLS 1.3), and its refusal arrives as the alert that ends the connection.
#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn failed(error: io::Error) -> (TunnelError, io::ErrorKind) {
    let kind = error.kind();
    let error = match kind {
        io::ErrorKind::InvalidData => {
            TunnelError::Tls(Arc::new(TlsError::Alert(error.to_string())))
        }
        _ => TunnelError::Failed(error.to_string()),
    };
    (error, kind)
}

#[cfg(test)]
mod tests;
