//! Connections between two pods of this process: one hop, without TLS.
//!
//! The process holds both pods' keys, so a tunnel between them would prove nothing to anyone else.
//! Both identities are asked for all the same, the destination decides with its own policies as it
//! would behind a tunnel (so STRICT is satisfied), and what revokes a tunnelled session ends this one.

mod trust;

pub(crate) use trust::Trusts;

use crate::facts;
use crate::inbound::{self, Asked, Caller, Opened};
use crate::pods::{Pod, Worker};
use mesh_hbone::TunnelError;
use mesh_l4::{AttemptError, run_session};
use mesh_model::{Reason, SpiffeId, Workload};
use mesh_plan::{Client, Refusal, Target, Transport};
use mesh_telemetry::{ConnectionRecord, Party, Security, Transport as Carried};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::TcpStream;
use trust::{Held, Trust};

/// A connection that the destination has let in and whose application is connected.
pub(crate) struct Near {
    pod: Arc<Pod>,
    opened: Opened,
    /// The pods', in each other's certificates.
    trust: Rc<Trust>,
    /// The destination's record; the source has its own.
    record: ConnectionRecord,
}

/// The pod of this process that a target is, where such connections are carried here.
pub(crate) fn pod_of(worker: &Worker, asking: &Client, target: &Target) -> Option<Arc<Pod>> {
    let node = &worker.pod.node;
    if !node.proxy.same_node || !mesh_plan::same_node(asking, target) {
        return None;
    }
    node.running.of(target.workload.as_deref()?)
}

/// Everything that may fail before bytes flow. What the destination refuses looks to the source as
/// the refusal of a tunnel does: the same reasons, and the same rules for another attempt.
pub(crate) async fn open(
    worker: &Rc<Worker>,
    workload: &Workload,
    client: SocketAddr,
    target: &Target,
    pod: Arc<Pod>,
) -> Result<Near, AttemptError> {
    let Transport::Hbone {
        authority,
        expected,
    } = &target.transport
    else {
        let refusal = Refusal::new(Reason::Internal, "the target takes plain text");
        return Err(refusal.into());
    };
    let source = proven(worker.certificate(workload).await?, workload)?;
    let identity = source.certificate.identity().clone();
    let mut facts = facts::inbound(client, Some(target.address));
    facts.hbone_address = Some(authority.clone());
    facts.security = Security::MutualTls;
    facts.transport = Carried::Node;
    facts.source = Party {
        workload: None,
        identity: Some(identity.clone()),
        address: Some(client),
    };
    let mut record = pod.node.metrics.connection(facts);
    let caller = Caller {
        pod: &pod,
        peer: client,
        identity: &identity,
        local_ip: target.address.ip().to_canonical(),
    };
    let service = target.service.as_ref();
    let asked = Asked {
        authority: authority.clone(),
        service_host: service.map(|s| s.name.hostname.to_string()),
        baggage: None,
        other_network: None,
    };
    let opened = async {
        let destination = destination(&pod, target, expected).await?;
        let trust = worker.trusts.between(&source, &destination)?;
        let opened = inbound::open(&caller, &asked, &mut record).await?;
        Ok((opened, trust))
    };
    let opened: Result<_, Refusal> = opened.await;
    match opened {
        Ok((opened, trust)) => Ok(Near {
            pod,
            opened,
            trust,
            record,
        }),
        Err(refusal) => {
            let status = refusal.reason.connect_status();
            record.end(refusal.reason, Some(refusal.detail));
            Err(AttemptError::Dial(TunnelError::Refused(status).into()))
        }
    }
}

/// The certificate that proves the source.
fn proven(
    successors: mesh_identity::CertificateReceiver,
    workload: &Workload,
) -> Result<Held, Refusal> {
    let certificate = successors.borrow().clone().ok_or_else(|| {
        let detail = format!("no certificate of {} is held", workload.object_name());
        Refusal::new(Reason::NoIdentity, detail)
    })?;
    Ok(Held {
        certificate,
        successors,
    })
}

/// The destination, too, must be able to prove who it is, and be who is expected.
async fn destination(pod: &Pod, target: &Target, expected: &[SpiffeId]) -> Result<Held, Refusal> {
    let identity = target.workload.as_ref().and_then(|w| w.identity());
    let Some(identity) = identity.filter(|i| expected.contains(i)) else {
        let detail = format!(
            "{} can prove none of the identities expected",
            target.address
        );
        return Err(Refusal::new(Reason::TlsFailure, detail));
    };
    let identities = &pod.node.identities;
    let certificate = identities.certificate(&identity).await;
    Ok(Held {
        certificate: certificate.map_err(|e| Refusal::new(e.reason(), e.to_string()))?,
        successors: identities.watch(&identity),
    })
}

impl Near {
    /// Carries the bytes to their end: one pump, and a record of each side.
    pub(crate) async fn carry(self, stream: TcpStream, record: ConnectionRecord, source: &Pod) {
        let Self {
            pod,
            opened,
            trust,
            record: mut theirs,
        } = self;
        theirs.set_drop_reason(Reason::Drained);
        record.counters().count_also_in(theirs.counters());
        let Opened {
            app,
            admission,
            _permit,
            ..
        } = opened;
        let cut = ended_by(&pod, admission.revoked(), &trust);
        let reason = run_session(stream, app, record, cut, &source.drain).await;
        theirs.end(reason, None);
    }
}

/// What ends the session beside its bytes: the destination's policies, trust in either certificate,
/// and the destination's going away.
async fn ended_by(pod: &Pod, revoked: impl Future<Output = Reason>, trust: &Trust) -> Reason {
    tokio::select! {
        reason = revoked => reason,
        reason = trust.lost() => reason,
        () = pod.drain.forced() => Reason::Drained,
    }
}
