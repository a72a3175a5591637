//! Which certificates are no longer good: revocation lists, for handshakes and for what lives.

mod files;
#[cfg(test)]
mod tests;

pub use files::{Refreshed, RevocationFiles};

use crate::verify;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use webpki::{CertRevocationList, OwnedCertRevocationList};

/// Most lists in use: one an authority and some to spare.
pub(crate) const LISTS_MAX: usize = 256;

/// Which end a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerSide {
    /// It connected to us.
    Client,
    /// We connected to it.
    Server,
}

impl PeerSide {
    /// The `reporter` label of metrics: which side of the connection we are.
    pub const fn reporter(self) -> &'static str {
        match self {
            Self::Client => "destination",
            Self::Server => "source",
        }
    }
}

/// What is to be counted (interop/telemetry.md section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RevocationEvent {
    /// A certificate on a list was refused, or a live connection's became one.
    Rejected,
    /// A live connection's certificates could not be judged anew; it goes on.
    Untracked,
}

type Count = Box<dyn Fn(RevocationEvent, PeerSide) + Send + Sync>;
pub(crate) type Lists = Arc<Vec<Arc<CertRevocationList<'static>>>>;

/// The lists in use; clones share them. The default has none and never will, and costs nothing.
///
/// A certificate that no list speaks of passes, and a list past its next update still counts, as the
/// peer does it (interop/hbone.md): the lists say who is out, not who is in.
#[derive(Clone, Default)]
pub struct Revocations(Option<Arc<Shared>>);

struct Shared {
    lists: watch::Sender<Lists>,
    count: Count,
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = self.0.as_ref().map(|s| s.lists.borrow().len());
        f.debug_tuple("Revocations").field(&lists).finish()
    }
}

impl Revocations {
    /// Lists that may change, none yet. `count` is called on any thread.
    pub fn new(count: impl Fn(RevocationEvent, PeerSide) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(Shared {
            lists: watch::Sender::default(),
            count: Box::new(count),
        })))
    }

    /// Uses these from now on, and has live connections judge their peers by them.
    pub fn replace(&self, files: &RevocationFiles) {
        if let Some(shared) = &self.0 {
            shared.lists.send_replace(files.lists());
        }
    }

    pub(crate) fn lists(&self) -> Lists {
        let shared = self.0.as_ref();
        shared.map_or_else(Lists::default, |shared| shared.lists.borrow().clone())
    }

    pub(crate) fn count(&self, event: RevocationEvent, side: PeerSide) {
        if let Some(shared) = &self.0 {
            (shared.count)(event, side);
        }
    }

    /// What tells of later lists; taken before a handshake, so that none is missed.
    pub(crate) fn watch(&self) -> Option<watch::Receiver<Lists>> {
        self.0.as_ref().map(|shared| shared.lists.subscribe())
    }
}

/// Reads lists, in PEM or one in DER. An empty text is none.
fn read(bytes: &[u8]) -> Result<Vec<Arc<CertRevocationList<'static>>>, String> {
    let ders: Vec<CertificateRevocationListDer<'static>> = if bytes.first() == Some(&0x30) {
        vec![CertificateRevocationListDer::from(bytes.to_vec())]
    } else {
        CertificateRevocationListDer::pem_slice_iter(bytes)
            .take(LISTS_MAX + 1)
            .collect::<Result<_, _>>()
            .map_err(|e| format!("not PEM: {e}"))?
    };
    if ders.is_empty() && !bytes.trim_ascii().is_empty() {
        return Err("no X509 CRL in it".into());
    }
    if ders.len() > LISTS_MAX {
        return Err(format!("over {LISTS_MAX} lists"));
    }
    ders.iter()
        .enumerate()
        .map(|(i, der)| {
            let list = OwnedCertRevocationList::from_der(der)
                .map_err(|e| format!("list {}: {e:?}", i + 1))?;
            Ok(Arc::new(list.into()))
        })
        .collect()
}

/// What a live connection's peer proved itself with, kept where there are lists to judge it by.
pub(crate) struct PeerChain {
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) side: PeerSide,
    /// The moment the handshake judged it: its end is another matter than its revocation.
    pub(crate) established: UnixTime,
    pub(crate) revocations: Revocations,
    pub(crate) changes: watch::Receiver<Lists>,
    /// The last verdict, and on which lists: many streams of a connection ask the same.
    pub(crate) judged: Mutex<Option<(Lists, bool)>>,
}

impl fmt::Debug for PeerChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerChain(..)")
    }
}

impl PeerChain {
    /// Returns when a later list has one of the certificates.
    pub(crate) async fn revoked(&self) {
        let mut changes = self.changes.clone();
        while changes.changed().await.is_ok() {
            let lists = changes.borrow_and_update().clone();
            if self.judge(&lists) {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    /// Whether the chain is on these lists or was on earlier ones; counted the first time.
    fn judge(&self, lists: &Lists) -> bool {
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((by, verdict)) = &*judged
            && (*verdict || Arc::ptr_eq(by, lists))
        {
            return *verdict;
        }
        let verdict = self.is_on(lists);
        if verdict {
            self.revocations.count(RevocationEvent::Rejected, self.side);
        }
        *judged = Some((lists.clone(), verdict));
        verdict
    }

    fn is_on(&self, lists: &Lists) -> bool {
        let Some((leaf, intermediates)) = self.certificates.split_first() else {
            self.revocations
                .count(RevocationEvent::Untracked, self.side);
            return false;
        };
        let (roots, side) = (&self.roots, self.side);
        match verify::chain(roots, leaf, intermediates, self.established, side, lists) {
            Ok(()) => false,
            Err(webpki::Error::CertRevoked) => true,
            Err(error) => {
                tracing::warn!(
                    ?error,
                    "a live peer's certificates could not be judged by the new lists"
                );
                self.revocations
                    .count(RevocationEvent::Untracked, self.side);
                false
            }
        }
    }
}
