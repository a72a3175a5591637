//! The client's end of a connection: places for streams, and the task that drives it.

use crate::core::{Handle, Shared};
use crate::driver::{self, Driver};
use crate::wire::Wire;
use crate::{ConnectRequest, HboneStream, PoolSettings, TunnelError, fields};
use futures_util::stream::{self, SelectAll};
use futures_util::{Stream, StreamExt};
use mesh_model::Reason;
use mesh_tls::PeerTrust;
use std::future::poll_fn;
use std::task::Poll;
use std::time::SystemTime;
use tokio::time::timeout;

/// A connection, as the pool holds it.
pub(crate) struct Connection {
    shared: Shared,
    streams_max: usize,
    /// The end of the peer's certificate.
    good_until: Option<SystemTime>,
}

/// What is ready for HTTP/2, and what the trust in its far side rests on; none in a test without TLS.
pub(crate) struct Ground<W> {
    pub(crate) wire: W,
    pub(crate) trust: Option<PeerTrust>,
}

/// What a checkout found.
pub(crate) enum Checkout {
    /// A place on the connection.
    Place(Place),
    /// Every place is taken; streams that end make room.
    Full,
    /// The connection is closed or closing (GOAWAY).
    Gone,
}

/// A place on a connection: a request may be sent at once.
pub(crate) struct Place {
    shared: Shared,
}

impl Connection {
    /// Looks for a place. The peer's limit is asked anew each time, since SETTINGS may change it.
    pub(crate) fn checkout(&self) -> Checkout {
        // Its own task is told by a timer, which a jump of the clock does not wake.
        if self.good_until.is_some_and(|end| SystemTime::now() >= end) {
            return Checkout::Gone;
        }
        let core = self.shared.borrow();
        if core.ended.is_some() || core.engine.is_going_away() || core.engine.is_exhausted() {
            return Checkout::Gone;
        }
        let engine = &core.engine;
        if engine.open_streams() >= self.streams_max || engine.streams_available() == 0 {
            return Checkout::Full;
        }
        Checkout::Place(Place {
            shared: self.shared.clone(),
        })
    }
}

/// A request that was sent.
pub(crate) struct Asked(Handle);

impl Place {
    /// Sends the CONNECT. Whatever happens, it is sent once.
    pub(crate) fn ask(self, request: &ConnectRequest) -> Result<Asked, TunnelError> {
        let fields = fields::connect(request)?;
        Ok(Asked(Handle::open(&self.shared, &fields)?))
    }
}

impl Asked {
    /// Waits for the answer. Given up, the stream is reset.
    pub(crate) async fn answer(self, settings: &PoolSettings) -> Result<HboneStream, TunnelError> {
        let Self(handle) = self;
        let answer = poll_fn(|cx| handle.poll_answer(cx));
        let answer = timeout(settings.response_timeout, answer)
            .await
            .map_err(|_| TunnelError::ResponseTimeout)??;
        match fields::status(&answer) {
            Some(200) => {
                handle.keep_headers(answer);
                Ok(HboneStream::new(handle))
            }
            other => Err(TunnelError::Refused(other.unwrap_or_default())),
        }
    }
}

/// A connection's task, to be [`run`].
pub(crate) struct Started<W> {
    driver: Driver<W>,
    trust: Option<PeerTrust>,
}

/// Starts HTTP/2 on a stream that is ready for it. The preface leaves with the first request.
pub(crate) fn start<W: Wire>(
    ground: Ground<W>,
    settings: &PoolSettings,
) -> (Connection, Started<W>) {
    let Ground { wire, trust } = ground;
    let driver = driver::client(wire, settings);
    let peer = trust.as_ref().map(PeerTrust::peer);
    driver.shared().borrow_mut().key_exchange = peer.map(|peer| peer.key_exchange);
    let connection = Connection {
        shared: driver.shared().clone(),
        streams_max: settings.streams_max.max(1),
        good_until: peer.map(|peer| peer.not_after),
    };
    (connection, Started { driver, trust })
}

/// How a connection comes to take no streams any more.
pub(crate) enum Retired {
    /// It is over or ending.
    Ended,
    /// What its peer proved itself with holds no longer.
    Distrusted(Reason),
}

/// Drives the connection to its end. `retire` is called once, when it takes no streams any more: it
/// takes the connection out of the pool.
pub(crate) async fn run<W: Wire>(started: Started<W>, retire: impl FnOnce(Retired)) {
    let Started { mut driver, trust } = started;
    let mut verdicts = trust.as_ref().map(follow);
    let mut retire = Some(retire);
    let ended = poll_fn(|cx| {
        while let Some(verdicts) = &mut verdicts
            && let Poll::Ready(Some(verdict)) = verdicts.poll_next_unpin(cx)
        {
            match verdict {
                Verdict::Stale(reason) => {
                    driver.retire();
                    if let Some(retire) = retire.take() {
                        retire(Retired::Distrusted(reason));
                    }
                }
                Verdict::Lost(reason) => driver.distrust(reason),
            }
        }
        let poll = driver.poll(cx, &mut drop);
        if (driver.is_over() || poll.is_ready())
            && let Some(retire) = retire.take()
        {
            retire(Retired::Ended);
        }
        poll
    });
    if let Err(error) = ended.await {
        tracing::debug!("tunnel ended: {error}");
    }
    driver.give_to_freezer();
}

/// What is found of a connection's peer.
enum Verdict {
    /// Nothing new may be started.
    Stale(Reason),
    /// What is there must be cut.
    Lost(Reason),
}

/// Follows the trust in a peer: first whether it is stale, then whether it is lost. It is looked at
/// only when woken, so that a turn of a busy connection costs it nothing.
fn follow(trust: &PeerTrust) -> impl Stream<Item = Verdict> + Unpin {
    let stale = stream::once(async move { Verdict::Stale(trust.stale().await) });
    let lost = stream::once(async move { Verdict::Lost(trust.lost().await) });
    let verdicts: SelectAll<_> = std::iter::once(Box::pin(stale.chain(lost))).collect();
    verdicts
}
