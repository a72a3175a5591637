//! Two streams joined, counted, and recorded once; stopped in between, if need be, with nothing lost.

use mesh_hbone::{HboneStream, TunnelError, UpstreamStream};
use mesh_model::Reason;
use mesh_net::{Counters, Pump, PumpEnd, Side, Unsent};
use mesh_runtime::Drain;
use mesh_telemetry::{ByteCounts, ConnectionRecord};
use std::any::Any;
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Carries bytes between the client (`down`) and the server (`up`) until both directions have
/// ended, `cut` gives a reason (a policy change; pass `std::future::pending()` when there is none)
/// or the drain is forced. Both streams are closed then, and the record is ended with the reason,
/// which is also given back. The record's counters follow the bytes while the session lives.
///
/// Dropping the future ends the session too; the record's drop reason tells why.
pub fn run_session<D, U>(
    down: D,
    up: U,
    record: ConnectionRecord,
    cut: impl Future<Output = Reason>,
    drain: &Drain,
) -> impl Future<Output = Reason>
where
    D: AsyncRead + AsyncWrite + Unpin + 'static,
    U: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let run = Session::new(down, up, record).run_until(cut, drain, pending());
    async {
        match run.await {
            SessionEnd::Ended(reason) => reason,
            // By what never comes.
            SessionEnd::Stopped(_) => Reason::Drained,
        }
    }
}

/// A session while nobody runs it: all that it is, to be taken apart and gone on with elsewhere. What
/// the kernel holds goes with the sockets, what a tunnel holds with the tunnel
/// ([`mesh_hbone::Tunnel::freeze`], once every session on it is stopped).
pub struct Session<D, U> {
    /// Towards the client.
    pub down: D,
    /// Towards the server.
    pub up: U,
    /// Read from one side, not taken by the other.
    pub unsent: Unsent,
    /// Who the parties are, what was counted, and since when.
    pub record: ConnectionRecord,
}

/// How [`Session::run_until`] came back.
pub enum SessionEnd<D, U> {
    /// It is over, and recorded.
    Ended(Reason),
    /// It was stopped: no byte is lost, nothing closed, nothing recorded.
    Stopped(Box<Session<D, U>>),
}

impl<D, U> Session<D, U>
where
    D: AsyncRead + AsyncWrite + Unpin + 'static,
    U: AsyncRead + AsyncWrite + Unpin + 'static,
{
    /// One over which nothing has gone yet.
    pub fn new(down: D, up: U, record: ConnectionRecord) -> Self {
        let unsent = Unsent::default();
        Self {
            down,
            up,
            unsent,
            record,
        }
    }

    /// As [`run_session`], or until `stop` is done.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn holds room for its arguments twice, and idle sessions are many"
    )]
    pub fn run_until(
        mut self,
        cut: impl Future<Output = Reason>,
        drain: &Drain,
        stop: impl Future<Output = ()>,
    ) -> impl Future<Output = SessionEnd<D, U>> {
        async move {
            let streams = (&mut self.down, &mut self.up, &mut self.unsent);
            match carry(streams, &mut self.record, cut, drain, stop).await {
                Carried::Stopped => SessionEnd::Stopped(Box::new(self)),
                Carried::Ended(reason, detail) => {
                    drop((self.down, self.up));
                    self.record.end(reason, detail);
                    SessionEnd::Ended(reason)
                }
            }
        }
    }
}

enum Carried {
    Ended(Reason, Option<String>),
    Stopped,
}

async fn carry<D, U>(
    (down, up, unsent): (&mut D, &mut U, &mut Unsent),
    record: &mut ConnectionRecord,
    cut: impl Future<Output = Reason>,
    drain: &Drain,
    stop: impl Future<Output = ()>,
) -> Carried
where
    D: AsyncRead + AsyncWrite + Unpin + 'static,
    U: AsyncRead + AsyncWrite + Unpin + 'static,
{
    // Only the end of the process drops this future in the middle.
    record.set_drop_reason(Reason::Drained);
    let (counters, counts) = (Counters::new(), record.counters());
    // Each pinned once, here, and lent: every future that took it would hold room for it again.
    let moved = pin!(move_bytes(down, up, unsent, &counters, stop));
    let cut = pin!(cut);
    tokio::select! {
        biased;
        reason = cut => Carried::Ended(reason, None),
        () = drain.forced() => Carried::Ended(Reason::Drained, None),
        end = counted(moved, &counters, &counts) => match end {
            Some(end) => outcome(end),
            None => Carried::Stopped,
        },
    }
}

/// Puts what was moved on the record's counters after every poll: telemetry and sockets are neighbours
/// that do not know each other.
fn counted<T>(
    mut moved: Pin<&mut impl Future<Output = T>>,
    counters: &Counters,
    counts: &ByteCounts,
) -> impl Future<Output = T> {
    let mut told = (0, 0);
    poll_fn(move |cx| {
        let poll = moved.as_mut().poll(cx);
        let now = (counters.sent(), counters.received());
        // "Received" and "sent" are the server's view in telemetry, whoever reports.
        if now.0 > told.0 {
            counts.add_received(now.0 - told.0);
        }
        if now.1 > told.1 {
            counts.add_sent(now.1 - told.1);
        }
        told = now;
        poll
    })
}

/// The pump that suits both streams: a socket and a tunnel's stream are joined without a copy, and
/// what joins them holds nothing. None when it was stopped; `unsent` is what it begins with and, when it
/// was stopped, what is left.
async fn move_bytes<D, U>(
    down: &mut D,
    up: &mut U,
    unsent: &mut Unsent,
    counters: &Counters,
    stop: impl Future<Output = ()>,
) -> Option<PumpEnd>
where
    D: AsyncRead + AsyncWrite + Unpin + 'static,
    U: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut stop = pin!(stop);
    if *unsent == Unsent::default() {
        if let (Some(tcp), Some(tunnel)) = (as_tcp(down), as_tunnel(up)) {
            let joined = mesh_hbone::join(tcp, tunnel, Side::Downstream, counters);
            return or_stopped(pin!(joined), stop).await;
        }
        if let (Some(tunnel), Some(tcp)) = (as_tunnel(down), as_tcp(up)) {
            let joined = mesh_hbone::join(tcp, tunnel, Side::Upstream, counters);
            return or_stopped(pin!(joined), stop).await;
        }
    }
    let mut pump = Pump::resume(std::mem::take(unsent));
    let pumped = poll_fn(|cx| pump.poll(cx, down, up, counters));
    let end = or_stopped(pin!(pumped), stop.as_mut()).await;
    if end.is_none() {
        *unsent = pump.into_unsent();
    }
    end
}

fn or_stopped<T>(
    mut work: Pin<&mut impl Future<Output = T>>,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> impl Future<Output = Option<T>> {
    poll_fn(move |cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => stop.as_mut().poll(cx).map(|()| None),
    })
}

fn as_tcp(stream: &mut dyn Any) -> Option<&mut TcpStream> {
    if stream.is::<TcpStream>() {
        return stream.downcast_mut();
    }
    match stream.downcast_mut()? {
        UpstreamStream::Plain(tcp) => Some(tcp),
        UpstreamStream::Tunnel(_) => None,
    }
}

fn as_tunnel(stream: &mut dyn Any) -> Option<&mut HboneStream> {
    if stream.is::<HboneStream>() {
        return stream.downcast_mut();
    }
    match stream.downcast_mut()? {
        UpstreamStream::Tunnel(tunnel) => Some(tunnel),
        UpstreamStream::Plain(_) => None,
    }
}

fn outcome(end: PumpEnd) -> Carried {
    match end {
        PumpEnd::Complete => Carried::Ended(Reason::Ok, None),
        PumpEnd::Failed { side, error } => {
            let reason = TunnelError::distrust(&error).unwrap_or(match side {
                Side::Downstream => Reason::DownstreamReset,
                Side::Upstream => Reason::UpstreamReset,
            });
            Carried::Ended(reason, Some(error.to_string()))
        }
    }
}

#[cfg(test)]
mod tests;
