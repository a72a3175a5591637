//! What a connection's task and its streams share: the HTTP/2 engine, and for each stream what came
//! for it. All of it lives on one thread: no lock, no channel.

mod handle;

pub(crate) use handle::{Handle, Request, next_request};

use crate::TunnelError;
use crate::fields;
use crate::frozen::Frozen;
use crate::inbox::Inbox;
use bytes::Bytes;
use mesh_http2::{Connection as Engine, ErrorCode, Event, Field, ResetCause, Role, StreamId};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long a stream whose handle was dropped may take to send what was written to it before.
const LINGER: Duration = Duration::from_secs(10);
/// Pieces of a connection that may share the memory of the read they came in. One can keep alive a
/// whole read's memory, which the windows do not count: past this number pieces are copied.
const SHARED_MAX: usize = 64;
/// The PING that closes the gap between the two GOAWAY of a graceful end.
pub(crate) const PING_LEAVING: [u8; 8] = *b"leaving.";

/// The state of a connection, for its task and its streams.
pub(crate) type Shared = Rc<RefCell<Core>>;

/// Why a stream ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    /// RST_STREAM of the peer.
    Reset(ErrorCode),
    /// The peer broke the protocol on it, or went away without looking at it.
    Broken(ResetCause),
    /// We cut it.
    Cut,
}

/// One stream, as its handle sees it.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) inbox: Inbox,
    /// The peer has sent END_STREAM.
    pub(crate) ended: bool,
    pub(crate) fault: Option<Fault>,
    /// On a client: the fields of the answer, until they are taken.
    pub(crate) answer: Option<Vec<Field>>,
    pub(crate) answered: bool,
    /// On a client: of the 200 that opened the stream. Fields, as a header map is several times
    /// their size.
    pub(crate) headers: Vec<Field>,
    /// We have sent END_STREAM, or it follows what was written.
    pub(crate) write_ended: bool,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
}

/// In the order of their numbers, which only grow.
pub(crate) type Slots = Vec<(StreamId, Box<Slot>)>;

struct Lingering {
    stream: StreamId,
    until: Instant,
}

/// The end of the connection, as its streams see it.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) error: TunnelError,
    kind: io::ErrorKind,
}

pub(crate) struct Core {
    pub(crate) engine: Engine,
    slots: Slots,
    /// Pieces in all inboxes that may keep alive the memory of the read they came in.
    shared: usize,
    /// Wakes the connection's task.
    pub(crate) task: Option<Waker>,
    /// The task was woken and has not run since.
    pub(crate) kicked: bool,
    pub(crate) ended: Option<Ended>,
    lingering: Vec<Lingering>,
    /// On a server: requests that came, oldest first.
    requests: VecDeque<(StreamId, Vec<Field>)>,
    /// The peer's first SETTINGS came.
    pub(crate) established: bool,
    /// Answers to PINGs since the task looked.
    pub(crate) pong: bool,
    pub(crate) pong_leaving: bool,
    /// Who wants the connection taken apart.
    pub(crate) freezer: Option<oneshot::Sender<Frozen>>,
    /// The key exchange of the TLS under it, where that is known.
    pub(crate) key_exchange: Option<&'static str>,
}

impl Core {
    pub(crate) fn new(engine: Engine) -> Shared {
        Rc::new(RefCell::new(Self {
            engine,
            slots: Vec::new(),
            shared: 0,
            task: None,
            kicked: false,
            ended: None,
            lingering: Vec::new(),
            requests: VecDeque::new(),
            established: false,
            pong: false,
            pong_leaving: false,
            freezer: None,
            key_exchange: None,
        }))
    }

    fn place(&self, stream: StreamId) -> Result<usize, usize> {
        self.slots.binary_search_by_key(&stream, |(id, _)| *id)
    }

    fn slot(&mut self, stream: StreamId) -> Option<&mut Slot> {
        let place = self.place(stream).ok()?;
        self.slots.get_mut(place).map(|(_, slot)| &mut **slot)
    }

    fn insert(&mut self, stream: StreamId) {
        if let Err(place) = self.place(stream) {
            self.slots.insert(place, (stream, Box::default()));
        }
    }

    /// Lets the connection's task send what waits.
    fn kick(&mut self) {
        if !self.kicked && self.engine.wants_transmit() {
            self.wake_task();
        }
    }

    pub(crate) fn wake_task(&mut self) {
        self.kicked = true;
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    /// Takes the streams out: their handles do nothing any more.
    pub(crate) fn take_streams(&mut self) -> (Slots, Vec<StreamId>, Vec<StreamId>) {
        let mut slots = std::mem::take(&mut self.slots);
        let lingering = self.lingering.drain(..).map(|l| l.stream).collect();
        let requests: Vec<StreamId> = self.requests.drain(..).map(|(stream, _)| stream).collect();
        slots.retain(|(stream, _)| !requests.contains(stream));
        (slots, lingering, requests)
    }

    /// Puts the streams of a connection in that is taken up again.
    pub(crate) fn put_streams(&mut self, slots: Slots, lingering: Vec<StreamId>) {
        self.slots = slots;
        let until = Instant::now() + LINGER;
        self.lingering = lingering
            .into_iter()
            .map(|stream| Lingering { stream, until })
            .collect();
    }

    /// Hands the engine's events to the streams they are for. Those to wake are put in `woken`.
    pub(crate) fn dispatch(&mut self, woken: &mut Vec<Waker>) {
        while let Some(event) = self.engine.poll_event() {
            match event {
                Event::Headers {
                    stream,
                    fields,
                    end,
                } => self.on_headers(stream, fields, end, woken),
                Event::Data { stream, data, end } => self.on_data(stream, data, end, woken),
                Event::Reset { stream, cause } => {
                    let fault = match cause {
                        ResetCause::Peer(code) => Fault::Reset(code),
                        other => Fault::Broken(other),
                    };
                    self.lingering.retain(|l| l.stream != stream);
                    if let Some(slot) = self.slot(stream) {
                        slot.fault = Some(fault);
                        woken.extend(slot.reader.take());
                        woken.extend(slot.writer.take());
                    }
                }
                Event::WindowOpened { stream } => {
                    if let Some(slot) = self.slot(stream) {
                        woken.extend(slot.writer.take());
                    }
                }
                Event::Settings(_) => self.established = true,
                Event::PingAcked { opaque } => match opaque {
                    PING_LEAVING => self.pong_leaving = true,
                    _ => self.pong = true,
                },
                Event::GoAway { last, code, debug } => {
                    let text = debug.escape_ascii();
                    tracing::debug!(%last, %code, %text, "the peer goes away");
                }
                Event::Closed { .. } | Event::StreamsAvailable | Event::SettingsAcked => {}
            }
        }
    }

    fn on_headers(
        &mut self,
        stream: StreamId,
        fields: Vec<Field>,
        end: bool,
        woken: &mut Vec<Waker>,
    ) {
        let server = self.engine.role() == Role::Server;
        if server && self.place(stream).is_err() && !self.is_lingering(stream) {
            self.insert(stream);
            self.requests.push_back((stream, fields));
        } else if !server && let Some(slot) = self.slot(stream) {
            // Interim answers (1xx) say nothing of a CONNECT, nor do trailers.
            if !slot.answered && fields::status(&fields).is_some_and(|status| status >= 200) {
                slot.answered = true;
                slot.answer = Some(fields);
                woken.extend(slot.reader.take());
            }
        }
        if end && let Some(slot) = self.slot(stream) {
            slot.ended = true;
            woken.extend(slot.reader.take());
        }
    }

    fn on_data(&mut self, stream: StreamId, data: Bytes, end: bool, woken: &mut Vec<Waker>) {
        let bytes = data.len();
        let share = self.shared < SHARED_MAX;
        let Some(slot) = self.slot(stream) else {
            return self.release(stream, bytes);
        };
        let before = slot.inbox.shared();
        slot.inbox.push(data, share);
        slot.ended |= end;
        woken.extend(slot.reader.take());
        let more = slot.inbox.shared() - before;
        self.shared += more;
    }

    /// Payload was passed on, or is wanted by nobody: the peer may send as much again.
    fn release(&mut self, stream: StreamId, bytes: usize) {
        if bytes > 0
            && let Err(error) = self.engine.release_window(stream, bytes)
        {
            // Each byte is released once, when it leaves its inbox.
            debug_assert!(false, "window of {stream}: {error}");
            tracing::error!(%stream, bytes, %error, "window released twice");
        }
    }

    fn is_lingering(&self, stream: StreamId) -> bool {
        self.lingering.iter().any(|l| l.stream == stream)
    }

    /// Resets streams whose handle is gone once they have sent what was left, or took too long.
    pub(crate) fn end_lingering(&mut self, now: Instant) {
        let engine = &mut self.engine;
        self.lingering.retain(|l| {
            if l.until > now && engine.has_unsent(l.stream) {
                return true;
            }
            // Unknown when it has ended both ways by itself.
            engine.reset(l.stream, ErrorCode::CANCEL).ok();
            false
        });
    }

    /// When the next lingering stream is out of time.
    pub(crate) fn lingers_until(&self) -> Option<Instant> {
        self.lingering.iter().map(|l| l.until).min()
    }

    /// Whether nobody uses the connection.
    pub(crate) fn is_idle(&self) -> bool {
        self.engine.open_streams() == 0
    }

    /// The connection is over: every stream sees it.
    pub(crate) fn end(&mut self, error: TunnelError, kind: io::ErrorKind, woken: &mut Vec<Waker>) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(Ended { error, kind });
        self.lingering.clear();
        self.requests.clear();
        for (_, slot) in &mut self.slots {
            woken.extend(slot.reader.take());
            woken.extend(slot.writer.take());
        }
    }
}

impl Core {
    /// Why nothing can be written to a stream any more.
    fn write_error(&mut self, stream: StreamId) -> io::Error {
        if let Some(fault) = self.slot(stream).and_then(|slot| slot.fault) {
            return io::Error::new(io::ErrorKind::BrokenPipe, fault.to_string());
        }
        match &self.ended {
            Some(ended) => ended.as_io(),
            None => io::ErrorKind::BrokenPipe.into(),
        }
    }
}

impl Ended {
    fn as_io(&self) -> io::Error {
        io::Error::new(self.kind, self.error.clone())
    }
}

impl Fault {
    /// What reads as an end of file (interop/hbone.md, "Data phase").
    fn is_orderly(self) -> bool {
        matches!(self, Self::Reset(ErrorCode::NO_ERROR | ErrorCode::CANCEL))
    }

    fn as_io(self) -> io::Error {
        let kind = match self {
            Self::Reset(ErrorCode::STREAM_CLOSED) => io::ErrorKind::BrokenPipe,
            _ => io::ErrorKind::ConnectionReset,
        };
        io::Error::new(kind, self.to_string())
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reset(code) => write!(f, "stream reset: {code}"),
            Self::Broken(ResetCause::Violation(error)) => error.fmt(f),
            Self::Broken(_) => f.write_str("the peer went away before it looked at the stream"),
            Self::Cut => f.write_str("the stream was cut"),
        }
    }
}
