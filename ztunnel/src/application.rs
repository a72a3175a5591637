//! The way to the local application: who may, for how long, and from which address.

use crate::local::LocalReceiver;
use crate::node::Node;
use crate::pods::Pod;
use mesh_authz::{Connection, Decision, Gap, authorize};
use mesh_l4::DialError;
use mesh_model::{PolicySet, Reason, SpiffeId};
use mesh_net::{ConnectError, ConnectOptions, Link};
use mesh_plan::Refusal;
use mesh_telemetry::ConnectionRecord;
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// What a connection was let in by, and what tells when that no longer holds.
pub(crate) struct Admission {
    /// The peer's identity as TLS proved it; none on plaintext.
    pub(crate) identity: Option<SpiffeId>,
    /// The TCP peer's address.
    pub(crate) source_ip: IpAddr,
    /// The application.
    pub(crate) destination: SocketAddr,
    /// The workload and its policies; what was seen of it is what `check` was given.
    pub(crate) local: LocalReceiver,
}

impl Admission {
    fn decide(&self, policies: &PolicySet) -> Decision {
        let connection = Connection {
            identity: self.identity.as_ref(),
            source_ip: self.source_ip,
            destination: self.destination,
        };
        authorize(policies, &connection, None)
    }

    /// Lets the connection in, or refuses it.
    ///
    /// # Errors
    /// [`Reason::PolicyDenied`] or [`Reason::PolicyUnavailable`], with the policy named.
    pub(crate) fn check(
        &self,
        policies: &PolicySet,
        record: &mut ConnectionRecord,
        node: &Node,
    ) -> Result<(), Refusal> {
        let decision = self.decide(policies);
        if let Some(policy) = &decision.policy {
            record.set_policy(policy);
        }
        self.tell(&decision, node);
        if decision.allowed {
            return Ok(());
        }
        Err(Refusal::new(decision.reason, decision.detail))
    }

    /// Counts and logs what an operator should know of a decision.
    fn tell(&self, decision: &Decision, node: &Node) {
        let (source, destination) = (self.source_ip, self.destination);
        let counts = &node.counts.policies;
        if !decision.dry_run.is_empty() {
            counts.dry_run.inc();
        }
        for policy in &decision.dry_run {
            tracing::info!(%policy, %source, %destination, "a policy in dry run would deny");
        }
        for Gap { policy, cause } in &decision.gaps {
            let (cause, allowed) = (cause.as_str(), decision.allowed);
            if allowed {
                counts.passed_over.with(cause).inc();
            } else if decision.reason == Reason::PolicyUnavailable {
                counts.unavailable.with(cause).inc();
            }
            tracing::warn!(%policy, cause, allowed, %source, %destination, "a policy could not be evaluated as written");
        }
        let Some(policy) = &decision.policy else {
            return;
        };
        let (allowed, rule) = (decision.allowed, decision.rule);
        if node.proxy.policy_info_logging {
            tracing::info!(%policy, ?rule, allowed, %source, %destination, "policy decided");
        } else {
            tracing::debug!(%policy, ?rule, allowed, %source, %destination, "policy decided");
        }
    }

    /// Returns when a change of the workload or its policies denies the connection. A workload the
    /// control plane no longer knows keeps its connections: it is the pod's removal that ends them.
    pub(crate) async fn revoked(&self) -> Reason {
        let mut local = self.local.clone();
        while local.changed().await.is_ok() {
            let now = local.borrow_and_update().clone();
            if now.is_some_and(|now| !self.decide(&now.policies).allowed) {
                return Reason::PolicyRevoked;
            }
        }
        std::future::pending().await
    }
}

/// Connects to the application inside the pod, from the client's own address when that is wanted
/// and possible, so that the application sees who it talks to.
///
/// # Errors
/// [`Reason::ConnectFailed`] or [`Reason::ConnectTimeout`].
pub(crate) async fn connect(
    pod: &Pod,
    destination: SocketAddr,
    client: IpAddr,
) -> Result<TcpStream, Refusal> {
    let mut options = options(pod);
    // From its own address to itself the kernel needs no help, and another family cannot be had.
    let spoof = pod.node.proxy.original_source
        && client != destination.ip()
        && client.is_ipv4() == destination.is_ipv4();
    if spoof {
        options.source = Some(client);
        options.transparent = true;
        match mesh_net::connect(destination, &options).await {
            Err(error) if is_for_want_of_privilege(&error) => {
                pod.node.counts.source_not_kept.inc();
                pod.warn_source_not_kept(&error);
                options.source = None;
                options.transparent = false;
            }
            result => return result.map_err(refusal),
        }
    }
    mesh_net::connect(destination, &options)
        .await
        .map_err(refusal)
}

/// Connects to an application that is told by a header who connects, from our own address.
///
/// # Errors
/// As [`connect`], and [`Reason::UpstreamReset`] when the header is not taken.
pub(crate) async fn connect_told(
    pod: &Pod,
    destination: SocketAddr,
    header: &[u8],
) -> Result<TcpStream, Refusal> {
    let mut app = mesh_net::connect(destination, &options(pod))
        .await
        .map_err(refusal)?;
    // It fits the empty send buffer of a new connection, so this does not wait.
    app.write_all(header)
        .await
        .map_err(|e| Refusal::new(Reason::UpstreamReset, e.to_string()))?;
    Ok(app)
}

fn options(pod: &Pod) -> ConnectOptions {
    ConnectOptions {
        mark: pod.node.proxy.mark,
        netns: pod.netns.clone(),
        link: Link::Machine,
        ..ConnectOptions::default()
    }
}

fn is_for_want_of_privilege(error: &ConnectError) -> bool {
    matches!(error, ConnectError::Io { source, .. }
        if source.kind() == io::ErrorKind::PermissionDenied)
}

fn refusal(error: ConnectError) -> Refusal {
    let error = DialError::from(error);
    Refusal::new(error.reason(), error.to_string())
}
