//! One tunnel stream as a byte stream, with HTTP/2 flow control kept on both directions.

use bytes::Bytes;
use h2::{Reason as Code, RecvStream, SendStream};
use http::HeaderMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::client::Slot;

/// A stream of a tunnel: bytes in both directions, each with its own end.
///
/// * Reading releases the window as bytes are handed over, so a slow reader slows its sender and
///   nobody else. The peer's END_STREAM is the end of file, and so is RST_STREAM with NO_ERROR or
///   CANCEL; other resets are errors (interop/hbone.md, "Data phase").
/// * Writing waits for the peer's window. Unsent bytes are bounded by the send buffer limit.
/// * `shutdown` sends an empty DATA frame with END_STREAM; reading goes on.
/// * Dropping it resets what has not ended.
pub struct HboneStream {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Received and not yet handed to the reader; its window is not yet released.
    unread: Bytes,
    read_ended: bool,
    write_ended: bool,
    headers: HeaderMap,
    /// Keeps the stream counted on its connection; none on the server side.
    _slot: Option<Slot>,
}

impl HboneStream {
    pub(crate) fn new(
        send: SendStream<Bytes>,
        receive: RecvStream,
        headers: HeaderMap,
        slot: Option<Slot>,
    ) -> Self {
        Self {
            send,
            receive,
            unread: Bytes::new(),
            read_ended: false,
            write_ended: false,
            headers,
            _slot: slot,
        }
    }

    /// The headers of the 200 that opened the stream: the far side's on a client, ours on a server.
    pub fn response_headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Cuts the stream so that the peer sees an error, not an orderly end.
    pub fn reset(mut self) {
        self.send.send_reset(Code::INTERNAL_ERROR);
    }

    fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() && !self.read_ended {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(bytes)) => self.unread = bytes,
                None => self.read_ended = true,
                Some(Err(error)) => match error.reason() {
                    Some(Code::NO_ERROR | Code::CANCEL) if error.is_reset() => {
                        self.read_ended = true;
                    }
                    _ => return Poll::Ready(Err(io_error(error))),
                },
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Waits until at least one byte may be written; gives how many.
    fn poll_capacity(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        loop {
            let capacity = self.send.capacity();
            if capacity > 0 {
                return Poll::Ready(Ok(capacity.min(wanted)));
            }
            self.send.reserve_capacity(wanted);
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => return Poll::Ready(Err(self.write_error(cx))),
            }
        }
    }

    /// Why nothing can be written any more.
    fn write_error(&mut self, cx: &mut Context<'_>) -> io::Error {
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(code)) => {
                io::Error::new(io::ErrorKind::BrokenPipe, format!("stream reset: {code}"))
            }
            Poll::Ready(Err(error)) => io_error(error),
            Poll::Pending => io::ErrorKind::BrokenPipe.into(),
        }
    }
}

impl AsyncRead for HboneStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_unread(cx))?;
        let count = this.unread.len().min(buffer.remaining());
        if count > 0 {
            buffer.put_slice(&this.unread.split_to(count));
            // Fails only when the stream was reset meanwhile, and its window is gone with it.
            drop(this.receive.flow_control().release_capacity(count));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HboneStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.write_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let count = ready!(this.poll_capacity(cx, bytes.len()))?;
        let (now, _) = bytes.split_at(count);
        match this.send.send_data(Bytes::copy_from_slice(now), false) {
            Ok(()) => Poll::Ready(Ok(count)),
            Err(_) => Poll::Ready(Err(this.write_error(cx))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's own task sends what is queued; there is nothing to push from here.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.write_ended {
            return Poll::Ready(Ok(()));
        }
        this.write_ended = true;
        match this.send.send_data(Bytes::new(), true) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(_) => Poll::Ready(Err(this.write_error(cx))),
        }
    }
}

fn io_error(error: h2::Error) -> io::Error {
    if error.reason() == Some(Code::STREAM_CLOSED) {
        return io::Error::new(io::ErrorKind::BrokenPipe, error);
    }
    let text = error.to_string();
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::Error::other(text));
    }
    let kind = if error.is_reset() || error.is_go_away() {
        io::ErrorKind::ConnectionReset
    } else {
        io::ErrorKind::Other
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests;
