//! The client's end of a connection: places for streams, and the task that drives it.

use crate::core::{Handle, Shared};
use crate::driver::{self, Driver};
use crate::wire::Wire;
use crate::{ConnectRequest, HboneStream, PoolSettings, TunnelError, fields};
use std::future::poll_fn;
use tokio::time::timeout;

/// A connection, as the pool holds it.
pub(crate) struct Connection {
    shared: Shared,
    streams_max: usize,
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
            Some(200) => Ok(HboneStream::new(handle, fields::headers(answer))),
            other => Err(TunnelError::Refused(other.unwrap_or_default())),
        }
    }
}

/// Starts HTTP/2 on a stream that is ready for it. The preface leaves with the first request.
pub(crate) fn start<W: Wire>(wire: W, settings: &PoolSettings) -> (Connection, Driver<W>) {
    let driver = driver::client(wire, settings);
    let connection = Connection {
        shared: driver.shared().clone(),
        streams_max: settings.streams_max.max(1),
    };
    (connection, driver)
}

/// Drives the connection to its end. `retire` is called once, when it takes no streams any more: it
/// takes the connection out of the pool.
pub(crate) async fn run<W: Wire>(mut driver: Driver<W>, retire: impl FnOnce()) {
    let mut retire = Some(retire);
    let ended = poll_fn(|cx| {
        let poll = driver.poll(cx, &mut drop);
        if (driver.is_over() || poll.is_ready())
            && let Some(retire) = retire.take()
        {
            retire();
        }
        poll
    });
    if let Err(error) = ended.await {
        tracing::debug!("tunnel ended: {error}");
    }
    driver.give_to_freezer();
}
