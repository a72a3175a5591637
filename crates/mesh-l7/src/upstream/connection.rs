//! One upstream connection of either version, driven by a task of its own.

use super::pool::{Endpoints, OpenPermit};
use super::{EndpointKey, SendError};
use crate::body::RequestBody;
use crate::exec::LocalExec;
use crate::settings::UpstreamSettings;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_hbone::{TunnelError, UpstreamStream};
use mesh_model::Reason;
use mesh_net::Prefixed;
use mesh_runtime::Scope;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The bytes of a connection after a switch of protocols.
type SwitchedIo = (UpstreamStream, Bytes);

/// An HTTP/1.1 connection between two requests.
pub(crate) struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    /// Gives the bytes back, on a connection made for a switch of protocols.
    switched: Option<oneshot::Receiver<SwitchedIo>>,
}

impl Http1 {
    pub(super) async fn start(
        io: UpstreamStream,
        settings: &UpstreamSettings,
        scope: &Scope,
        open: OpenPermit,
        switching: bool,
    ) -> Result<Self, SendError> {
        let (sender, connection) = http1::Builder::new()
            .max_headers(settings.header_count_max)
            .max_header_size(settings.header_bytes_max)
            .max_buf_size(settings.header_bytes_max.max(BUFFER_BYTES_MIN))
            .handshake(TokioIo::new(io))
            .await
            .map_err(|e| SendError::new(Reason::UpstreamReset, e.to_string()))?;
        let (give, switched) = oneshot::channel();
        scope.spawn_local("upstream http1", async move {
            let result = if switching {
                connection.without_shutdown().await.map(|parts| {
                    // Nobody there to take it: the exchange is over, and so is the connection.
                    drop(give.send((parts.io.into_inner(), parts.read_buf)));
                })
            } else {
                drop(give);
                connection.await
            };
            if let Err(error) = result {
                tracing::debug!("upstream connection: {error}");
            }
            drop(open);
        });
        Ok(Self {
            sender,
            switched: switching.then_some(switched),
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Sends a request; afterwards the connection goes to `home`, if any.
    pub(super) async fn send(
        mut self,
        request: Request<RequestBody>,
        home: Option<(Rc<Endpoints>, EndpointKey)>,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        match self.sender.try_send_request(request).await {
            Ok(response) => Ok((
                response,
                Lease::Http1 {
                    connection: self,
                    home,
                },
            )),
            Err(error) => Err(send_error(error)),
        }
    }
}

/// An HTTP/2 connection, shared.
pub(crate) struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    streams: Cell<usize>,
    /// What the server allows, as its task last saw it.
    streams_max: Rc<Cell<usize>>,
    last_used: Cell<Instant>,
    /// A request could not be sent on it: it goes away.
    leaving: Cell<bool>,
}

impl Http2 {
    pub(super) async fn start(
        io: UpstreamStream,
        settings: &UpstreamSettings,
        scope: &Scope,
        open: OpenPermit,
    ) -> Result<Rc<Self>, SendError> {
        let header_bytes_max = u32::try_from(settings.header_bytes_max).unwrap_or(u32::MAX);
        let (sender, connection) = http2::Builder::new(LocalExec::new(scope))
            .timer(TokioTimer::new())
            .initial_stream_window_size(settings.stream_window_bytes)
            .initial_connection_window_size(settings.connection_window_bytes)
            .max_header_list_size(header_bytes_max)
            .keep_alive_interval(settings.ping.0)
            .keep_alive_timeout(settings.ping.1)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|e| SendError::new(Reason::UpstreamReset, e.to_string()))?;
        let streams_max = Rc::new(Cell::new(connection.current_max_send_streams()));
        let allowed = streams_max.clone();
        scope.spawn_local("upstream http2", async move {
            let mut connection = Box::pin(connection);
            let ended = poll_fn(|cx| {
                let ended = connection.as_mut().poll(cx);
                allowed.set(connection.current_max_send_streams());
                ended
            });
            if let Err(error) = ended.await {
                tracing::debug!("upstream connection: {error}");
            }
            drop(open);
        });
        Ok(Rc::new(Self {
            sender,
            streams: Cell::new(0),
            streams_max,
            last_used: Cell::new(Instant::now()),
            leaving: Cell::new(false),
        }))
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.leaving.get() && !self.sender.is_closed()
    }

    pub(super) fn has_room(&self, max: usize) -> bool {
        self.streams.get() < max.min(self.streams_max.get().max(1))
    }

    /// Since when no request is on it; none while one is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.streams.get() == 0).then(|| self.last_used.get())
    }

    /// Takes a place on it.
    pub(super) fn place(self: &Rc<Self>) -> Place {
        self.streams.set(self.streams.get() + 1);
        Place {
            connection: self.clone(),
        }
    }
}

/// A place on a shared connection, free again when dropped.
pub(crate) struct Place {
    connection: Rc<Http2>,
}

impl Place {
    pub(super) async fn send(
        self,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        let mut sender = self.connection.sender.clone();
        match sender.try_send_request(request).await {
            Ok(response) => Ok((response, Lease::Http2 { place: self })),
            Err(error) => {
                let error = send_error(error);
                if error.unsent.is_some() {
                    self.connection.leaving.set(true);
                }
                Err(error)
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let streams = &self.connection.streams;
        streams.set(streams.get().saturating_sub(1));
        self.connection.last_used.set(Instant::now());
    }
}

fn send_error(mut error: TrySendError<Request<RequestBody>>) -> SendError {
    let unsent = error.take_message();
    let found = SendError::new(lost_reason(error.error()), chain(error.error()));
    match unsent {
        Some(request) => found.with(request),
        None => found,
    }
}

/// Why an upstream connection broke: it went away, unless it is the far proxy that is trusted no longer.
pub(crate) fn lost_reason(error: &(dyn std::error::Error + 'static)) -> Reason {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if let Some(reason) = io.and_then(TunnelError::distrust) {
            return reason;
        }
        cause = error.source();
    }
    Reason::UpstreamReset
}

/// An error and what caused it: hyper's own words say little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// A connection in use by one exchange. Dropped without [`Self::release`], an HTTP/1.1 connection
/// is closed: what is left of a message on it must never meet the next one.
pub(crate) enum Lease {
    Http1 {
        connection: Http1,
        home: Option<(Rc<Endpoints>, EndpointKey)>,
    },
    Http2 {
        place: Place,
    },
}

impl Lease {
    /// The response has ended well. `request_done`: so has the request.
    pub(crate) fn release(self, request_done: bool) {
        match self {
            Self::Http1 {
                connection,
                home: Some((endpoints, key)),
            } if request_done && !connection.is_closed() => {
                endpoints.keep_http1(&key, connection);
            }
            Self::Http1 { .. } => {}
            Self::Http2 { place } => drop(place),
        }
    }

    /// The bytes of the connection after a 101.
    pub(crate) async fn switched(self) -> Option<Prefixed<UpstreamStream>> {
        let Self::Http1 {
            connection:
                Http1 {
                    sender,
                    switched: Some(switched),
                },
            ..
        } = self
        else {
            return None;
        };
        let (io, read) = switched.await.ok()?;
        drop(sender);
        Some(Prefixed::new(io, read))
    }
}

/// hyper's smallest limit of a connection's buffer.
pub(crate) const BUFFER_BYTES_MIN: usize = 8192;
