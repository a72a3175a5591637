//! The server side of a tunnel: takes CONNECT requests off a connection, one local task each.

use crate::core::{Handle, Request};
use crate::wire::{Plain, Sealed, Wire};
use crate::{HboneStream, ServerSettings, TunnelError, driver, fields};
use http::HeaderMap;
use mesh_http2::ErrorCode;
use mesh_model::Reason;
use mesh_runtime::{Drain, Scope};
use mesh_tls::Session;
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};

/// Longest sleep in one piece while the wall clock is waited for.
const CLOCK_STEP_MAX: Duration = Duration::from_secs(60);

/// A CONNECT request, checked to be one: method CONNECT, an authority with host and port. Dropped
/// without an answer, it is reset.
pub struct Incoming {
    authority: String,
    headers: HeaderMap,
    handle: Handle,
}

impl Incoming {
    /// The `:authority`, `host:port`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The request's headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Returns when the peer gives the request up, so that work on it can stop.
    pub async fn abandoned(&mut self) {
        poll_fn(|cx| self.handle.poll_abandoned(cx)).await;
    }

    /// Answers 200 with the given headers; bytes flow from here on.
    ///
    /// # Errors
    /// When the peer gave the request up meanwhile.
    pub fn accept(self, headers: &HeaderMap) -> Result<HboneStream, TunnelError> {
        self.handle.answer(&fields::answer(200, headers), false)?;
        Ok(HboneStream::new(self.handle))
    }

    /// Answers with the status of the reason and nothing else ([`Reason::connect_status`]).
    pub fn refuse(self, reason: Reason) {
        refuse(&self.handle, reason.connect_status());
    }
}

/// An answer without body. A peer that gave the request up misses nothing.
fn refuse(handle: &Handle, status: u16) {
    match handle.answer(&fields::answer(status, &HeaderMap::new()), true) {
        // What the peer may still send is not wanted (RFC 9113 section 8.1).
        Ok(()) => handle.reset(ErrorCode::NO_ERROR),
        Err(error) => tracing::debug!("refusal not sent: {error}"),
    }
}

/// Serves a connection whose TLS handshake is done, until it ends.
///
/// Each request becomes one local task of `scope`. When the drain starts the peer is told to open
/// no more streams (GOAWAY) and those there run on; when the drain is forced, or `scope` is
/// cancelled, the connection is closed.
///
/// # Errors
/// When the peer breaks HTTP/2, vanishes or falls silent. Streams see the same as an I/O error.
pub async fn serve<S, F, Fut>(
    stream: S,
    settings: &ServerSettings,
    drain: &Drain,
    scope: &Scope,
    handler: F,
) -> Result<(), TunnelError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    F: Fn(Incoming) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let never = std::future::pending();
    serve_until(stream, settings, drain, scope, never, handler).await
}

/// As [`serve`]; once `retire` is done the peer is told to open no more streams here, so that the
/// next one comes on a connection for which it proves itself anew. Streams there run on.
///
/// # Errors
/// As [`serve`].
pub async fn serve_until<S, F, Fut>(
    stream: S,
    settings: &ServerSettings,
    drain: &Drain,
    scope: &Scope,
    retire: impl Future<Output = ()>,
    handler: F,
) -> Result<(), TunnelError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    F: Fn(Incoming) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    serve_wire(Plain::new(stream), settings, drain, scope, retire, handler).await
}

/// As [`serve_until`], on a session whose records are ours: bytes are opened and sealed where they lie.
///
/// # Errors
/// As [`serve`].
pub async fn serve_session<S, F, Fut>(
    session: Session<S>,
    settings: &ServerSettings,
    drain: &Drain,
    scope: &Scope,
    retire: impl Future<Output = ()>,
    handler: F,
) -> Result<(), TunnelError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    F: Fn(Incoming) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    serve_wire(
        Sealed::new(session),
        settings,
        drain,
        scope,
        retire,
        handler,
    )
    .await
}

async fn serve_wire<W, F, Fut>(
    wire: W,
    settings: &ServerSettings,
    drain: &Drain,
    scope: &Scope,
    retire: impl Future<Output = ()>,
    handler: F,
) -> Result<(), TunnelError>
where
    W: Wire,
    F: Fn(Incoming) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let mut driver = driver::server(wire, settings);
    let mut leaving = pin!(async {
        tokio::select! {
            () = drain.started() => {}
            () = retire => {}
        }
    });
    let mut left = false;
    let tasks = Tasks::new(settings.streams_max.saturating_mul(2));
    let served = poll_fn(|cx| {
        if !left && leaving.as_mut().poll(cx).is_ready() {
            left = true;
            driver.leave();
        }
        driver.poll(cx, &mut |request| take(request, &tasks, scope, &handler))
    });
    tokio::select! {
        biased;
        () = scope.cancelled() => {}
        () = drain.forced() => {}
        served = served => {
            driver.give_to_freezer();
            return served;
        }
    }
    driver.cut().await;
    Ok(())
}

/// Waits for a moment of the wall clock, which may jump, such as the end of a peer's certificate.
pub async fn passed(moment: SystemTime) {
    while let Ok(left) = moment.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(CLOCK_STEP_MAX)).await;
    }
}

/// The tasks of one connection. A stream the peer resets frees its place in HTTP/2 at once, while
/// its task may still be connecting: without a count of its own, opening and resetting streams in
/// turn would pile up tasks. Twice the streams leaves an honest peer at its limit room for tasks
/// that are just ending.
struct Tasks {
    running: Rc<Cell<u32>>,
    max: u32,
}

struct Task(Rc<Cell<u32>>);

impl Tasks {
    fn new(max: u32) -> Self {
        Self {
            running: Rc::default(),
            max,
        }
    }

    fn start(&self) -> Option<Task> {
        let running = self.running.get();
        (running < self.max).then(|| {
            self.running.set(running + 1);
            Task(self.running.clone())
        })
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

fn take<F, Fut>(request: Request, tasks: &Tasks, scope: &Scope, handler: &F)
where
    F: Fn(Incoming) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let Request { handle, fields } = request;
    let Some(authority) = fields::authority(&fields) else {
        tracing::debug!(?fields, "not a CONNECT to host:port");
        return refuse(&handle, 400);
    };
    let Some(task) = tasks.start() else {
        return handle.reset(ErrorCode::REFUSED_STREAM);
    };
    // Boxed: each future around it would hold room for it once more.
    let work = Box::pin(handler(Incoming {
        authority,
        headers: fields::headers(fields),
        handle,
    }));
    scope.spawn_local("hbone stream", async move {
        work.await;
        drop(task);
    });
}

#[cfg(test)]
mod tests;
