//! One client connection: HTTP/2 handshake, sending a CONNECT, and the task that drives it.

use crate::{ConnectRequest, HboneStream, PoolSettings, TunnelError, keepalive};
use bytes::Bytes;
use futures_util::FutureExt;
use h2::client::{self, SendRequest};
use http::{Method, Request, StatusCode, Uri, uri};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::timeout;

/// The streams in use on one connection. Shared between its pool entry, its driver and its streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    count: AtomicUsize,
    idle: Notify,
}

impl Streams {
    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// The place of one stream on its connection; given back when dropped.
pub(crate) struct Slot(Arc<Streams>);

impl Slot {
    fn take(streams: &Arc<Streams>) -> Self {
        streams.count.fetch_add(1, Ordering::Relaxed);
        Self(streams.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.idle.notify_one();
        }
    }
}

/// The sending end of a connection, as the pool holds it.
pub(crate) struct Connection {
    sender: SendRequest<Bytes>,
    streams: Arc<Streams>,
    streams_max: usize,
}

/// What a checkout found.
pub(crate) enum Checkout {
    /// A place on the connection.
    Place(Place),
    /// Every place is taken; streams that end make room.
    Full,
    /// The connection is closed or closing (GOAWAY).
    Gone,
}

/// A place taken on a connection: a request may be sent at once.
pub(crate) struct Place {
    sender: SendRequest<Bytes>,
    slot: Slot,
}

impl Connection {
    /// Takes a place. The peer's limit is asked anew each time, since SETTINGS may change it.
    pub(crate) fn checkout(&self) -> Checkout {
        let mut sender = self.sender.clone();
        match poll_fn(|cx| sender.poll_ready(cx)).now_or_never() {
            Some(Ok(())) => {}
            Some(Err(_)) => return Checkout::Gone,
            None => return Checkout::Full,
        }
        let max = self.streams_max.min(sender.current_max_send_streams());
        if self.streams.count() >= max {
            return Checkout::Full;
        }
        Checkout::Place(Place {
            sender,
            slot: Slot::take(&self.streams),
        })
    }
}

impl Place {
    /// Sends the CONNECT and waits for the answer. Whatever happens, it is sent once.
    pub(crate) async fn connect(
        mut self,
        request: &ConnectRequest,
        settings: &PoolSettings,
    ) -> Result<HboneStream, TunnelError> {
        let failed = |e: h2::Error| TunnelError::of_h2(&e);
        let (answer, send) = self
            .sender
            .send_request(http_request(request)?, false)
            .map_err(failed)?;
        let answer = timeout(settings.response_timeout, answer)
            .await
            .map_err(|_| TunnelError::ResponseTimeout)?
            .map_err(failed)?;
        let (parts, receive) = answer.into_parts();
        if parts.status != StatusCode::OK {
            return Err(TunnelError::Refused(parts.status.as_u16()));
        }
        Ok(HboneStream::new(
            send,
            receive,
            parts.headers,
            Some(self.slot),
        ))
    }
}

fn http_request(request: &ConnectRequest) -> Result<Request<()>, TunnelError> {
    let bad = || TunnelError::Authority(request.authority.chars().take(300).collect());
    let authority: uri::Authority = request.authority.parse().map_err(|_| bad())?;
    let uri = Uri::builder()
        .authority(authority)
        .build()
        .map_err(|_| bad())?;
    let mut http = Request::new(());
    *http.method_mut() = Method::CONNECT;
    *http.uri_mut() = uri;
    *http.headers_mut() = request.headers.clone();
    Ok(http)
}

/// What must be polled for a connection to move; see [`Driver::run`].
pub(crate) struct Driver<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connection: client::Connection<S>,
    streams: Arc<Streams>,
    settings: PoolSettings,
}

/// The HTTP/2 handshake on a stream that is ready for it.
pub(crate) async fn handshake<S>(
    stream: S,
    settings: &PoolSettings,
) -> Result<(Connection, Driver<S>), TunnelError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let windows = settings.windows;
    let handshake = client::Builder::new()
        .initial_window_size(windows.stream_bytes)
        .initial_connection_window_size(windows.connection_bytes)
        .max_frame_size(windows.frame_bytes_max)
        .max_send_buffer_size(windows.send_buffer_bytes_max)
        .max_header_list_size(settings.header_list_bytes_max)
        .enable_push(false)
        .handshake::<S, Bytes>(stream);
    let (sender, connection) = timeout(settings.handshake_timeout, handshake)
        .await
        .map_err(|_| TunnelError::Handshake("timed out".into()))?
        .map_err(|e| TunnelError::Handshake(e.to_string()))?;
    let streams = Arc::new(Streams::default());
    let driver = Driver {
        connection,
        streams: streams.clone(),
        settings: settings.clone(),
    };
    let connection = Connection {
        sender,
        streams,
        streams_max: settings.streams_max.max(1),
    };
    Ok((connection, driver))
}

impl<S> Driver<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Drives the connection to its end. `retire` is called once, when the connection has been
    /// without streams for the idle time or has ended: it takes the connection out of the pool,
    /// after which HTTP/2 closes it as soon as the last stream is done.
    pub(crate) async fn run(self, retire: impl FnOnce()) {
        let Self {
            mut connection,
            streams,
            settings,
        } = self;
        let silent = keepalive::until_silent(connection.ping_pong(), settings.keep_alive);
        tokio::pin!(silent);
        let ended = tokio::select! {
            result = &mut connection => Some(result),
            () = &mut silent => None,
            () = idle_for(&streams, settings.idle_release) => {
                retire();
                // The pool's sender is gone: the connection says GOAWAY and ends.
                tokio::select! {
                    result = &mut connection => log_end(result),
                    () = &mut silent => {}
                }
                return;
            }
        };
        retire();
        match ended {
            Some(result) => log_end(result),
            None => tracing::debug!("tunnel closed: {}", TunnelError::KeepAlive),
        }
    }
}

fn log_end(result: Result<(), h2::Error>) {
    if let Err(error) = result {
        tracing::debug!("tunnel ended: {error}");
    }
}

/// Returns once the connection has had no stream for the whole of `period`.
async fn idle_for(streams: &Streams, period: std::time::Duration) {
    loop {
        if streams.count() > 0 {
            streams.idle.notified().await;
            continue;
        }
        // A stream that starts and ends meanwhile wakes us, and the time starts anew.
        let woken = timeout(period, streams.idle.notified()).await.is_ok();
        if !woken && streams.count() == 0 {
            return;
        }
    }
}
