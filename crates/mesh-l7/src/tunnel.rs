//! After a 101: bytes both ways, each with its own end.

use crate::record::ExchangeGuard;
use crate::upstream::lost_reason;
use mesh_hbone::UpstreamStream;
use mesh_model::Reason;
use mesh_net::{Counters, Prefixed, PumpEnd, Side};
use std::future::Future;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};

/// Gives the reason and the words once policies deny what they allowed before.
pub(crate) type Revoked = Pin<Box<dyn Future<Output = (Reason, String)>>>;

/// A switch of protocols that the upstream confirmed.
pub(crate) struct Switched {
    /// The upstream's bytes, those that came with the head first.
    pub(crate) upstream: Prefixed<UpstreamStream>,
    pub(crate) guard: ExchangeGuard,
    pub(crate) revoked: Option<Revoked>,
}

/// Carries the bytes to their end, and ends the exchange's record.
pub(crate) async fn run<S>(mut down: S, switched: Switched, cut: impl Future<Output = Reason>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Switched {
        mut upstream,
        guard,
        revoked,
    } = switched;
    let counters = Counters::new();
    let revoked = async {
        match revoked {
            Some(revoked) => revoked.await,
            None => std::future::pending().await,
        }
    };
    let (reason, detail) = tokio::select! {
        biased;
        reason = cut => (reason, None),
        (reason, detail) = revoked => (reason, Some(detail)),
        end = mesh_net::pump(&mut down, &mut upstream, &counters) => outcome(end),
    };
    guard.record(|record| {
        record.add_sent(counters.received());
        record.add_received(counters.sent());
    });
    guard.end(None, reason, detail);
}

fn outcome(end: PumpEnd) -> (Reason, Option<String>) {
    match end {
        PumpEnd::Complete => (Reason::Ok, None),
        PumpEnd::Failed {
            side: Side::Downstream,
            error,
        } => (Reason::DownstreamReset, Some(error.to_string())),
        PumpEnd::Failed {
            side: Side::Upstream,
            error,
        } => (lost_reason(&error), Some(error.to_string())),
    }
}
