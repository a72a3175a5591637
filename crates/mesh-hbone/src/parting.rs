//! A byte stream under an inner tunnel, which is left in good order.
//!
//! An inner tunnel's connection ends with its only stream, and what it ran over is dropped. A stream of an
//! outer tunnel that is dropped while the far side still has a word to say is reset, and a gateway in
//! between, which cannot see what is within, has to take that for a client that went away.

use mesh_runtime::Scope;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// How long the far side may take to end its half.
const PARTING_TIME_MAX: Duration = Duration::from_secs(5);
/// What it may still say until then, bytes: the end of its HTTP/2 and of its TLS.
const PARTING_BYTES_MAX: u64 = 16 << 10;

/// Ends its half when dropped, and waits for the other in a task of the scope.
pub(crate) struct Parting<S: AsyncRead + AsyncWrite + Unpin + 'static> {
    stream: Option<S>,
    scope: Scope,
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Parting<S> {
    pub(crate) fn new(stream: S, scope: &Scope) -> Self {
        Self {
            stream: Some(stream),
            scope: scope.clone(),
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut S>> {
        let stream = self.stream.as_mut().map(Pin::new);
        stream.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Drop for Parting<S> {
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        if self.scope.is_cancelled() {
            return;
        }
        self.scope.spawn_local("inner tunnel's end", async move {
            let parting = async {
                stream.shutdown().await?;
                let mut rest = stream.take(PARTING_BYTES_MAX);
                tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
            };
            // Whatever it comes to, nothing follows.
            drop(tokio::time::timeout(PARTING_TIME_MAX, parting).await);
        });
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> AsyncRead for Parting<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> AsyncWrite for Parting<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().stream()?.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_shutdown(cx)
    }
}
