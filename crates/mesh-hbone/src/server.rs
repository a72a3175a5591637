//! The server side of a tunnel: takes CONNECT requests off a connection, one local task each.

use crate::{HboneStream, ServerSettings, TunnelError, keepalive};
use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason as Code, RecvStream};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use mesh_model::Reason;
use mesh_runtime::{Drain, Scope};
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// Longest authority taken: a DNS name of 253 bytes and a port, with room.
const AUTHORITY_BYTES_MAX: usize = 300;
/// How long a cut connection may take to send its last frames.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest sleep in one piece while the wall clock is waited for.
const CLOCK_STEP_MAX: Duration = Duration::from_secs(60);

/// A CONNECT request, checked to be one: method CONNECT, an authority with host and port.
pub struct Incoming {
    authority: String,
    headers: HeaderMap,
    receive: RecvStream,
    respond: SendResponse<Bytes>,
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
        // An error means that the connection is gone, which is giving up as well.
        drop(poll_fn(|cx| self.respond.poll_reset(cx)).await);
    }

    /// Answers 200 with the given headers; bytes flow from here on.
    ///
    /// # Errors
    /// When the peer gave the request up meanwhile.
    pub fn accept(mut self, headers: HeaderMap) -> Result<HboneStream, TunnelError> {
        let mut answer = Response::new(());
        *answer.headers_mut() = headers.clone();
        let send = self
            .respond
            .send_response(answer, false)
            .map_err(|e| TunnelError::Failed(e.to_string()))?;
        Ok(HboneStream::new(send, self.receive, headers, None))
    }

    /// Answers with the status of the reason and nothing else ([`Reason::connect_status`]).
    pub fn refuse(mut self, reason: Reason) {
        let status = StatusCode::from_u16(reason.connect_status());
        refuse(
            &mut self.respond,
            status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
        );
    }
}

/// An answer without body. A peer that gave the request up misses nothing.
fn refuse(respond: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut answer = Response::new(());
    *answer.status_mut() = status;
    if let Err(error) = respond.send_response(answer, true) {
        tracing::debug!("refusal not sent: {error}");
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
    S: AsyncRead + AsyncWrite + Unpin,
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
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Incoming) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let mut connection = handshake(stream, settings).await?;
    let silent = keepalive::until_silent(connection.ping_pong(), settings.keep_alive);
    tokio::pin!(silent);
    let leaving = async {
        tokio::select! {
            () = drain.started() => {}
            () = retire => {}
        }
    };
    tokio::pin!(leaving);
    let mut left = false;
    let tasks = Tasks::new(settings.streams_max.saturating_mul(2));
    loop {
        tokio::select! {
            biased;
            () = scope.cancelled() => break,
            () = drain.forced() => break,
            () = &mut leaving, if !left => {
                left = true;
                connection.graceful_shutdown();
            }
            () = &mut silent => return Err(TunnelError::KeepAlive),
            next = connection.accept() => match next {
                None => return Ok(()),
                Some(Err(error)) => return Err(TunnelError::of_h2(&error)),
                Some(Ok((request, respond))) => {
                    take(request, respond, &tasks, scope, &handler);
                }
            }
        }
    }
    connection.abrupt_shutdown(Code::NO_ERROR);
    // The last frames are a courtesy; a peer that does not take them is cut all the same.
    drop(timeout(CLOSE_TIMEOUT, poll_fn(|cx| connection.poll_closed(cx))).await);
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

async fn handshake<S>(
    stream: S,
    settings: &ServerSettings,
) -> Result<server::Connection<S, Bytes>, TunnelError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let windows = settings.windows;
    let handshake = server::Builder::new()
        .initial_window_size(windows.stream_bytes)
        .initial_connection_window_size(windows.connection_bytes)
        .max_frame_size(windows.frame_bytes_max)
        .max_send_buffer_size(windows.send_buffer_bytes_max)
        .max_header_list_size(settings.header_list_bytes_max)
        .max_concurrent_streams(settings.streams_max)
        .handshake(stream);
    timeout(settings.handshake_timeout, handshake)
        .await
        .map_err(|_| TunnelError::Handshake("timed out".into()))?
        .map_err(|e| TunnelError::Handshake(e.to_string()))
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

fn take<F, Fut>(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    tasks: &Tasks,
    scope: &Scope,
    handler: &F,
) where
    F: Fn(Incoming) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let (parts, receive) = request.into_parts();
    let authority = match parts.method {
        Method::CONNECT => authority_of(&parts.uri),
        _ => None,
    };
    let Some(authority) = authority else {
        tracing::debug!(method = %parts.method, uri = %parts.uri, "not a CONNECT to host:port");
        return refuse(&mut respond, StatusCode::BAD_REQUEST);
    };
    let Some(task) = tasks.start() else {
        return respond.send_reset(Code::REFUSED_STREAM);
    };
    // Boxed: each future around it would hold room for it once more.
    let work = Box::pin(handler(Incoming {
        authority,
        headers: parts.headers,
        receive,
        respond,
    }));
    scope.spawn_local("hbone stream", async move {
        work.await;
        drop(task);
    });
}

/// The authority when it is `host:port` of bounded length without user information.
fn authority_of(uri: &Uri) -> Option<String> {
    let authority = uri.authority()?;
    let text = authority.as_str();
    let good = text.len() <= AUTHORITY_BYTES_MAX
        && !text.contains('@')
        && !authority.host().is_empty()
        && authority.port_u16().is_some_and(|port| port != 0);
    good.then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
