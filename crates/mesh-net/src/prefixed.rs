//! A stream with bytes that were read ahead of their time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gives back bytes read during detection, then the stream's own. Holds no buffer once they are
/// given back.
#[derive(Debug)]
pub struct Prefixed<S> {
    prefix: Vec<u8>,
    given: usize,
    inner: S,
}

impl<S> Prefixed<S> {
    /// A stream that first gives the bytes of `prefix`.
    pub fn new(inner: S, prefix: impl Into<Vec<u8>>) -> Self {
        Self {
            prefix: prefix.into(),
            given: 0,
            inner,
        }
    }

    /// The bytes read ahead and not given back yet.
    pub fn prefix(&self) -> &[u8] {
        self.prefix.get(self.given..).unwrap_or_default()
    }

    /// The stream itself; bytes not given back are lost.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// The stream itself and the bytes not given back yet.
    pub fn into_parts(mut self) -> (S, Vec<u8>) {
        self.prefix.drain(..self.given);
        (self.inner, self.prefix)
    }

    /// The stream itself, for its socket options.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S: AsyncRead + Unpin> Prefixed<S> {
    /// Reads once from the stream behind the prefix, at most `N` bytes, and keeps them in the
    /// prefix. Gives the number read, 0 at the end. Nothing is held while it waits.
    pub(crate) fn poll_fill<const N: usize>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut scratch = [0; N];
        let mut buffer = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buffer))?;
        self.prefix.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let left = me.prefix();
        if left.is_empty() {
            return Pin::new(&mut me.inner).poll_read(cx, buf);
        }
        let count = left.len().min(buf.remaining());
        buf.put_slice(left.get(..count).unwrap_or_default());
        me.given += count;
        if me.given >= me.prefix.len() {
            me.prefix = Vec::new();
            me.given = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn the_prefix_comes_first_and_its_memory_goes() {
        let mut stream = Prefixed::new(&b"world"[..], *b"hello ");
        let mut two = [0; 2];
        stream.read_exact(&mut two).await.unwrap();
        assert_eq!(stream.prefix(), b"llo ");
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "llo world");
        assert_eq!(stream.prefix.capacity(), 0);
    }

    #[tokio::test]
    async fn parts_hold_only_what_was_not_given_back() {
        let mut stream = Prefixed::new(&b""[..], *b"abc");
        let mut one = [0; 1];
        stream.read_exact(&mut one).await.unwrap();
        assert_eq!(stream.into_parts().1, b"bc");
    }
}
