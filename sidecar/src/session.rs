//! One connection from its acceptance to its only record, and the bytes of one that is not HTTP.

use crate::proxy::Node;
use crate::worker::Worker;
use http::HeaderMap;
use mesh_l4::{Reach, UpstreamStream};
use mesh_model::{Reason, Snapshot};
use mesh_net::Prefixed;
use mesh_plan::{Client, Refusal, Target};
use mesh_telemetry::{ConnectionFacts, ConnectionRecord, Metrics};
use std::rc::Rc;

/// Endpoints tried for one connection, as long as nothing was sent to the one that failed. Each may
/// take the whole connect timeout, and the client waits meanwhile.
pub(crate) const ATTEMPTS_MAX: usize = 2;

/// The server's side of a connection.
pub(crate) type Up = Prefixed<UpstreamStream>;

/// A connection of which it is not known yet whether its record is one of a connection or those of
/// its requests. Dropped undecided, it was drained.
pub(crate) struct Pending {
    metrics: Metrics,
    /// What is known so far.
    pub(crate) facts: ConnectionFacts,
    undecided: bool,
}

impl Pending {
    pub(crate) fn new(node: &Node, facts: ConnectionFacts) -> Self {
        Self {
            metrics: node.metrics.clone(),
            facts,
            undecided: true,
        }
    }

    /// Ends here.
    pub(crate) fn refuse(self, refusal: Refusal) {
        self.begin().end(refusal.reason, Some(refusal.detail));
    }

    /// Goes on as bytes.
    pub(crate) fn begin(mut self) -> ConnectionRecord {
        self.undecided = false;
        self.metrics.connection(self.facts.clone())
    }

    /// Goes on as HTTP: each request has a record of its own.
    pub(crate) fn leave_to_requests(mut self) -> ConnectionFacts {
        self.undecided = false;
        self.facts.clone()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.undecided {
            let record = self.metrics.connection(self.facts.clone());
            record.end(Reason::Drained, None);
        }
    }
}

/// Connects to a target, or to another endpoint of its service when nothing reached the first.
///
/// # Errors
/// The last attempt's.
pub(crate) async fn dial(
    worker: &Rc<Worker>,
    snapshot: &Snapshot,
    asking: &Client,
    target: Target,
    headers: &HeaderMap,
    facts: &mut ConnectionFacts,
) -> Result<UpstreamStream, Refusal> {
    let reach = Reach {
        snapshot,
        client: asking,
        dice: &worker.dice,
        ejector: &worker.node.ejector,
        attempts_max: ATTEMPTS_MAX,
    };
    let attempt = async |target: &Target| {
        crate::facts::set_target(facts, target);
        Ok(worker.dialer.open(target, headers.clone()).await?)
    };
    reach.open(target, attempt).await
}
