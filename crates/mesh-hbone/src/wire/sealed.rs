//! A byte stream with TLS records of our own on it: they are opened and sealed where the bytes lie
//! that were read and will be written.

use super::{Unsent, Wire};
use crate::buffers::Scratch;
use crate::frozen::WireState;
use bytes::BytesMut;
use mesh_http2::Outgoing;
use mesh_tls::{Records, Session, TlsError};
use std::any::Any;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// A stream under TLS whose handshake is done.
pub(crate) struct Sealed<S> {
    io: S,
    records: Records,
    /// The beginning of a record, as it was read.
    partial: BytesMut,
    /// `partial` came with the handshake and may hold whole records.
    early: bool,
    unsent: Unsent,
    /// Why the session cannot go on; told to the peer at the end.
    fault: Option<TlsError>,
    /// The last record is written or waits.
    said_close: bool,
}

impl<S> Sealed<S> {
    pub(crate) fn new(session: Session<S>) -> Self {
        Self {
            io: session.stream,
            records: session.records,
            early: !session.early.is_empty(),
            partial: session.early,
            unsent: Unsent::default(),
            fault: None,
            said_close: false,
        }
    }

    /// One that was taken apart.
    pub(crate) fn resume(io: S, records: Records, partial: &[u8], unsent: &[u8]) -> Self {
        Self {
            io,
            records,
            early: !partial.is_empty(),
            partial: BytesMut::from(partial),
            unsent: Unsent {
                bytes: BytesMut::from(unsent),
                // The stream may hold more than it was flushed of.
                unflushed: true,
            },
            fault: None,
            said_close: false,
        }
    }

    fn fail(&mut self, error: TlsError) -> io::Error {
        self.fault = Some(error.clone());
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    /// Opens the records that are whole.
    fn open(&mut self, scratch: &mut Scratch) -> io::Result<bool> {
        let Scratch { raw, plain, .. } = scratch;
        let opened = self.records.open(raw, plain).map_err(|e| self.fail(e))?;
        // Copied: the rest of a read must not keep all of its memory.
        self.partial = match raw.is_empty() {
            true => BytesMut::new(),
            false => BytesMut::from(&raw[..]),
        };
        Ok(opened.closed && opened.plain == 0)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Wire for Sealed<S> {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Poll<io::Result<usize>> {
        // A fault that came behind good records is told now.
        let checked = self.records.open_in_place(&mut []);
        checked.map_err(|e| self.fail(e))?;
        if self.records.received_close() {
            return Poll::Ready(Ok(0));
        }
        scratch.reserve(self.partial.len());
        scratch.raw.extend_from_slice(&self.partial);
        let read = if std::mem::take(&mut self.early) {
            self.partial.len()
        } else {
            ready!(pin!(self.io.read_buf(&mut scratch.raw)).poll(cx))?
        };
        if read == 0 || self.open(scratch)? {
            return Poll::Ready(Ok(0));
        }
        Poll::Ready(Ok(read))
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        parts: &mut Vec<Outgoing>,
        scratch: &mut Scratch,
    ) -> Poll<io::Result<()>> {
        ready!(self.unsent.poll_rest(cx, &mut self.io))?;
        if parts.is_empty() {
            return Poll::Ready(Ok(()));
        }
        scratch.out.clear();
        let sealed = seal(&mut self.records, parts, &mut scratch.out);
        sealed.map_err(|e| self.fail(e))?;
        self.unsent.poll_first(cx, &mut self.io, &scratch.out)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<io::Result<()>> {
        ready!(self.unsent.poll_rest(cx, &mut self.io))?;
        if !self.said_close {
            self.said_close = true;
            scratch.out.clear();
            match &self.fault {
                Some(fault) => self.records.abort(fault, &mut scratch.out),
                None => {
                    let closed = self.records.close_notify(&mut scratch.out);
                    closed.map_err(io::Error::other)?;
                }
            }
            ready!(self.unsent.poll_first(cx, &mut self.io, &scratch.out))?;
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn take_apart(self) -> io::Result<(Box<dyn Any>, WireState)> {
        let records = self.records.into_snapshot().map_err(io::Error::other)?;
        let state = WireState {
            records: Some(records),
            partial: self.partial.to_vec(),
            unsent: self.unsent.bytes.to_vec(),
        };
        Ok((Box::new(self.io), state))
    }
}

/// Frames into as few records as they take, one behind the other.
fn seal(
    records: &mut Records,
    parts: &mut Vec<Outgoing>,
    out: &mut BytesMut,
) -> Result<(), TlsError> {
    let mut writer = records.writer(out);
    for part in parts.drain(..) {
        match part {
            Outgoing::Control(frames) => writer.put(&frames)?,
            Outgoing::Data { header, payload } => {
                writer.put(&header)?;
                writer.put(&payload)?;
            }
        }
    }
    writer.finish()
}
