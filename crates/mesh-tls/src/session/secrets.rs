//! How the traffic secrets come out of rustls: by the interface made for key logs, to the
//! connection that is being driven and nobody else.
//!
//! rustls hands out record keys ([`rustls::kernel`]) but not the secrets the next keys derive from
//! (RFC 8446 section 7.2), without which a connection that was written down could not follow a
//! `KeyUpdate`. A handshake step is synchronous, so the owner waits in a thread-local place for as
//! long as the step takes. A connection that is not driven by us finds nobody waiting.

use rustls::KeyLog;
use std::cell::RefCell;
use zeroize::Zeroizing;

/// A traffic secret.
pub(super) type Secret = Zeroizing<Vec<u8>>;

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

/// The application traffic secrets of both sides; empty until the handshake made them.
#[derive(Default)]
pub(super) struct Secrets {
    pub(super) client: Secret,
    pub(super) server: Secret,
}

thread_local! {
    static WAITING: RefCell<Option<Secrets>> = const { RefCell::new(None) };
}

impl Secrets {
    /// Runs one step of a handshake and keeps the secrets it made.
    pub(super) fn during<T>(&mut self, step: impl FnOnce() -> T) -> T {
        WAITING.with_borrow_mut(|waiting| *waiting = Some(std::mem::take(self)));
        let result = step();
        if let Some(secrets) = WAITING.take() {
            *self = secrets;
        }
        result
    }
}

/// Gives the secrets to the connection that waits for them on this thread.
#[derive(Debug)]
pub(crate) struct SecretsToOwner;

impl KeyLog for SecretsToOwner {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        WAITING.with_borrow_mut(|waiting| {
            let Some(waiting) = waiting else { return };
            match label {
                CLIENT => waiting.client = Zeroizing::new(secret.to_vec()),
                SERVER => waiting.server = Zeroizing::new(secret.to_vec()),
                _ => {}
            }
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER) && WAITING.with_borrow(Option::is_some)
    }
}
