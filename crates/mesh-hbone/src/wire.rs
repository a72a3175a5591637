//! The bytes under a connection.

mod sealed;

pub(crate) use sealed::Sealed;

use crate::buffers::Scratch;
use crate::frozen::WireState;
use bytes::{Buf, BytesMut};
use mesh_http2::Outgoing;
use std::any::Any;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// What carries a connection's frames. It holds memory only for what it could not pass on.
pub(crate) trait Wire: Sized + 'static {
    /// Reads once and puts the frames' bytes into `scratch.plain`, which is empty; says how many bytes
    /// came, of which perhaps none were of frames; 0 is the end.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Poll<io::Result<usize>>;

    /// Takes all of `parts` over; ready when nothing waits any more. To be called again, with nothing
    /// more, until it is.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        parts: &mut Vec<Outgoing>,
        scratch: &mut Scratch,
    ) -> Poll<io::Result<()>>;

    /// Says that nothing more follows.
    fn poll_close(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<io::Result<()>>;

    /// The stream, and what it has not taken or not brought in whole.
    fn take_apart(self) -> io::Result<(Box<dyn Any>, WireState)>;
}

/// Bytes that a stream has not taken yet.
#[derive(Default)]
struct Unsent {
    bytes: BytesMut,
    unflushed: bool,
}

impl Unsent {
    /// Writes `bytes` and keeps what is not taken. Nothing may wait already.
    fn poll_first<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
        mut bytes: &[u8],
    ) -> Poll<io::Result<()>> {
        while !bytes.is_empty() {
            match self.poll_some(cx, io, bytes)? {
                Poll::Ready(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Poll::Pending => {
                    self.bytes.extend_from_slice(bytes);
                    return Poll::Pending;
                }
            }
        }
        self.poll_flush(cx, io)
    }

    /// Writes what waits.
    fn poll_rest<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
    ) -> Poll<io::Result<()>> {
        while !self.bytes.is_empty() {
            let bytes = std::mem::take(&mut self.bytes);
            let written = self.poll_some(cx, io, &bytes);
            self.bytes = bytes;
            self.bytes.advance(ready!(written)?);
        }
        if self.bytes.capacity() > 0 {
            self.bytes = BytesMut::new();
        }
        self.poll_flush(cx, io)
    }

    fn poll_some<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(io).poll_write(cx, bytes))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        Poll::Ready(Ok(count))
    }

    fn poll_flush<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
    ) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// A byte stream that takes frames as they are: it is TLS itself, or stands for it in a test.
pub(crate) struct Plain<S> {
    io: S,
    unsent: Unsent,
}

impl<S> Plain<S> {
    pub(crate) fn new(io: S) -> Self {
        Self {
            io,
            unsent: Unsent::default(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Wire for Plain<S> {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Poll<io::Result<usize>> {
        scratch.reserve(0);
        let read = ready!(pin!(self.io.read_buf(&mut scratch.raw)).poll(cx))?;
        scratch.plain = scratch.raw.split();
        Poll::Ready(Ok(read))
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        parts: &mut Vec<Outgoing>,
        scratch: &mut Scratch,
    ) -> Poll<io::Result<()>> {
        ready!(self.unsent.poll_rest(cx, &mut self.io))?;
        scratch.out.clear();
        for part in parts.drain(..) {
            part.write_to(&mut scratch.out);
        }
        self.unsent.poll_first(cx, &mut self.io, &scratch.out)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, _: &mut Scratch) -> Poll<io::Result<()>> {
        ready!(self.unsent.poll_rest(cx, &mut self.io))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn take_apart(self) -> io::Result<(Box<dyn Any>, WireState)> {
        let state = WireState {
            unsent: self.unsent.bytes.to_vec(),
            ..WireState::default()
        };
        Ok((Box::new(self.io), state))
    }
}
