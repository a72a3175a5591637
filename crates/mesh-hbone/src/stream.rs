//! One tunnel stream as a byte stream, with HTTP/2 flow control kept on both directions.

use crate::core::Handle;
use crate::fields;
use crate::frozen::Tunnel;
use crate::inbox::Inbox;
use bytes::Bytes;
use http::HeaderMap;
use mesh_http2::ErrorCode;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream of a tunnel: bytes in both directions, each with its own end.
///
/// * Reading releases the window as bytes are handed over, so a slow reader slows its sender and
///   nobody else. The peer's END_STREAM is the end of file, and so is RST_STREAM with NO_ERROR or
///   CANCEL; other resets are errors (interop/hbone.md, "Data phase").
/// * Writing waits for room in the stream's send buffer, which empties as the peer's window allows.
/// * `shutdown` sends END_STREAM after what was written; reading goes on.
/// * Dropping it sends what was written and resets what has not ended then.
pub struct HboneStream {
    handle: Handle,
}

impl HboneStream {
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// The headers of the 200 that opened the stream, on a client; on a server, which knows them, none.
    pub fn response_headers(&self) -> HeaderMap {
        fields::headers(self.handle.headers())
    }

    /// How much may be written now; ready as well when writing fails.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        self.handle.poll_room(cx)
    }

    /// Writes bytes for which [`Self::poll_room`] said there is room.
    pub(crate) fn put(&mut self, mut bytes: Bytes) -> io::Result<()> {
        self.handle
            .put(|engine, stream| engine.send_data(stream, &mut bytes))
    }

    /// As [`Self::put`], with a copy.
    pub(crate) fn put_slice(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.handle
            .put(|engine, stream| engine.send_slice(stream, bytes))
    }

    /// Ends our side after what was written.
    pub(crate) fn end_sending(&mut self) -> io::Result<()> {
        self.handle.end_sending()
    }

    /// Lets `pass_on` write what came; what it wrote is taken off the stream. None at the end.
    pub(crate) fn poll_pass_on(
        &mut self,
        cx: &mut Context<'_>,
        pass_on: impl FnOnce(&mut Context<'_>, &Inbox) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<Option<Poll<io::Result<usize>>>>> {
        self.handle.poll_take(cx, |cx, inbox| {
            let written = pass_on(cx, inbox);
            let taken = match &written {
                Poll::Ready(Ok(count)) => *count,
                _ => 0,
            };
            inbox.advance(taken);
            (written, taken)
        })
    }

    /// The key exchange of the TLS under the tunnel, such as `X25519MLKEM768`, for tunnels that we
    /// opened.
    pub fn key_exchange(&self) -> Option<&'static str> {
        self.handle.shared().borrow().key_exchange
    }

    /// The tunnel it is a stream of.
    pub fn tunnel(&self) -> Tunnel {
        Tunnel(self.handle.shared().clone())
    }

    /// Its number in the tunnel.
    pub fn number(&self) -> u32 {
        self.handle.number()
    }

    /// Cuts the stream so that the peer sees an error, not an orderly end.
    pub fn reset(self) {
        self.handle.reset(ErrorCode::INTERNAL_ERROR);
    }
}

impl AsyncRead for HboneStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let taken = self.handle.poll_take(cx, |_, inbox| {
            let before = buffer.remaining();
            while !inbox.is_empty() && buffer.remaining() > 0 {
                let front = inbox.front();
                let (now, _) = front.split_at(front.len().min(buffer.remaining()));
                let count = now.len();
                buffer.put_slice(now);
                inbox.advance(count);
            }
            ((), before - buffer.remaining())
        });
        ready!(taken)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HboneStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.handle.has_ended_sending() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.handle
            .poll_put(cx, |engine, stream| engine.send_slice(stream, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's own task sends what is queued; there is nothing to push from here.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Self::end_sending(&mut self))
    }
}

#[cfg(test)]
mod tests;
