//! The pool of client connections of one worker.
//!
//! A key has any number of connections. A request takes a place on the first one with room; when
//! there is none, one dial is started, and all who need the key meanwhile wait for that dial and
//! share its outcome. A full connection is passed over until one of its streams ends. A connection
//! found closed, or closing after a GOAWAY, is dropped at checkout and another is dialled; a
//! request that was sent is never sent again. Connections keep the certificate they were made
//! with: a rotated one is used from the next dial on (interop/hbone.md, "Pooling").
//!
//! Trust in the far side is followed while a connection lives. Once its certificate is over, revoked,
//! or rests on a root that was withdrawn, the connection takes no more streams; for the latter two
//! those there are cut as well ([`TunnelError::Untrusted`]).

use crate::client::{self, Checkout, Connection, Ground, Place, Retired};
use crate::parting::Parting;
#[cfg(test)]
use crate::wire::Plain;
use crate::wire::{Sealed, Wire};
use crate::{HboneStream, PoolSettings, TunnelError};
use http::HeaderMap;
use mesh_model::{Reason, SpiffeId};
use mesh_net::{ConnectOptions, Link};
use mesh_runtime::Scope;
use mesh_tls::{CertificateReceiver, Expected, PeerTrust, Session, WorkloadCertificate};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// How often one open may wait for a dial and then find every place of it taken by others.
const ROUNDS_MAX: usize = 64;

/// What a CONNECT asks for.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// The `:authority`: `ip:port`, `[ip6]:port` or `host:port`.
    pub authority: String,
    /// Further headers: baggage, forwarded, traceparent.
    pub headers: HeaderMap,
}

/// What must be equal for two requests to share a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TunnelKey {
    /// Whose certificate we present.
    pub source: SpiffeId,
    /// Whom we expect at the far side.
    pub expected: Expected,
    /// Where TCP goes.
    pub address: SocketAddr,
    /// The address the connection comes from, when that matters to the far side's policies.
    pub source_ip: Option<IpAddr>,
}

/// How to make a connection, should one be needed.
#[derive(Clone)]
pub struct Dial {
    /// Of the TCP connection.
    pub options: ConnectOptions,
    /// Presented by us; its identity is the key's source.
    pub certificate: Arc<WorkloadCertificate>,
    /// Gives its successors, for the roots in them: the far side is trusted as long as none of those it
    /// may have been judged by is gone.
    pub successors: CertificateReceiver,
}

impl Dial {
    /// With a certificate that has no successors.
    pub fn once(options: ConnectOptions, certificate: Arc<WorkloadCertificate>) -> Self {
        Self {
            options,
            certificate,
            successors: watch::channel(None).1,
        }
    }
}

/// The pool of one worker; clones are the same pool.
#[derive(Clone)]
pub struct Pool {
    inner: Rc<Inner>,
}

struct Inner {
    settings: PoolSettings,
    scope: Scope,
    entries: RefCell<HashMap<TunnelKey, Entry>>,
    connections: Cell<usize>,
    next_id: Cell<u64>,
    /// Told of each connection retired because of its peer.
    distrusted: Box<dyn Fn(Reason)>,
}

type Outcome = Option<Result<(), TunnelError>>;

#[derive(Default)]
struct Entry {
    connections: Vec<(u64, Connection)>,
    dialing: Option<watch::Receiver<Outcome>>,
}

impl Pool {
    /// An empty pool. Its connections are tasks of `scope` and end with it.
    pub fn new(settings: PoolSettings, scope: &Scope) -> Self {
        Self::counting(settings, scope, |_| ())
    }

    /// As [`Self::new`]; `distrusted` is told of each connection that is retired because its peer's
    /// certificate is over ([`Reason::TlsFailure`]) or trust in it was lost.
    pub fn counting(
        settings: PoolSettings,
        scope: &Scope,
        distrusted: impl Fn(Reason) + 'static,
    ) -> Self {
        Self {
            inner: Rc::new(Inner {
                settings,
                scope: scope.clone(),
                entries: RefCell::default(),
                connections: Cell::new(0),
                next_id: Cell::new(0),
                distrusted: Box::new(distrusted),
            }),
        }
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.inner.connections.get()
    }

    /// Opens a stream: over a pooled connection when one has room, else over a new one.
    ///
    /// # Errors
    /// See [`TunnelError`]; [`TunnelError::retry_is_safe`] tells whether the request was sent.
    pub async fn open(
        &self,
        key: &TunnelKey,
        dial: Dial,
        request: ConnectRequest,
    ) -> Result<HboneStream, TunnelError> {
        let connect = || {
            let (target, dial) = (key.clone(), dial.clone());
            async move {
                let options = ConnectOptions {
                    link: Link::Tunnel,
                    ..dial.options
                };
                let tcp = mesh_net::connect(target.address, &options).await?;
                let session =
                    mesh_tls::connect_session(tcp, &dial.certificate, &target.expected).await?;
                Ok(ground(session, dial.certificate, dial.successors))
            }
        };
        self.open_over(key, connect, &request).await
    }

    /// Opens a stream within a byte stream that leads to the far side, such as a stream of another
    /// tunnel (double HBONE: interop/hbone.md). TLS and HTTP/2 are of this one stream only. Of `dial` only
    /// the certificates count. Gives the identity that the peer has proven, too.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_within<S>(
        &self,
        stream: S,
        dial: &Dial,
        expected: &Expected,
        request: &ConnectRequest,
    ) -> Result<(HboneStream, SpiffeId), TunnelError>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let certificate = dial.certificate.clone();
        let stream = Parting::new(stream, &self.inner.scope);
        let session = Box::pin(mesh_tls::connect_session(stream, &certificate, expected)).await?;
        let peer = session.peer.identity.clone();
        let mut settings = self.inner.settings.clone();
        // It ends with its stream.
        settings.idle_release = Duration::ZERO;
        let ground = ground(session, certificate, dial.successors.clone());
        let (connection, started) = client::start(ground, &settings);
        let Checkout::Place(place) = connection.checkout() else {
            return Err(TunnelError::Closed);
        };
        let asked = place.ask(request)?;
        let pool = Rc::downgrade(&self.inner);
        let retire = move |why| {
            if let Some(pool) = pool.upgrade() {
                pool.note(&why);
            }
        };
        self.inner
            .scope
            .spawn_local("hbone connection", client::run(started, retire));
        Ok((asked.answer(&settings).await?, peer))
    }

    /// [`Self::open`] over any byte stream.
    #[cfg(test)]
    pub(crate) async fn open_with<S, D, F>(
        &self,
        key: &TunnelKey,
        dial: D,
        request: &ConnectRequest,
    ) -> Result<HboneStream, TunnelError>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
        D: Fn() -> F,
        F: Future<Output = Result<S, TunnelError>> + 'static,
    {
        let dial = || {
            let dialing = dial();
            async {
                let wire = Plain::new(dialing.await?);
                Ok(Ground { wire, trust: None })
            }
        };
        self.open_over(key, dial, request).await
    }

    async fn open_over<W, D, F>(
        &self,
        key: &TunnelKey,
        dial: D,
        request: &ConnectRequest,
    ) -> Result<HboneStream, TunnelError>
    where
        W: Wire + 'static,
        D: Fn() -> F,
        F: Future<Output = Result<Ground<W>, TunnelError>> + 'static,
    {
        for _ in 0..ROUNDS_MAX {
            if let Some(place) = self.inner.checkout(key) {
                return place.ask(request)?.answer(&self.inner.settings).await;
            }
            let mut outcome = match self.inner.dial_in_progress(key) {
                Some(outcome) => outcome,
                None => self.inner.start_dial(key, dial())?,
            };
            match outcome.wait_for(Option::is_some).await {
                Ok(done) => done.clone().unwrap_or(Err(TunnelError::Closed))?,
                Err(_) => return Err(TunnelError::Closed),
            }
        }
        Err(TunnelError::Overloaded("waiting rounds"))
    }
}

impl Inner {
    /// A place on a connection of the key; connections found closed are dropped on the way.
    fn checkout(&self, key: &TunnelKey) -> Option<Place> {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.get_mut(key)?;
        let mut place = None;
        let before = entry.connections.len();
        entry.connections.retain(|(_, connection)| {
            if place.is_some() {
                return true;
            }
            match connection.checkout() {
                Checkout::Place(found) => {
                    place = Some(found);
                    true
                }
                Checkout::Full => true,
                Checkout::Gone => false,
            }
        });
        let gone = before - entry.connections.len();
        self.connections.set(self.connections.get() - gone);
        place
    }

    fn dial_in_progress(&self, key: &TunnelKey) -> Option<watch::Receiver<Outcome>> {
        self.entries.borrow().get(key)?.dialing.clone()
    }

    /// Starts a dial as a task of its own, so that it goes on for those who wait even when the
    /// request that started it is given up.
    fn start_dial<W, F>(
        self: &Rc<Self>,
        key: &TunnelKey,
        dial: F,
    ) -> Result<watch::Receiver<Outcome>, TunnelError>
    where
        W: Wire + 'static,
        F: Future<Output = Result<Ground<W>, TunnelError>> + 'static,
    {
        if self.connections.get() >= self.settings.connections_max {
            return Err(TunnelError::Overloaded("connections"));
        }
        let (done, outcome) = watch::channel(None);
        self.entries
            .borrow_mut()
            .entry(key.clone())
            .or_default()
            .dialing = Some(outcome.clone());
        let dialing = Dialing {
            inner: Rc::downgrade(self),
            key: key.clone(),
            done,
        };
        let settings = self.settings.clone();
        let connection = async move {
            // Boxed: what a dial needs is given back before the long life of the connection.
            match Box::pin(dial).await {
                Ok(ground) => {
                    let (connection, started) = client::start(ground, &settings);
                    let retire = dialing.succeed(connection);
                    client::run(started, retire).await;
                }
                Err(error) => dialing.fail(error),
            }
        };
        // Boxed: each future around it would hold room for it once more.
        self.scope
            .spawn_local("hbone connection", Box::pin(connection));
        Ok(outcome)
    }

    fn add(&self, key: &TunnelKey, connection: Connection) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let mut entries = self.entries.borrow_mut();
        let entry = entries.entry(key.clone()).or_default();
        entry.connections.push((id, connection));
        self.connections.set(self.connections.get() + 1);
        id
    }

    fn note(&self, why: &Retired) {
        if let Retired::Distrusted(reason) = why {
            tracing::info!(%reason, "tunnel retired: what its peer proved itself with holds no longer");
            (self.distrusted)(*reason);
        }
    }

    /// Takes a connection out; nothing happens when a checkout dropped it already.
    fn remove(&self, key: &TunnelKey, id: u64) {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(key) else {
            return;
        };
        let before = entry.connections.len();
        entry.connections.retain(|(of, _)| *of != id);
        let gone = before - entry.connections.len();
        self.connections.set(self.connections.get() - gone);
        if entry.connections.is_empty() && entry.dialing.is_none() {
            entries.remove(key);
        }
    }

    fn stop_dialing(&self, key: &TunnelKey) {
        let mut entries = self.entries.borrow_mut();
        if let Some(entry) = entries.get_mut(key) {
            entry.dialing = None;
            if entry.connections.is_empty() {
                entries.remove(key);
            }
        }
    }
}

fn ground<S>(
    session: Session<S>,
    certificate: Arc<WorkloadCertificate>,
    successors: CertificateReceiver,
) -> Ground<Sealed<S>> {
    let trust = PeerTrust::new(session.peer.clone(), certificate, successors);
    Ground {
        wire: Sealed::new(session),
        trust: Some(trust),
    }
}

/// A dial in progress. Dropped without an outcome (the scope was cancelled, a panic), it frees the
/// key, and those who wait see the channel close.
struct Dialing {
    inner: Weak<Inner>,
    key: TunnelKey,
    done: watch::Sender<Outcome>,
}

impl Dialing {
    /// Puts the connection in the pool, tells those who wait, and gives what takes it out again.
    fn succeed(self, connection: Connection) -> impl FnOnce(Retired) + use<> {
        let (inner, key) = (self.inner.clone(), self.key.clone());
        let id = inner.upgrade().map(|pool| pool.add(&key, connection));
        self.finish(Ok(()));
        move |why| {
            if let (Some(pool), Some(id)) = (inner.upgrade(), id) {
                pool.remove(&key, id);
                pool.note(&why);
            }
        }
    }

    fn fail(self, error: TunnelError) {
        self.finish(Err(error));
    }

    fn finish(self, result: Result<(), TunnelError>) {
        // Nobody waiting is fine: the request was given up.
        self.done.send_replace(Some(result));
    }
}

impl Drop for Dialing {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            inner.stop_dialing(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;
