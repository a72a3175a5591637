//! Server side: a connection keeps its place only while it is used.
//!
//! HTTP/2 keep-alive finds peers that vanished, and only once HTTP/2 is spoken. A peer that shakes
//! hands and says nothing, or answers pings and asks nothing, costs it nothing and us a place.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tonic::transport::server::Connected;

/// How long a connection may go unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardLimits {
    /// From the handshake to the first use.
    pub first_use: Duration,
    /// After a use has ended; at most twice as long passes until the cut.
    pub idle: Duration,
}

#[derive(Debug, Default)]
struct Uses {
    /// Under way.
    live: AtomicU64,
    /// Ever begun.
    begun: AtomicU64,
}

/// What a request's extensions hold of its connection.
#[derive(Debug, Clone)]
pub struct Usage {
    peer: SocketAddr,
    uses: Arc<Uses>,
}

impl Usage {
    /// The peer's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Tells that the connection is of use. Call it once a peer has shown who it is: strangers then
    /// keep no connection however much they ask.
    pub fn begin(&self) -> InUse {
        self.uses.live.fetch_add(1, Ordering::Relaxed);
        self.uses.begun.fetch_add(1, Ordering::Relaxed);
        InUse(self.uses.clone())
    }
}

/// A use of a connection, to its drop.
#[derive(Debug)]
pub struct InUse(Arc<Uses>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection of a gRPC server that ends, with an error to the server, when it is not used.
#[derive(Debug)]
pub struct Guarded<S> {
    io: S,
    usage: Usage,
    limits: GuardLimits,
    /// Uses begun when the timer was last set.
    seen: u64,
    timer: Pin<Box<Sleep>>,
}

impl<S> Guarded<S> {
    /// Guards a connection from now on. Must be called within a tokio runtime.
    pub fn new(io: S, peer: SocketAddr, limits: GuardLimits) -> Self {
        Self {
            io,
            usage: Usage {
                peer,
                uses: Arc::default(),
            },
            limits,
            seen: 0,
            timer: Box::pin(sleep(limits.first_use)),
        }
    }

    /// Asked at every read and write, so that neither bytes without a request nor a peer that reads
    /// nothing puts the end off.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let uses = &self.usage.uses;
            let begun = uses.begun.load(Ordering::Relaxed);
            if uses.live.load(Ordering::Relaxed) == 0 && begun == self.seen {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the connection is not used",
                ));
            }
            self.seen = begun;
            self.timer.as_mut().reset(Instant::now() + self.limits.idle);
        }
        Ok(())
    }
}

impl<S> Connected for Guarded<S> {
    type ConnectInfo = Usage;

    fn connect_info(&self) -> Usage {
        self.usage.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    const LIMITS: GuardLimits = GuardLimits {
        first_use: Duration::from_secs(10),
        idle: Duration::from_secs(60),
    };

    fn guarded() -> (Guarded<DuplexStream>, DuplexStream) {
        let (io, peer) = duplex(64);
        let address = SocketAddr::from(([192, 0, 2, 1], 1));
        (Guarded::new(io, address, LIMITS), peer)
    }

    async fn cut(guarded: &mut Guarded<DuplexStream>) -> Duration {
        let begin = Instant::now();
        loop {
            match guarded.read(&mut [0]).await {
                Ok(count) => assert!(count > 0, "the peer has not ended it"),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                    return begin.elapsed();
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_is_cut() {
        let (mut guarded, _peer) = guarded();
        let after = cut(&mut guarded).await;
        assert!(after >= LIMITS.first_use && after < LIMITS.first_use * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_no_use() {
        let (mut guarded, mut peer) = guarded();
        let dripping = async {
            while peer.write_all(b"x").await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            after = cut(&mut guarded) => assert!(after < LIMITS.first_use * 2),
            () = dripping => panic!("nothing ends the writing"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_is_cut() {
        let (mut guarded, _peer) = guarded();
        let error = guarded.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_used_stays_and_afterwards_has_its_time() {
        let (mut guarded, _peer) = guarded();
        let usage = guarded.connect_info();
        let in_use = usage.begin();
        let long = Duration::from_secs(3600);
        let waiting = tokio::time::timeout(long, guarded.read(&mut [0])).await;
        assert!(waiting.is_err(), "cut in use");
        // One that began and ended between two looks counts too.
        drop(in_use);
        drop(usage.begin());
        let after = cut(&mut guarded).await;
        assert!(after > LIMITS.idle && after <= LIMITS.idle * 2, "{after:?}");
    }
}
