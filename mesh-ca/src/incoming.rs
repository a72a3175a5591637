//! The connections of the gRPC server: accepted and through their TLS handshake, within bounds.

use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{Stream, stream};
use mesh_grpc::{GuardLimits, Guarded};
use mesh_tls::{EdgeStream, ServingTls};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A proxy dials when it has something to ask, and asks again within hours. A connection that it has
/// kept in between costs it one dial to replace.
const LIMITS: GuardLimits = GuardLimits {
    first_use: Duration::from_secs(15),
    idle: Duration::from_secs(600),
};

/// A connection of a gRPC server; it counts against the server's limit while it lives.
pub(crate) struct ServerStream {
    stream: EdgeStream<TcpStream>,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for ServerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The connections of a gRPC server after their TLS handshake, for
/// `tonic::transport::Server::serve_with_incoming`. At most `connections_max` are open or in their
/// handshake at once; more wait in the listener's backlog. A handshake that fails is logged and
/// passed over; the stream ends only when the listener is lost.
pub(crate) fn incoming(
    listener: TcpListener,
    tls: ServingTls,
    connections_max: usize,
) -> impl Stream<Item = io::Result<Guarded<ServerStream>>> {
    let permits = Arc::new(Semaphore::new(connections_max));
    let handshakes = FuturesUnordered::new();
    let state = (listener, tls, permits, handshakes);
    stream::unfold(
        state,
        |(listener, tls, permits, mut handshakes)| async move {
            loop {
                tokio::select! {
                    accepted = accept(&listener, &permits) => match accepted {
                        Ok((stream, peer, permit)) => {
                            handshakes.push(handshake(tls.clone(), stream, peer, permit));
                        }
                        Err(error) => {
                            return Some((Err(error), (listener, tls, permits, handshakes)));
                        }
                    },
                    Some(done) = handshakes.next(), if !handshakes.is_empty() => {
                        if let Some(stream) = done {
                            return Some((Ok(stream), (listener, tls, permits, handshakes)));
                        }
                    }
                }
            }
        },
    )
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = permits
        .clone()
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, peer) = mesh_net::accept(listener).await?;
    Ok((stream, peer, permit))
}

async fn handshake(
    tls: ServingTls,
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
) -> Option<Guarded<ServerStream>> {
    match tls.accept(stream).await {
        Ok(stream) => {
            let stream = ServerStream {
                stream,
                _permit: permit,
            };
            Some(Guarded::new(stream, peer, LIMITS))
        }
        Err(error) => {
            tracing::debug!(%peer, %error, "a TLS handshake failed");
            None
        }
    }
}
