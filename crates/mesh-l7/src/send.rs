//! Sending a request: the endpoint, another one when a connect fails, and the time limits.

use crate::body::RequestBody;
use crate::exchange::Downstream;
use crate::head::{Failure, Head};
use crate::record::ExchangeGuard;
use crate::upstream::{EndpointKey, Lease, SendError, UpstreamVersion};
use http::{Request, Response};
use hyper::body::Incoming;
use mesh_model::{Reason, Snapshot};
use mesh_plan::{HttpForward, Target, Transport};
use mesh_telemetry::{Party, Reporter, Security};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A request about to be sent.
pub(crate) struct Sending<'a> {
    pub(crate) downstream: &'a Downstream,
    pub(crate) guard: &'a ExchangeGuard,
    pub(crate) snapshot: &'a Arc<Snapshot>,
    pub(crate) head: &'a Head,
    pub(crate) version: UpstreamVersion,
    /// It asks to switch protocols.
    pub(crate) switching: bool,
    pub(crate) started: Instant,
}

/// What a response's body still needs.
pub(crate) struct Sent {
    pub(crate) lease: Lease,
    /// When the whole response must be there.
    pub(crate) deadline: Option<Instant>,
}

impl Sending<'_> {
    /// Sends and waits for the head of the response. When the connection to an endpoint fails
    /// before a byte of the request was sent, another endpoint is tried, a bounded number of times.
    pub(crate) async fn run(
        &self,
        mut request: Request<RequestBody>,
        forward: &HttpForward,
    ) -> Result<(Response<Incoming>, Sent), Failure> {
        let http2 = self.version == UpstreamVersion::Http2 && !self.switching;
        self.head.write(&mut request, http2)?;
        let deadline = limit(self.started, forward.timeouts.request);
        let mut target = forward.target.clone();
        let mut failed: Vec<SocketAddr> = Vec::new();
        loop {
            self.note(&target);
            let try_limit = limit(Instant::now(), forward.timeouts.backend_request);
            let until = deadline.into_iter().chain(try_limit).min();
            let error = match self.once(&target, request, until).await? {
                Ok((response, lease)) => return Ok((response, Sent { lease, deadline })),
                Err(error) => error,
            };
            failed.push(target.endpoint());
            match (error.unsent, self.another(&target, &failed)) {
                (Some(unsent), Some(next)) => {
                    tracing::debug!(
                        failed = %target.destination, next = %next.destination,
                        reason = %error.reason, "another endpoint is tried"
                    );
                    request = *unsent;
                    target = next;
                }
                _ => return Err(Failure::new(error.reason, error.detail)),
            }
        }
    }

    /// One try at one endpoint.
    async fn once(
        &self,
        target: &Target,
        request: Request<RequestBody>,
        until: Option<Instant>,
    ) -> Result<Result<(Response<Incoming>, Lease), SendError>, Failure> {
        let upstream = &self.downstream.shared.upstream;
        let version = match self.switching {
            true => UpstreamVersion::Http1,
            false => self.version,
        };
        let key = EndpointKey::new(target, version);
        let sent = async {
            match self.switching {
                true => upstream.send_upgrade(&key, request).await,
                false => upstream.send(&key, request).await,
            }
        };
        match until {
            None => Ok(sent.await),
            Some(until) => tokio::time::timeout_at(until, sent).await.map_err(|_| {
                let waited = self.started.elapsed().as_millis();
                let detail = format!("no response from {} in {waited} ms", target.destination);
                Failure::new(Reason::RequestTimeout, detail)
            }),
        }
    }

    /// Another endpoint of the service, not one of those that failed.
    fn another(&self, target: &Target, failed: &[SocketAddr]) -> Option<Target> {
        let shared = &self.downstream.shared;
        if failed.len() > shared.settings.retries_max {
            return None;
        }
        let client = &self.downstream.context.client;
        let mut dice = shared.dice.borrow_mut();
        mesh_plan::retry_target_untried(self.snapshot, client, target, failed, &mut dice)
    }

    /// Tells the record where the request goes.
    fn note(&self, target: &Target) {
        let party = Party {
            workload: target.workload.clone(),
            identity: target.transport.proven().cloned(),
            address: Some(target.destination),
        };
        let cluster = target
            .service
            .as_ref()
            .map(|s| s.name.hostname.to_string())
            .unwrap_or_default();
        let by_source = self.downstream.context.reporter == Reporter::Source;
        let security = match target.transport {
            Transport::Plain => Security::Unknown,
            Transport::Hbone { .. } | Transport::DoubleHbone { .. } => Security::MutualTls,
        };
        self.guard.record(|record| {
            record.set_destination(party, target.service.clone());
            record.set_upstream(target.address, cluster);
            // The client's side reports how it reaches the server; others, how they were reached.
            if by_source {
                record.set_security(security);
            }
        });
    }
}

/// A limit of zero is no limit (GEP-1742), and one past the end of time neither.
fn limit(from: Instant, within: Option<Duration>) -> Option<Instant> {
    within
        .filter(|d| !d.is_zero())
        .and_then(|d| from.checked_add(d))
}
