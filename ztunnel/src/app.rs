//! Puts the parts together and takes them down again.

use crate::admin;
use crate::hostnames::Found;
use crate::local::Locals;
use crate::node::Node;
use crate::pods::{self, PodNetns, PodSpec, Pods};
use crate::settings::{self, PodSource, Settings};
use anyhow::Context as _;
use mesh_identity::{CertificateSource, Identities};
use mesh_proxy::admin::Pages;
use mesh_proxy::{Addresses, WorkloadInfo};
use mesh_runtime::{Context, Readiness};
use mesh_telemetry::{LogHandle, Metrics};
use mesh_tls::TlsPolicy;
use std::sync::Arc;

/// Runs until a signal ends the process.
///
/// # Errors
/// When the process does not come up; the text names the part.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    mesh_proxy::run(&settings.process.clone(), |context, logging| async move {
        start(settings, &context, Some(logging)).await.map(drop)
    })
}

/// Starts everything; what it gives is for admin pages and tests.
pub(crate) async fn start(
    settings: Settings,
    context: &Context,
    logging: Option<Arc<LogHandle>>,
) -> anyhow::Result<(Arc<Node>, Addresses)> {
    tracing::info!(?settings, "starting");
    let idle = settings::without_effect();
    if !idle.is_empty() {
        tracing::warn!(names = idle.join(", "), "variables taken without effect");
    }
    let shown = format!("{settings:#?}");
    if matches!(settings.certificates, CertificateSource::SelfSigned) {
        tracing::warn!("FAKE_CA: certificates of a throw-away root protect nothing");
    }
    let metrics = Metrics::new("ztunnel");
    let (handed_on, pods_gate) = (
        context.readiness.gate("discovery"),
        context.readiness.gate("pods"),
    );
    let full = Readiness::new().gate("first full state");
    let discovery = mesh_discovery::start_proxy(
        settings.source,
        settings.process.policy_compatibility,
        &metrics,
        &context.scope,
        full.clone(),
    );
    let lists = settings.process.tls.crl_path.as_deref();
    let policy = TlsPolicy::new(mesh_proxy::revocations(lists, &metrics, &context.scope)?);
    let identities = Identities::start_with(settings.certificates, policy, &context.scope);
    let node = Arc::new(Node::new(
        settings.proxy,
        settings.limits,
        metrics,
        Found {
            snapshots: discovery.snapshots,
            full,
            handed_on,
        },
        identities,
        context,
    ));
    let follow = Locals::follow(node.locals.clone(), node.snapshots.clone());
    context.scope.spawn("local workloads", follow);

    let pages = Pages {
        metrics: node.metrics.clone(),
        discovery: discovery.status,
        readiness: context.readiness.clone(),
        drain: context.drain.clone(),
        logging,
    };
    let dump = admin::config_dump(node.clone(), shown);
    let addresses =
        mesh_proxy::admin::serve(&context.scope, settings.process.addresses, pages, dump)
            .context("admin pages")?;

    let mut pods = Pods::new(node.clone(), context.workers.clone());
    match settings.pods {
        PodSource::Folder(folder) => {
            let follow = pods::follow_folder(pods, folder, pods_gate);
            context.scope.spawn("pods", follow);
        }
        PodSource::Agent(path) => {
            let follow = pods::follow_agent(pods, path, pods_gate, context.drain.clone());
            context.scope.spawn("pods", follow);
        }
        PodSource::Dedicated(info) => {
            let spec = dedicated(info);
            pods.run(spec).await.context("dedicated workload")?;
            pods_gate.open();
        }
    }
    Ok((node, addresses))
}

fn dedicated(info: WorkloadInfo) -> PodSpec {
    PodSpec {
        uid: "dedicated".into(),
        info,
        netns: PodNetns::Current,
    }
}

#[cfg(test)]
mod tests;
