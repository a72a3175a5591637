//! The doors: TCP, with TLS or without, to gRPC.

use super::{Discovery, Service};
use mesh_grpc::{GuardLimits, Guarded};
use mesh_net::{ListenOptions, accept, listen};
use mesh_runtime::Scope;
use mesh_tls::{EdgeStream, ServingTls};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

/// Connections at a time; a proxy needs one. Past it, new ones wait in the listen queue.
const CONNECTIONS_MAX: usize = 8192;
/// Connections that have finished their handshake and wait for the server.
const CONNECTIONS_WAITING_MAX: usize = 64;
/// Streams of one connection at a time.
const STREAMS_MAX: u32 = 16;
/// HTTP/2 keep-alive: how often, and how long an answer may take.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// A proxy asks as soon as it is connected, and keeps its stream; after one that ended it asks again.
const LIMITS: GuardLimits = GuardLimits {
    first_use: Duration::from_secs(15),
    idle: Duration::from_secs(60),
};
/// How long to wait after a failed accept (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where connections come in.
pub(crate) struct Door {
    /// Address to listen on.
    pub(crate) address: SocketAddr,
    /// TLS; none given: plaintext.
    pub(crate) tls: Option<ServingTls>,
}

/// Opens a door and serves behind it. Returns the address in use.
///
/// # Errors
/// When the address cannot be listened on.
pub(crate) fn serve(door: Door, discovery: Discovery, scope: &Scope) -> io::Result<SocketAddr> {
    let listener = listen(&ListenOptions::new(door.address))?;
    let address = listener.local_addr()?;
    let (sender, receiver) = mpsc::channel(CONNECTIONS_WAITING_MAX);
    let handshakes = scope.child();
    let tls = door.tls;
    scope.spawn("discovery accept", async move {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        while let Ok(permit) = permits.clone().acquire_owned().await {
            match accept(&listener).await {
                Ok((stream, peer)) => {
                    let arrival = Arrival {
                        stream,
                        peer,
                        permit,
                    };
                    handshakes.spawn("handshake", arrive(arrival, tls.clone(), sender.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    let stop = scope.clone();
    let service = Service(Arc::new(discovery)).into_server();
    scope.spawn("discovery server", async move {
        let result = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE.0))
            .http2_keepalive_timeout(Some(KEEP_ALIVE.1))
            .max_concurrent_streams(STREAMS_MAX)
            .add_service(service)
            .serve_with_incoming_shutdown(ReceiverStream::new(receiver), async move {
                stop.cancelled().await;
            })
            .await;
        if let Err(error) = result {
            tracing::error!(%error, "the discovery server ended");
        }
    });
    Ok(address)
}

struct Arrival {
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
}

async fn arrive(
    arrival: Arrival,
    tls: Option<ServingTls>,
    sender: mpsc::Sender<io::Result<Guarded<Connection>>>,
) {
    let Arrival {
        stream,
        peer,
        permit,
    } = arrival;
    let io = match tls {
        None => Io::Plain(stream),
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => Io::Tls(Box::new(stream)),
            Err(error) => {
                tracing::debug!(%peer, %error, "TLS handshake failed");
                return;
            }
        },
    };
    let connection = Connection {
        io,
        _permit: permit,
    };
    let guarded = Guarded::new(connection, peer, LIMITS);
    // The server is gone when this fails.
    sender.send(Ok(guarded)).await.ok();
}

enum Io {
    Plain(TcpStream),
    Tls(Box<EdgeStream<TcpStream>>),
}

/// A connection that has shaken hands.
struct Connection {
    io: Io,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Io::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Io::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(s) => Pin::new(s).poll_flush(cx),
            Io::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Io::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
