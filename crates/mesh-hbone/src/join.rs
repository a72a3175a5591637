//! A TCP connection and a tunnel stream joined, without a copy between them.
//!
//! What comes out of the tunnel is written to the socket from where it was decrypted, and taken off
//! the stream only as far as the socket took it: nothing is held here. What the socket brings is read
//! into memory that becomes the payload of DATA.

use crate::HboneStream;
use bytes::{BufMut, BytesMut};
use mesh_net::{Counters, PumpEnd, Side};
use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

/// Most bytes of one read of the socket.
const READ_BYTES: usize = 256 * 1024;
/// A read from this size on is handed over with its memory; a smaller one is copied, so that no
/// payload keeps alive more than four times its size.
const SHARED_BYTES_MIN: usize = READ_BYTES / 4;
/// Pieces of one write to the socket.
const PIECES_MAX: usize = 16;
/// Reads or writes of one direction before the others of the thread have their turn.
const ROUNDS_MAX: u32 = 8;

thread_local! {
    /// One read buffer for all the sessions of a thread; an idle one holds none.
    static INPUT: Cell<BytesMut> = Cell::default();
}

/// Moves bytes both ways until both directions have ended, as [`mesh_net::pump`] does. `tcp_is` says
/// which side the socket is.
pub async fn join(
    tcp: &mut TcpStream,
    tunnel: &mut HboneStream,
    tcp_is: Side,
    counters: &Counters,
) -> PumpEnd {
    let (mut collecting, mut delivering) = (Way::Open, Way::Open);
    // Why the tunnel takes nothing more: its other side may have said all it had, and gone.
    let mut refused = None;
    let outcome = poll_fn(|cx| {
        let delivered = deliver(cx, &mut delivering, tcp, tunnel, |n| match tcp_is {
            Side::Downstream => counters.add_received(n),
            Side::Upstream => counters.add_sent(n),
        });
        if let Poll::Ready(Err(fault)) = delivered {
            return Poll::Ready(Err(fault));
        }
        if refused.is_none() {
            let collected = collect(cx, &mut collecting, tcp, tunnel, |n| match tcp_is {
                Side::Downstream => counters.add_sent(n),
                Side::Upstream => counters.add_received(n),
            });
            match ready!(collected) {
                Err(fault @ Fault::Tunnel(_)) => refused = Some(fault),
                collected => collected?,
            }
        }
        if refused.is_some() {
            discard(cx, &mut collecting, tcp);
        }
        // What came before the fault is passed on, however slowly the socket takes it.
        ready!(delivered).ok();
        Poll::Ready(refused.take().map_or(Ok(()), Err))
    });
    match outcome.await {
        Ok(()) => PumpEnd::Complete,
        Err(fault) => fault.seen_from(tcp_is),
    }
}

/// How far one direction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// All bytes were passed on; the end itself was not.
    Ending,
    Done,
}

/// Whose stream failed.
enum Fault {
    Tcp(io::Error),
    Tunnel(io::Error),
}

impl Fault {
    fn seen_from(self, tcp_is: Side) -> PumpEnd {
        let (side, error) = match (self, tcp_is) {
            (Self::Tcp(error), side) => (side, error),
            (Self::Tunnel(error), Side::Downstream) => (Side::Upstream, error),
            (Self::Tunnel(error), Side::Upstream) => (Side::Downstream, error),
        };
        PumpEnd::Failed { side, error }
    }
}

/// From the socket into the tunnel.
fn collect(
    cx: &mut Context<'_>,
    way: &mut Way,
    tcp: &mut TcpStream,
    tunnel: &mut HboneStream,
    count: impl Fn(u64),
) -> Poll<Result<(), Fault>> {
    if *way == Way::Done {
        return Poll::Ready(Ok(()));
    }
    for _ in 0..ROUNDS_MAX {
        // Room first: what is read has a place to go.
        let room = ready!(tunnel.poll_room(cx));
        match ready!(read_some(cx, tcp, tunnel, room))? {
            0 => {
                *way = Way::Done;
                let ended = tunnel.end_sending().or_else(gone_already);
                return Poll::Ready(ended.map_err(Fault::Tunnel));
            }
            read => count(read as u64),
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

fn read_some(
    cx: &mut Context<'_>,
    tcp: &mut TcpStream,
    tunnel: &mut HboneStream,
    room: usize,
) -> Poll<Result<usize, Fault>> {
    with_input(|input| {
        if input.capacity() < READ_BYTES {
            input.reserve(READ_BYTES);
        }
        let mut limited = (&mut *input).limit(room.min(READ_BYTES));
        let read = ready!(pin!(tcp.read_buf(&mut limited)).poll(cx)).map_err(Fault::Tcp)?;
        if read > 0 {
            let put = if read >= SHARED_BYTES_MIN {
                tunnel.put(input.split().freeze())
            } else {
                tunnel.put_slice(input)
            };
            input.clear();
            put.map_err(Fault::Tunnel)?;
        }
        Poll::Ready(Ok(read))
    })
}

/// Takes what the socket brings and nobody wants: an application that waits to be read would not read
/// either, and a socket closed with bytes unread resets the connection and loses what it had to send.
fn discard(cx: &mut Context<'_>, way: &mut Way, tcp: &mut TcpStream) {
    let mut rounds = 0;
    while *way == Way::Open {
        if rounds == ROUNDS_MAX {
            cx.waker().wake_by_ref();
            return;
        }
        rounds += 1;
        let read = with_input(|input| {
            input.reserve(READ_BYTES);
            let read = pin!(tcp.read_buf(input)).poll(cx);
            input.clear();
            read
        });
        match read {
            Poll::Pending => return,
            Poll::Ready(Ok(0) | Err(_)) => *way = Way::Done,
            Poll::Ready(Ok(_)) => {}
        }
    }
}

/// From the tunnel to the socket.
fn deliver(
    cx: &mut Context<'_>,
    way: &mut Way,
    tcp: &mut TcpStream,
    tunnel: &mut HboneStream,
    count: impl Fn(u64),
) -> Poll<Result<(), Fault>> {
    let mut rounds = 0;
    while *way == Way::Open {
        if rounds == ROUNDS_MAX {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        rounds += 1;
        let written = tunnel.poll_pass_on(cx, |cx, inbox| write_some(cx, tcp, inbox.pieces()));
        match ready!(written).map_err(Fault::Tunnel)? {
            None => *way = Way::Ending,
            Some(Poll::Pending) => return Poll::Pending,
            Some(Poll::Ready(Ok(0))) => {
                return Poll::Ready(Err(Fault::Tcp(io::ErrorKind::WriteZero.into())));
            }
            Some(Poll::Ready(Ok(bytes))) => count(bytes as u64),
            Some(Poll::Ready(Err(error))) => return Poll::Ready(Err(Fault::Tcp(error))),
        }
    }
    if *way == Way::Ending {
        let ended = ready!(Pin::new(tcp).poll_shutdown(cx));
        ended.or_else(gone_already).map_err(Fault::Tcp)?;
        *way = Way::Done;
    }
    Poll::Ready(Ok(()))
}

fn write_some<'a>(
    cx: &mut Context<'_>,
    tcp: &mut TcpStream,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Poll<io::Result<usize>> {
    let mut slices = [IoSlice::new(&[]); PIECES_MAX];
    let mut count = 0;
    for (slice, piece) in slices.iter_mut().zip(pieces) {
        *slice = IoSlice::new(piece);
        count += 1;
    }
    match slices.get(..count).unwrap_or_default() {
        [one] => Pin::new(tcp).poll_write(cx, one),
        many => Pin::new(tcp).poll_write_vectored(cx, many),
    }
}

/// All bytes were taken; a receiver that has gone away since does not miss the end. Should it have
/// gone too early, the other direction says so.
fn gone_already(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotConnected
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset => Ok(()),
        _ => Err(error),
    }
}

/// Lends the thread's read buffer.
fn with_input<R>(f: impl FnOnce(&mut BytesMut) -> R) -> R {
    let mut input = INPUT.try_with(Cell::take).unwrap_or_default();
    let result = f(&mut input);
    // At the end of the thread there is no place to put it back; it is freed instead.
    INPUT.try_with(|place| place.set(input)).ok();
    result
}

#[cfg(test)]
mod tests;
