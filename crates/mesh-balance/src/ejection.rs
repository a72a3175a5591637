//! Passive ejection: an endpoint that could not be reached is avoided for a while.
//!
//! Pure: time is passed in, as the time since any moment that the caller keeps to. What a failure
//! is, the caller says: the endpoint was not reached, or the far proxy could not reach it. A denial
//! by policy is an answer, not a failure.
//!
//! An avoided endpoint is not dropped: where a service has no other, it is used all the same
//! ([`crate::choose`]), so that a fault of the caller's own network cannot empty a service.

use mesh_model::Dice;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

/// How long the first failure keeps an endpoint out.
pub const AVOID_MIN: Duration = Duration::from_secs(1);
/// How long further failures keep it out at most: each doubles the time.
pub const AVOID_MAX: Duration = Duration::from_secs(60);
/// Endpoints kept in mind. A client of more failing endpoints than these forgets the one whose time
/// ends first.
pub const ENDPOINTS_MAX: usize = 256;

/// The endpoints to avoid now, by the address of the application.
pub type Avoided = HashSet<SocketAddr>;

/// The endpoints that failed, as one client has seen them.
#[derive(Debug, Default)]
pub struct Ejections {
    failed: HashMap<SocketAddr, Failed>,
}

#[derive(Debug, Clone, Copy)]
struct Failed {
    /// Without a success or a long silence in between; concurrent ones count once.
    failures: u32,
    /// Avoided until then.
    until: Duration,
    /// Forgotten then.
    forget: Duration,
}

/// One avoided endpoint, to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejected {
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// Failures in a row.
    pub failures: u32,
    /// How long it is still avoided.
    pub left: Duration,
}

impl Ejections {
    /// Notes a failure; gives how long the endpoint is avoided from now. None while it is avoided
    /// already: the connections that were under way with the first do not each double the time.
    ///
    /// The time is [`AVOID_MIN`], doubled for each failure in a row up to [`AVOID_MAX`], less up to
    /// a quarter by chance, so that the clients of one endpoint do not all come back at once.
    pub fn failed(
        &mut self,
        endpoint: SocketAddr,
        now: Duration,
        dice: &mut Dice,
    ) -> Option<Duration> {
        self.forget(now);
        let known = self.failed.get(&endpoint);
        if known.is_some_and(|known| now < known.until) {
            return None;
        }
        let failures = known.map_or(0, |known| known.failures).saturating_add(1);
        if known.is_none() && self.failed.len() >= ENDPOINTS_MAX {
            self.drop_soonest();
        }
        let doubled = AVOID_MIN.saturating_mul(1 << (failures - 1).min(16));
        let whole = doubled.min(AVOID_MAX);
        let quarter = u64::try_from(whole.as_millis() / 4).unwrap_or(u64::MAX);
        let time = whole.saturating_sub(Duration::from_millis(dice.below(quarter)));
        let until = now.saturating_add(time);
        let entry = Failed {
            failures,
            until,
            // Failing again soon after it was let back is failing in a row.
            forget: until.saturating_add(whole),
        };
        self.failed.insert(endpoint, entry);
        Some(time)
    }

    /// Notes that an endpoint was reached: whatever it did before is forgotten.
    pub fn succeeded(&mut self, endpoint: SocketAddr) {
        self.failed.remove(&endpoint);
    }

    /// The endpoints to avoid now, and the moment when that changes by itself.
    pub fn avoided(&mut self, now: Duration) -> (Avoided, Option<Duration>) {
        self.forget(now);
        let current = self.failed.iter().filter(|(_, f)| now < f.until);
        let change = current.clone().map(|(_, f)| f.until).min();
        (current.map(|(endpoint, _)| *endpoint).collect(), change)
    }

    /// The endpoints avoided now, by address.
    pub fn list(&self, now: Duration) -> Vec<Ejected> {
        let current = self.failed.iter().filter(|(_, f)| now < f.until);
        let mut list: Vec<Ejected> = current
            .map(|(endpoint, failed)| Ejected {
                endpoint: *endpoint,
                failures: failed.failures,
                left: failed.until.saturating_sub(now),
            })
            .collect();
        list.sort_by_key(|e| e.endpoint);
        list
    }

    /// How many endpoints are kept in mind, avoided or not.
    pub fn len(&self) -> usize {
        self.failed.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.failed.is_empty()
    }

    fn forget(&mut self, now: Duration) {
        self.failed.retain(|_, failed| now < failed.forget);
    }

    fn drop_soonest(&mut self) {
        let soonest = self.failed.iter().min_by_key(|(_, f)| f.until);
        if let Some(endpoint) = soonest.map(|(endpoint, _)| *endpoint) {
            self.failed.remove(&endpoint);
        }
    }
}

#[cfg(test)]
mod tests;
