//! Two streams joined, counted, and recorded once.

use mesh_hbone::{HboneStream, TunnelError, UpstreamStream};
use mesh_model::Reason;
use mesh_net::{Counters, PumpEnd, Side};
use mesh_runtime::Drain;
use mesh_telemetry::{ByteCounts, ConnectionRecord};
use std::any::Any;
use std::future::poll_fn;
use std::pin::pin;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Carries bytes between the client (`down`) and the server (`up`) until both directions have
/// ended, `cut` gives a reason (a policy change; pass `std::future::pending()` when there is none)
/// or the drain is forced. Both streams are closed then, and the record is ended with the reason,
/// which is also given back. The record's counters follow the bytes while the session lives.
///
/// Dropping the future ends the session too; the record's drop reason tells why.
pub async fn run_session<D, U>(
    mut down: D,
    mut up: U,
    mut record: ConnectionRecord,
    cut: impl Future<Output = Reason>,
    drain: &Drain,
) -> Reason
where
    D: AsyncRead + AsyncWrite + Unpin + 'static,
    U: AsyncRead + AsyncWrite + Unpin + 'static,
{
    // Only the end of the process drops this future in the middle.
    record.set_drop_reason(Reason::Drained);
    let (reason, detail) = {
        let counts = record.counters();
        tokio::select! {
            biased;
            reason = cut => (reason, None),
            () = drain.forced() => (Reason::Drained, None),
            end = counted_pump(&mut down, &mut up, &counts) => outcome(end),
        }
    };
    drop((down, up));
    record.end(reason, detail);
    reason
}

/// The pump, with what it moved put on the record's counters after every poll: telemetry and
/// sockets are neighbours that do not know each other.
async fn counted_pump<D, U>(down: &mut D, up: &mut U, counts: &ByteCounts) -> PumpEnd
where
    D: AsyncRead + AsyncWrite + Unpin + 'static,
    U: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let counters = Counters::new();
    let mut told = (0, 0);
    let mut pumping = pin!(move_bytes(down, up, &counters));
    poll_fn(|cx| {
        let poll = pumping.as_mut().poll(cx);
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
    .await
}

/// The pump that suits both streams: a socket and a tunnel's stream are joined without a copy.
async fn move_bytes<D, U>(down: &mut D, up: &mut U, counters: &Counters) -> PumpEnd
where
    D: AsyncRead + AsyncWrite + Unpin + 'static,
    U: AsyncRead + AsyncWrite + Unpin + 'static,
{
    if let (Some(tcp), Some(tunnel)) = (as_tcp(down), as_tunnel(up)) {
        return mesh_hbone::join(tcp, tunnel, Side::Downstream, counters).await;
    }
    if let (Some(tunnel), Some(tcp)) = (as_tunnel(down), as_tcp(up)) {
        return mesh_hbone::join(tcp, tunnel, Side::Upstream, counters).await;
    }
    mesh_net::pump(down, up, counters).await
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

fn outcome(end: PumpEnd) -> (Reason, Option<String>) {
    match end {
        PumpEnd::Complete => (Reason::Ok, None),
        PumpEnd::Failed { side, error } => {
            let reason = TunnelError::distrust(&error).unwrap_or(match side {
                Side::Downstream => Reason::DownstreamReset,
                Side::Upstream => Reason::UpstreamReset,
            });
            (reason, Some(error.to_string()))
        }
    }
}

#[cfg(test)]
mod tests;
