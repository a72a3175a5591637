//! One downstream connection: the codec, the clock, the drain and the cut, side by side.

use crate::body::ResponseBody;
use crate::connection::{ConnectionState, Expired, Watchdog};
use crate::context::ConnectionContext;
use crate::exchange::Downstream;
use crate::exec::LocalExec;
use crate::io::Watched;
use crate::policy::Policies;
use crate::proxy::Shared;
use crate::tunnel;
use crate::upstream::BUFFER_BYTES_MIN;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_model::Reason;
use mesh_net::Prefixed;
use mesh_runtime::Drain;
use mesh_telemetry::RequestFacts;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// After an answer that ends the connection, what the client still sends is read for this long and
/// up to this many bytes: closing at once would reset the connection and lose the answer.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 256 * 1024);
/// The answer to a client whose head is too slow; hyper writes none.
const SLOW_HEAD: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nserver: strata\r\n\
    x-strata-reason: bad_request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Serves one connection.
pub(crate) struct Serving {
    downstream: Rc<Downstream>,
}

/// hyper's view of [`Downstream::exchange`].
struct Exchanges(Rc<Downstream>);

impl Service<Request<Incoming>> for Exchanges {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let downstream = self.0.clone();
        Box::pin(async move { Ok(downstream.exchange(request).await) })
    }
}

/// Why serving stopped.
enum End {
    /// The codec is done, well or not.
    Codec(hyper::Result<()>),
    /// We cut it.
    Cut(Reason),
    /// The client was too slow.
    Expired(Expired),
}

impl Serving {
    pub(crate) fn new(shared: Rc<Shared>, context: ConnectionContext) -> Self {
        Self {
            downstream: Rc::new(Downstream {
                shared,
                context: Rc::new(context),
                state: Rc::new(ConnectionState::new()),
                policies: Policies::default(),
            }),
        }
    }

    /// HTTP/1.1, and whatever it switches to.
    pub(crate) async fn http1<S>(
        self,
        io: Prefixed<S>,
        cut: impl Future<Output = Reason>,
        drain: &Drain,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let settings = &self.downstream.shared.settings;
        let state = self.downstream.state.clone();
        let io = TokioIo::new(Watched::new(io, state.clone()));
        let mut codec = http1::Builder::new()
            .header_read_timeout(None)
            .max_headers(settings.header_count_max)
            .max_header_size(settings.header_bytes_max)
            .max_buf_size(settings.header_bytes_max.max(BUFFER_BYTES_MIN))
            .serve_connection(io, Exchanges(self.downstream.clone()));
        let mut watchdog = Watchdog::new(Some(settings.header_read_timeout), settings.idle_timeout);
        tokio::pin!(cut);
        let mut draining = false;
        let end = loop {
            tokio::select! {
                biased;
                reason = &mut cut => break End::Cut(reason),
                () = drain.forced() => break End::Cut(Reason::Drained),
                () = drain.started(), if !draining => {
                    draining = true;
                    Pin::new(&mut codec).graceful_shutdown();
                }
                done = poll_fn(|cx| codec.poll_without_shutdown(cx)) => break End::Codec(done),
                what = poll_fn(|cx| watchdog.poll(cx, &state)) => break End::Expired(what),
            }
        };
        if let End::Cut(reason) = end {
            state.set_cut(reason);
            return;
        }
        let parts = codec.into_parts();
        let (io, read) = (parts.io.into_inner().into_inner(), parts.read_buf);
        match (end, state.take_switched()) {
            (End::Codec(Ok(())), Some(switched)) => {
                let down = Prefixed::new(io, read);
                let cut = async {
                    tokio::select! {
                        reason = cut => reason,
                        () = drain.forced() => Reason::Drained,
                    }
                };
                tunnel::run(down, switched, cut).await;
            }
            (end, _) => self.close(io, end).await,
        }
    }

    /// Says goodbye on a connection whose codec is done.
    async fn close<S>(&self, mut io: S, end: End)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match end {
            End::Expired(Expired::Head) => {
                self.record_bad_head(408, "the head of the request was not complete in time");
                // The client may be gone: then nobody misses the answer.
                if io.write_all(SLOW_HEAD).await.is_err() {
                    return;
                }
            }
            End::Codec(Err(error)) if error.is_parse() && self.downstream.state.is_idle() => {
                let status = if error.is_parse_too_large() { 431 } else { 400 };
                self.record_bad_head(status, &error.to_string());
            }
            End::Codec(Err(error)) => {
                tracing::debug!("downstream connection: {error}");
                return;
            }
            End::Codec(Ok(())) | End::Expired(Expired::Idle) | End::Cut(_) => {
                drop(io.shutdown().await);
                return;
            }
        }
        linger(io).await;
    }

    /// One record for a request that never became one.
    fn record_bad_head(&self, status: u16, detail: &str) {
        let context = &self.downstream.context;
        let mut facts = RequestFacts::of(context.reporter, &Request::new(()));
        facts.method = "-".into();
        facts.path = "-".into();
        facts.source = context.source.clone();
        facts.security = context.security;
        facts.local_address = Some(context.destination);
        let record = self.downstream.shared.metrics.request(facts);
        record.end(status, Reason::BadRequest, Some(detail.to_owned()));
    }

    /// HTTP/2: streams are tasks of their own on this thread, and end with the connection.
    pub(crate) async fn http2<S>(
        self,
        io: Prefixed<S>,
        cut: impl Future<Output = Reason>,
        drain: &Drain,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let settings = &self.downstream.shared.settings;
        let state = self.downstream.state.clone();
        let streams = self.downstream.shared.scope.child();
        let header_bytes_max = u32::try_from(settings.header_bytes_max).unwrap_or(u32::MAX);
        let codec = http2::Builder::new(LocalExec::new(&streams))
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.streams_max)
            .max_header_list_size(header_bytes_max)
            .initial_stream_window_size(settings.stream_window_bytes)
            .initial_connection_window_size(settings.connection_window_bytes)
            .max_send_buf_size(settings.send_buffer_bytes_max)
            .keep_alive_interval(settings.ping.0)
            .keep_alive_timeout(settings.ping.1)
            .serve_connection(TokioIo::new(io), Exchanges(self.downstream.clone()));
        let mut watchdog = Watchdog::new(None, settings.idle_timeout);
        tokio::pin!(codec);
        tokio::pin!(cut);
        let mut leaving = false;
        let end = loop {
            tokio::select! {
                biased;
                reason = &mut cut => break End::Cut(reason),
                () = drain.forced() => break End::Cut(Reason::Drained),
                () = drain.started(), if !leaving => {
                    leaving = true;
                    codec.as_mut().graceful_shutdown();
                }
                done = codec.as_mut() => break End::Codec(done),
                _ = poll_fn(|cx| watchdog.poll(cx, &state)), if !leaving => {
                    leaving = true;
                    codec.as_mut().graceful_shutdown();
                }
            }
        };
        match end {
            End::Cut(reason) => state.set_cut(reason),
            End::Codec(Err(error)) => tracing::debug!("downstream connection: {error}"),
            End::Codec(Ok(())) | End::Expired(_) => {}
        }
        streams.cancel();
    }
}

/// Ends our side, then reads on for a moment so that the answer arrives.
async fn linger<S>(mut io: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if io.shutdown().await.is_err() {
        return;
    }
    let reading = async {
        let mut scratch = [0; 4096];
        let mut left = LINGER.1;
        while left > 0 {
            match io.read(&mut scratch).await {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    };
    // What is not read within the time is not waited for.
    drop(tokio::time::timeout(LINGER.0, reading).await);
}
