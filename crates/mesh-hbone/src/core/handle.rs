//! The owner of one stream: what it can do with it.

use super::{Fault, LINGER, Lingering, Shared, Slot};
use crate::TunnelError;
use crate::inbox::Inbox;
use mesh_http2::{CommandError, Connection as Engine, ErrorCode, Field, StreamId};
use std::io;
use std::task::{Context, Poll, Waker};
use tokio::time::Instant;

/// A request that nobody has taken yet.
pub(crate) struct Request {
    pub(crate) handle: Handle,
    pub(crate) fields: Vec<Field>,
}

/// The oldest request that came and was not given up since.
pub(crate) fn next_request(shared: &Shared) -> Option<Request> {
    loop {
        let (stream, fields) = shared.borrow_mut().requests.pop_front()?;
        let handle = Handle::of(shared, stream);
        if handle.with_slot(|slot| slot.fault).is_none() {
            return Some(Request { handle, fields });
        }
    }
}

/// The owner of one stream. Dropped, it ends what has not ended: what was written before is still
/// sent, then the stream is reset with CANCEL.
pub(crate) struct Handle {
    shared: Shared,
    stream: StreamId,
}

impl Handle {
    /// The handle of a stream that is there and has none.
    pub(crate) fn of(shared: &Shared, stream: StreamId) -> Self {
        Self {
            shared: shared.clone(),
            stream,
        }
    }

    /// The stream's number.
    pub(crate) fn number(&self) -> u32 {
        self.stream.value()
    }

    /// The connection.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Opens a stream on a client's connection.
    ///
    /// # Errors
    /// Nothing was sent.
    pub(crate) fn open(shared: &Shared, fields: &[Field]) -> Result<Self, TunnelError> {
        let mut core = shared.borrow_mut();
        if let Some(ended) = &core.ended {
            return Err(ended.error.clone());
        }
        let opened = core.engine.open_stream(fields, false);
        let stream = opened.map_err(|e| TunnelError::Failed(format!("not sent: {e}")))?;
        core.insert(stream);
        core.kick();
        drop(core);
        Ok(Self::of(shared, stream))
    }

    fn with_slot<R: Default>(&self, f: impl FnOnce(&mut Slot) -> R) -> R {
        let mut core = self.shared.borrow_mut();
        core.slot(self.stream).map(f).unwrap_or_default()
    }

    /// The fields of the answer.
    pub(crate) fn poll_answer(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Vec<Field>, TunnelError>> {
        let mut core = self.shared.borrow_mut();
        let ended = core.ended.as_ref().map(|ended| ended.error.clone());
        let Some(slot) = core.slot(self.stream) else {
            return Poll::Ready(Err(TunnelError::Closed));
        };
        if let Some(fields) = slot.answer.take() {
            return Poll::Ready(Ok(fields));
        }
        if let Some(fault) = slot.fault {
            return Poll::Ready(Err(TunnelError::Failed(fault.to_string())));
        }
        if let Some(error) = ended {
            return Poll::Ready(Err(error));
        }
        wait(&mut slot.reader, cx);
        Poll::Pending
    }

    /// Keeps the headers of the answer with the stream.
    pub(crate) fn keep_headers(&self, mut fields: Vec<Field>) {
        fields.retain(|field| !field.is_pseudo());
        fields.shrink_to_fit();
        self.with_slot(|slot| slot.headers = fields);
    }

    /// The headers of the answer.
    pub(crate) fn headers(&self) -> Vec<Field> {
        self.with_slot(|slot| slot.headers.clone())
    }

    /// Returns when the peer gave the stream up, or the connection is gone.
    pub(crate) fn poll_abandoned(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut core = self.shared.borrow_mut();
        let over = core.ended.is_some();
        match core.slot(self.stream) {
            Some(slot) if slot.fault.is_none() && !over => {
                wait(&mut slot.writer, cx);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Answers a request.
    pub(crate) fn answer(&self, fields: &[Field], end: bool) -> Result<(), TunnelError> {
        let mut core = self.shared.borrow_mut();
        if let Some(ended) = &core.ended {
            return Err(ended.error.clone());
        }
        if let Some(fault) = core.slot(self.stream).and_then(|slot| slot.fault) {
            return Err(TunnelError::Failed(fault.to_string()));
        }
        let sent = core.engine.send_headers(self.stream, fields, end);
        core.kick();
        sent.map_err(|e| TunnelError::Failed(e.to_string()))
    }

    /// Ends the stream at once, both ways.
    pub(crate) fn reset(&self, code: ErrorCode) {
        let mut core = self.shared.borrow_mut();
        // Unknown when it has ended by itself.
        if core.engine.reset(self.stream, code).is_ok()
            && let Some(slot) = core.slot(self.stream)
        {
            slot.fault = Some(Fault::Cut);
        }
        core.kick();
    }

    /// Lets `take` have what came and is not read; it says how many bytes it took, whose window is
    /// released. None at the end.
    pub(crate) fn poll_take<R>(
        &self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut Context<'_>, &mut Inbox) -> (R, usize),
    ) -> Poll<io::Result<Option<R>>> {
        let mut core = self.shared.borrow_mut();
        let core = &mut *core;
        let Ok(place) = core.place(self.stream) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let Some((_, slot)) = core.slots.get_mut(place) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        if !slot.inbox.is_empty() {
            let before = slot.inbox.shared();
            let (taken, bytes) = take(cx, &mut slot.inbox);
            core.shared -= before - slot.inbox.shared();
            core.release(self.stream, bytes);
            core.kick();
            return Poll::Ready(Ok(Some(taken)));
        }
        if slot.ended {
            return Poll::Ready(Ok(None));
        }
        match slot.fault {
            Some(fault) if fault.is_orderly() => return Poll::Ready(Ok(None)),
            Some(fault) => return Poll::Ready(Err(fault.as_io())),
            None => {}
        }
        if let Some(ended) = &core.ended {
            return Poll::Ready(Err(ended.as_io()));
        }
        wait(&mut slot.reader, cx);
        Poll::Pending
    }

    /// How much may be written now, at least one byte. Also ready when writing fails, so that it does.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        let mut core = self.shared.borrow_mut();
        let room = core.engine.send_capacity(self.stream);
        if room > 0 || core.ended.is_some() {
            return Poll::Ready(room.max(1));
        }
        // Nothing is taken, and the engine remembers that the stream waits.
        match core.engine.send_slice(self.stream, &[0]) {
            Ok(0) => {
                if let Some(slot) = core.slot(self.stream) {
                    wait(&mut slot.writer, cx);
                }
                Poll::Pending
            }
            _ => Poll::Ready(1),
        }
    }

    /// Queues payload: `send` gives it to the engine and says how much was taken.
    pub(crate) fn poll_put(
        &self,
        cx: &mut Context<'_>,
        send: impl FnOnce(&mut Engine, StreamId) -> Result<usize, CommandError>,
    ) -> Poll<io::Result<usize>> {
        let mut core = self.shared.borrow_mut();
        let core = &mut *core;
        if core.ended.is_some() {
            return Poll::Ready(Err(core.write_error(self.stream)));
        }
        match send(&mut core.engine, self.stream) {
            Ok(0) => {
                if let Some(slot) = core.slot(self.stream) {
                    wait(&mut slot.writer, cx);
                }
                Poll::Pending
            }
            Ok(taken) => {
                core.kick();
                Poll::Ready(Ok(taken))
            }
            Err(_) => Poll::Ready(Err(core.write_error(self.stream))),
        }
    }

    /// Queues payload for which there is room.
    pub(crate) fn put(
        &self,
        send: impl FnOnce(&mut Engine, StreamId) -> Result<usize, CommandError>,
    ) -> io::Result<()> {
        let mut core = self.shared.borrow_mut();
        let core = &mut *core;
        if core.ended.is_some() || send(&mut core.engine, self.stream).is_err() {
            return Err(core.write_error(self.stream));
        }
        core.kick();
        Ok(())
    }

    /// Whether our side has ended.
    pub(crate) fn has_ended_sending(&self) -> bool {
        self.with_slot(|slot| slot.write_ended)
    }

    /// Ends our side after what was written; nothing the second time.
    pub(crate) fn end_sending(&self) -> io::Result<()> {
        let mut core = self.shared.borrow_mut();
        let core = &mut *core;
        if let Some(slot) = core.slot(self.stream)
            && std::mem::replace(&mut slot.write_ended, true)
        {
            return Ok(());
        }
        if core.ended.is_some() || core.engine.end_stream(self.stream).is_err() {
            return Err(core.write_error(self.stream));
        }
        core.kick();
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Wakers and payload are dropped after the borrow: they may be the last of something.
        let slot = {
            let mut core = self.shared.borrow_mut();
            let core = &mut *core;
            let Ok(place) = core.place(self.stream) else {
                return;
            };
            let (stream, slot) = core.slots.remove(place);
            core.shared -= slot.inbox.shared();
            core.release(stream, slot.inbox.bytes());
            if core.ended.is_none() {
                if core.engine.has_unsent(stream) {
                    let until = Instant::now() + LINGER;
                    core.lingering.push(Lingering { stream, until });
                } else {
                    // Unknown when it has ended by itself.
                    core.engine.reset(stream, ErrorCode::CANCEL).ok();
                }
            }
            core.kick();
            slot
        };
        drop(slot);
    }
}

fn wait(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}
