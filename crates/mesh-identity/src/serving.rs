//! The host certificate of our own gRPC servers, and their connections.

use crate::client::{CaClient, FetchError};
use crate::keeper::sleep_until;
use crate::schedule::{self, Backoff};
use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{Stream, stream};
use mesh_grpc::ChannelSettings;
use mesh_model::{Dice, SpiffeId};
use mesh_runtime::{ReadyGate, Scope};
use mesh_tls::{EdgeStream, ServingCertificate, ServingTls, new_serving_csr};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Which host certificate to ask the authority for.
#[derive(Debug, Clone)]
pub struct ServingRequest {
    /// Where the authority is and as whom we call.
    pub channel: ChannelSettings,
    /// The caller's own identity.
    pub identity: SpiffeId,
    /// The DNS names to serve as; the authority must grant them to the caller.
    pub dns_names: Vec<String>,
    /// Lifetime asked for.
    pub ttl: Duration,
}

/// Keeps a host certificate from the authority in `tls`, renewed at half life. The gate opens
/// with the first one.
pub fn keep_serving(request: ServingRequest, tls: ServingTls, scope: &Scope, gate: ReadyGate) {
    scope.spawn("serving certificate", async move {
        let client = CaClient::new(request.channel.clone(), request.ttl);
        let mut dice = Dice::seeded(RandomState::new().hash_one(&request.identity));
        let mut backoff = Backoff::default();
        loop {
            let result = fetch(&client, &request).await;
            let now = SystemTime::now();
            let delay = match result {
                Ok(certificate) => {
                    tls.set(&certificate);
                    gate.open();
                    tracing::info!(
                        names = certificate.names().join(","),
                        "serving certificate issued"
                    );
                    let due = certificate.renew_at();
                    if due > now {
                        backoff.reset();
                        sleep_until(due).await;
                        continue;
                    }
                    backoff.delay(&mut dice)
                }
                Err(error) => {
                    let delay = backoff.delay(&mut dice);
                    let retry_ms = delay.as_millis();
                    tracing::warn!(%error, retry_ms, "no serving certificate");
                    delay
                }
            };
            sleep_until(schedule::retry_at(now, delay, None)).await;
        }
    });
}

async fn fetch(
    client: &CaClient,
    request: &ServingRequest,
) -> Result<ServingCertificate, FetchError> {
    let (csr, key) = new_serving_csr(&request.identity, &request.dns_names)?;
    let chain = client.sign(csr, None).await?;
    Ok(ServingCertificate::from_chain(key, &chain)?)
}

/// A connection of a gRPC server; it counts against the server's limit while it lives.
pub struct ServerStream {
    stream: EdgeStream<TcpStream>,
    _permit: OwnedSemaphorePermit,
}

impl Connected for ServerStream {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.get_ref().0.connect_info()
    }
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
pub fn incoming(
    listener: TcpListener,
    tls: ServingTls,
    connections_max: usize,
) -> impl Stream<Item = io::Result<ServerStream>> {
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
) -> Option<ServerStream> {
    match tls.accept(stream).await {
        Ok(stream) => Some(ServerStream {
            stream,
            _permit: permit,
        }),
        Err(error) => {
            tracing::debug!(%peer, %error, "a TLS handshake failed");
            None
        }
    }
}
