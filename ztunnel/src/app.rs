//! Puts the parts together and takes them down again.

use crate::local::Locals;
use crate::node::Node;
use crate::pods::{self, PodSpec, Pods};
use crate::settings::{Certificates, PodSource, Settings};
use crate::{admin, settings};
use anyhow::Context as _;
use mesh_identity::{CertificateSource, Identities};
use mesh_runtime::{Context, RunOptions};
use mesh_telemetry::{LogHandle, Metrics};
use std::sync::Arc;

/// Runs until a signal ends the process.
///
/// # Errors
/// When the process does not come up; the text names the part.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    let logging = mesh_telemetry::init_logging(settings.log_format, &settings.log_filter)
        .context("logging")?;
    let logging = Arc::new(logging);
    mesh_tls::install_provider();
    let options = RunOptions {
        workers: settings.workers,
        drain_deadline: settings.drain_deadline,
    };
    let handle = logging.clone();
    let ran = mesh_runtime::run(options, |context| async move {
        start(settings, &context, Some(handle)).await.map(drop)
    });
    // Dropped last: it waits until what was logged is written.
    drop(logging);
    ran.map_err(|e| match e {
        mesh_runtime::RunError::App(error) => error,
        other @ mesh_runtime::RunError::Runtime(_) => anyhow::anyhow!("{other}"),
    })
}

/// Starts everything; what it gives is for admin pages and tests.
pub(crate) async fn start(
    settings: Settings,
    context: &Context,
    logging: Option<Arc<LogHandle>>,
) -> anyhow::Result<(Arc<Node>, admin::Addresses)> {
    tracing::info!(?settings, "starting");
    let shown = format!("{settings:#?}");
    let metrics = Metrics::new("ztunnel");
    let (discovery_gate, pods_gate) = (
        context.readiness.gate("discovery"),
        context.readiness.gate("pods"),
    );
    let discovery = mesh_discovery::start(settings.source, &context.scope, discovery_gate);
    let identities = Identities::start(certificates(settings.certificates), &context.scope);
    let node = Arc::new(Node::new(
        settings.proxy,
        settings.limits,
        metrics,
        discovery.snapshots.clone(),
        identities,
        context,
    ));
    let follow = Locals::follow(node.locals.clone(), discovery.snapshots.clone());
    context.scope.spawn("local workloads", follow);

    let pages = admin::Pages {
        node: node.clone(),
        discovery: discovery.status,
        readiness: context.readiness.clone(),
        settings: shown,
        logging,
    };
    let addresses = admin::Addresses {
        admin: settings.admin_address,
        metrics: settings.metrics_address,
        readiness: settings.readiness_address,
    };
    let addresses = admin::serve(pages, &context.scope, addresses).context("admin pages")?;

    let mut pods = Pods::new(node.clone(), context.workers.clone());
    match settings.pods {
        PodSource::Folder(folder) => {
            let follow = pods::follow(pods, folder, pods_gate);
            context.scope.spawn("pods", follow);
        }
        PodSource::Dedicated(info) => {
            let spec = dedicated(info);
            pods.start(spec).await.context("dedicated workload")?;
            pods_gate.open();
        }
    }
    Ok((node, addresses))
}

fn dedicated(info: settings::WorkloadInfo) -> PodSpec {
    PodSpec {
        uid: "dedicated".into(),
        info,
        netns: None,
    }
}

fn certificates(from: Certificates) -> CertificateSource {
    match from {
        Certificates::SelfSigned => {
            tracing::warn!("FAKE_CA: certificates of a throw-away root protect nothing");
            CertificateSource::SelfSigned
        }
        Certificates::Ca {
            channel,
            impersonate,
            ttl,
        } => CertificateSource::Ca {
            channel,
            impersonate,
            ttl,
        },
    }
}

#[cfg(test)]
mod tests;
