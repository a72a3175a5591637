//! The table of kept connections.

use super::EndpointKey;
use super::connection::{Http1, Http2, Place};
use crate::settings::UpstreamSettings;
use mesh_runtime::Scope;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Kept connections by endpoint. An endpoint without connections is forgotten at the next sweep.
pub(crate) struct Endpoints {
    by_key: RefCell<HashMap<EndpointKey, Endpoint>>,
    idle_timeout: Duration,
    idle_per_endpoint_max: usize,
}

#[derive(Default)]
struct Endpoint {
    /// Unused HTTP/1.1 connections, the latest used last.
    idle: Vec<(Instant, Http1)>,
    shared: Vec<Rc<Http2>>,
    open: Rc<Cell<usize>>,
    dial_turn: Rc<Mutex<()>>,
}

/// Counts a connection as open while it lives.
pub(super) struct OpenPermit(Rc<Cell<usize>>);

impl Drop for OpenPermit {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Endpoints {
    /// An empty table, swept by a task of `scope`.
    pub(super) fn start(settings: &UpstreamSettings, scope: &Scope) -> Rc<Self> {
        let endpoints = Rc::new(Self {
            by_key: RefCell::default(),
            idle_timeout: settings.idle_timeout,
            idle_per_endpoint_max: settings.idle_per_endpoint_max,
        });
        let swept = Rc::downgrade(&endpoints);
        let period = (settings.idle_timeout / 4).max(SWEEP_PERIOD_MIN);
        scope.spawn_local("upstream sweep", async move {
            loop {
                tokio::time::sleep(period).await;
                match swept.upgrade() {
                    Some(endpoints) => endpoints.sweep(),
                    None => return,
                }
            }
        });
        endpoints
    }

    /// The connection that was used last and is ready: the least likely to be closed by now.
    pub(super) fn take_idle(&self, key: &EndpointKey) -> Option<Http1> {
        let mut table = self.by_key.borrow_mut();
        let idle = &mut table.get_mut(key)?.idle;
        idle.retain(|(_, connection)| !connection.is_closed());
        let ready = idle.iter().rposition(|(_, c)| c.is_ready())?;
        Some(idle.remove(ready).1)
    }

    pub(super) fn keep_http1(&self, key: &EndpointKey, connection: Http1) {
        let mut table = self.by_key.borrow_mut();
        let idle = &mut table.entry(key.clone()).or_default().idle;
        if idle.len() >= self.idle_per_endpoint_max {
            idle.remove(0);
        }
        idle.push((Instant::now(), connection));
    }

    pub(super) fn http2_place(
        &self,
        key: &EndpointKey,
        settings: &UpstreamSettings,
    ) -> Option<Place> {
        let mut table = self.by_key.borrow_mut();
        let shared = &mut table.get_mut(key)?.shared;
        shared.retain(|connection| connection.is_usable());
        shared
            .iter()
            .find(|connection| connection.has_room(settings.streams_per_connection_max))
            .map(Http2::place)
    }

    pub(super) fn keep_http2(&self, key: &EndpointKey, connection: Rc<Http2>) {
        let mut table = self.by_key.borrow_mut();
        table
            .entry(key.clone())
            .or_default()
            .shared
            .push(connection);
    }

    /// The turn to dial an HTTP/2 connection of a key: those who wait find the new connection.
    pub(super) fn dial_turn(&self, key: &EndpointKey) -> Rc<Mutex<()>> {
        let mut table = self.by_key.borrow_mut();
        table.entry(key.clone()).or_default().dial_turn.clone()
    }

    /// A place among the open connections of an endpoint.
    pub(super) fn open_permit(&self, key: &EndpointKey, max: usize) -> Option<OpenPermit> {
        let mut table = self.by_key.borrow_mut();
        let open = &table.entry(key.clone()).or_default().open;
        (open.get() < max).then(|| {
            open.set(open.get() + 1);
            OpenPermit(open.clone())
        })
    }

    fn sweep(&self) {
        let now = Instant::now();
        let fresh = |since: Instant| now.duration_since(since) < self.idle_timeout;
        self.by_key.borrow_mut().retain(|_, endpoint| {
            endpoint
                .idle
                .retain(|(since, c)| fresh(*since) && !c.is_closed());
            endpoint
                .shared
                .retain(|c| c.is_usable() && c.idle_since().is_none_or(fresh));
            !endpoint.idle.is_empty()
                || !endpoint.shared.is_empty()
                || endpoint.open.get() > 0
                || Rc::strong_count(&endpoint.dial_turn) > 1
        });
    }
}

/// The table is swept no more often than this.
const SWEEP_PERIOD_MIN: Duration = Duration::from_millis(100);
