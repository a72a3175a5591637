//! Whether two pods of this process trust each other's certificates, as a handshake between them
//! would find, and for how long.

use mesh_identity::CertificateReceiver;
use mesh_model::{Reason, SpiffeId};
use mesh_plan::Refusal;
use mesh_tls::{Expected, PeerTrust, WorkloadCertificate};
use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

/// Most pairs remembered by a worker of one pod.
const PAIRS_MAX: usize = 256;

/// The certificate of one of the two, and its successors.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) certificate: Arc<WorkloadCertificate>,
    pub(super) successors: CertificateReceiver,
}

/// Two certificates that were judged by each other's roots and revocation lists.
pub(crate) struct Trust {
    client: Arc<WorkloadCertificate>,
    server: Arc<WorkloadCertificate>,
    /// The client, as the server sees it.
    accepted: PeerTrust,
    /// The server, as the client sees it.
    connected: PeerTrust,
}

impl Trust {
    fn judge(client: &Held, server: &Held) -> Result<Self, Refusal> {
        let expected = Expected::AnyOf(vec![server.certificate.identity().clone()]);
        let judged = mesh_tls::judge_both(&client.certificate, &server.certificate, &expected);
        let (accepted, connected) =
            judged.map_err(|error| Refusal::new(error.reason(), error.to_string()))?;
        let follow =
            |peer, by: &Held| PeerTrust::new(peer, by.certificate.clone(), by.successors.clone());
        Ok(Self {
            client: client.certificate.clone(),
            server: server.certificate.clone(),
            accepted: follow(accepted, server),
            connected: follow(connected, client),
        })
    }

    /// Returns when one of them is trusted no longer, by the rules of a tunnel ([`PeerTrust::lost`]).
    pub(super) async fn lost(&self) -> Reason {
        tokio::select! {
            reason = self.accepted.lost() => reason,
            reason = self.connected.lost() => reason,
        }
    }

    /// Whether it still holds for new connections between the same certificates.
    fn holds(&self, client: &Held, server: &Held) -> bool {
        let now = SystemTime::now();
        let valid = |trust: &PeerTrust| now < trust.peer().not_after;
        let mut cx = Context::from_waker(Waker::noop());
        Arc::ptr_eq(&self.client, &client.certificate)
            && Arc::ptr_eq(&self.server, &server.certificate)
            && valid(&self.accepted)
            && valid(&self.connected)
            && pin!(self.lost()).poll(&mut cx) == Poll::Pending
    }
}

/// What the connections of one pod on one worker have found, so that a signature is not checked for
/// each of them, as it is not within a tunnel.
#[derive(Default)]
pub(crate) struct Trusts(RefCell<HashMap<SpiffeId, Rc<Trust>>>);

impl Trusts {
    /// The trust between a client, always the same workload, and a server.
    ///
    /// # Errors
    /// What a handshake would fail with.
    pub(super) fn between(&self, client: &Held, server: &Held) -> Result<Rc<Trust>, Refusal> {
        let name = server.certificate.identity();
        let known = self.0.borrow().get(name).cloned();
        if let Some(known) = known.filter(|known| known.holds(client, server)) {
            return Ok(known);
        }
        let trust = Rc::new(Trust::judge(client, server)?);
        let mut pairs = self.0.borrow_mut();
        if pairs.len() >= PAIRS_MAX {
            pairs.clear();
        }
        pairs.insert(name.clone(), trust.clone());
        Ok(trust)
    }
}

#[cfg(test)]
mod tests;
