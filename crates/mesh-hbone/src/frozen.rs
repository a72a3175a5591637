//! A live tunnel as data: taken apart between two turns of its task, and taken up again elsewhere.
//!
//! What moves is all that the connection knows: the engine with its windows, tables and unsent bytes,
//! the records with their keys and counters, what was read and not opened or not delivered, and how far
//! each stream is. A session between a stream and a socket ([`crate::join`]) holds nothing itself.

use crate::core::{Core, Fault, Handle, Shared, Slot};
use crate::driver::{Driver, Revival};
use crate::wire::Sealed;
use crate::{HboneStream, KeepAlive, TunnelError};
use mesh_http2::{Connection as Engine, ErrorCode, Field, Role, Snapshot, StreamId};
use mesh_tls::{Records, RecordsSnapshot};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::future::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

/// A tunnel whose task has ended without a word to the peer.
pub struct Frozen {
    /// The stream under the tunnel, such as a `TcpStream`.
    pub io: Box<dyn Any>,
    /// All else.
    pub state: TunnelState,
}

/// The state of a tunnel, to be written down with serde. Whoever has it can read and forge the
/// connection (it holds the keys): it goes over a private socket, never to a file or a log.
#[derive(Serialize, Deserialize)]
pub struct TunnelState {
    engine: Snapshot,
    wire: WireState,
    established: bool,
    streams: Vec<StreamState>,
    /// Streams whose handle is gone and that still have to send.
    lingering: Vec<StreamId>,
    /// Requests that nobody had taken.
    requests: Vec<StreamId>,
}

/// The bytes under a tunnel.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct WireState {
    /// None of a wire that takes frames as they are.
    pub(crate) records: Option<RecordsSnapshot>,
    /// Read, and not a whole record.
    pub(crate) partial: Vec<u8>,
    /// Sealed, and not taken by the stream.
    pub(crate) unsent: Vec<u8>,
}

/// One stream.
#[derive(Serialize, Deserialize)]
struct StreamState {
    stream: StreamId,
    inbox: Vec<u8>,
    ended: bool,
    write_ended: bool,
    fault: Option<Fault>,
    answer: Option<Vec<Field>>,
    answered: bool,
    /// On a client: of the 200 that opened the stream.
    headers: Vec<Field>,
}

/// A tunnel that cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum ReviveError {
    /// Its state is of another version, or contradicts itself.
    #[error("HTTP/2: {0}")]
    Engine(#[from] mesh_http2::RestoreError),
    /// The records' state is of another version, or cannot be used.
    #[error("TLS: {0}")]
    Records(#[from] mesh_tls::TlsError),
    /// It was taken apart from a tunnel whose TLS is not ours.
    #[error("the state has no TLS records")]
    NoRecords,
}

/// A tunnel, as one of its streams knows it.
pub struct Tunnel(pub(crate) Shared);

impl Tunnel {
    /// Ends the tunnel's task and takes the tunnel apart. The handles of its streams are of no use
    /// any more; sessions on them should have been stopped before. None when the tunnel has ended.
    pub async fn freeze(self) -> Option<Frozen> {
        let (done, frozen) = oneshot::channel();
        {
            let mut core = self.0.borrow_mut();
            if core.ended.is_some() {
                return None;
            }
            core.freezer = Some(done);
            core.wake_task();
        }
        frozen.await.ok()
    }
}

impl TunnelState {
    pub(crate) fn of(core: &mut Core, wire: WireState) -> Self {
        let (slots, lingering, requests) = core.take_streams();
        let stream = |(stream, slot): (StreamId, Box<Slot>)| StreamState {
            stream,
            inbox: slot.inbox.pieces().collect::<Vec<_>>().concat(),
            ended: slot.ended,
            write_ended: slot.write_ended,
            fault: slot.fault,
            answer: slot.answer,
            answered: slot.answered,
            headers: slot.headers,
        };
        Self {
            engine: core.engine.snapshot(),
            wire,
            established: core.established,
            streams: slots.into_iter().map(stream).collect(),
            lingering,
            requests,
        }
    }
}

/// A tunnel taken up again.
pub struct Revived<S> {
    /// Its streams by their number, the answered ones as they were.
    pub streams: Vec<(u32, HboneStream)>,
    driver: Driver<Sealed<S>>,
}

/// Takes a tunnel up. It serves the streams it has and takes no new ones: the peer is told so. What the
/// peer proved itself with is no part of the state: whether it still holds is the caller's to follow.
///
/// # Errors
/// See [`ReviveError`]; the stream is dropped.
pub fn revive<S>(
    io: S,
    state: TunnelState,
    keep_alive: KeepAlive,
) -> Result<Revived<S>, ReviveError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut engine = Engine::restore(state.engine)?;
    let records = state.wire.records.ok_or(ReviveError::NoRecords)?;
    let records = Records::restore(records)?;
    let wire = Sealed::resume(io, records, &state.wire.partial, &state.wire.unsent);
    for stream in state.requests {
        // Nobody has looked at it: the peer may try again.
        engine.reset(stream, ErrorCode::REFUSED_STREAM).ok();
    }
    let mut slots = Vec::new();
    let mut opened = Vec::new();
    for stream in state.streams {
        let mut slot = Slot {
            ended: stream.ended,
            write_ended: stream.write_ended,
            fault: stream.fault,
            answer: stream.answer,
            answered: stream.answered,
            headers: stream.headers,
            ..Slot::default()
        };
        slot.inbox.push(stream.inbox.into(), false);
        slots.push((stream.stream, Box::new(slot)));
        opened.push(stream.stream);
    }
    let server = engine.role() == Role::Server;
    let revival = Revival {
        engine,
        slots,
        lingering: state.lingering,
        established: state.established,
    };
    let mut driver = Driver::revive(wire, revival, keep_alive);
    if server {
        driver.leave();
    }
    let handle = |stream| Handle::of(driver.shared(), stream);
    let streams = opened
        .into_iter()
        .map(|stream| (stream.value(), HboneStream::new(handle(stream))))
        .collect();
    Ok(Revived { streams, driver })
}

impl<S> Revived<S>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    /// The streams, and the task that drives the tunnel to its end.
    pub fn into_parts(
        self,
    ) -> (
        Vec<(u32, HboneStream)>,
        impl Future<Output = Result<(), TunnelError>>,
    ) {
        let Self {
            streams,
            mut driver,
        } = self;
        let task = async move {
            let refuse = &mut |request: crate::core::Request| {
                request.handle.reset(ErrorCode::REFUSED_STREAM);
            };
            let ended = poll_fn(|cx| driver.poll(cx, refuse)).await;
            driver.give_to_freezer();
            ended
        };
        (streams, task)
    }
}

#[cfg(test)]
mod tests;
