//! Composition: the folder of pods, their rules, and the socket of the node's proxy.

use crate::admin;
use crate::pods::{Pods, Shown};
use crate::rules::Rules;
use crate::settings::Settings;
use anyhow::Context as _;
use mesh_net::SeqPacketListener;
use mesh_proxy::admin::Common;
use mesh_runtime::{Context, RunError, RunOptions, Scope};
use mesh_telemetry::{LogHandle, Metrics};
use mesh_zds::{Hub, PodFiles};
use std::sync::Arc;
use std::time::Duration;

/// Pause before a folder that cannot be read is looked at again.
const FOLDER_RETRY: Duration = Duration::from_millis(500);

/// Runs the agent until a signal ends it.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn run(settings: Settings, log: &Arc<LogHandle>) -> anyhow::Result<()> {
    let options = RunOptions {
        // There is no data plane here; the runtime wants one worker.
        workers: 1,
        drain_deadline: Duration::ZERO,
    };
    let start = |context| async move { start(settings, &context, log.clone()).await };
    mesh_runtime::run(options, start).map_err(|error| match error {
        RunError::App(error) => error,
        other => anyhow::anyhow!("{other}"),
    })
}

async fn start(settings: Settings, context: &Context, log: Arc<LogHandle>) -> anyhow::Result<()> {
    tracing::info!(?settings, "starting");
    let metrics = Metrics::new("node-agent");
    let (hub, shown) = (Hub::new(), Shown::default());
    let common = Common {
        metrics: metrics.clone(),
        readiness: context.readiness.clone(),
        logging: Some(log),
    };
    let at = settings.addresses;
    admin::serve(&context.scope, at, &common, shown.clone()).context("admin pages")?;
    show_status(&hub, &metrics, &context.scope);

    let rules = Rules::new(settings.redirection.clone());
    let mut pods = Pods::new(hub.clone(), rules, shown, &metrics);
    let mut files = PodFiles::new(settings.pods.clone());
    // A proxy ends every pod that the first snapshot does not name: there is none before the pods
    // are known.
    pods.keep(first_look(&mut files).await);
    let listener = SeqPacketListener::bind(&settings.socket)
        .with_context(|| settings.socket.display().to_string())?;
    let serve = hub.serve(listener, context.scope.clone());
    context.scope.spawn("proxies", serve);
    context.scope.spawn("pods", pods.follow(files));
    Ok(())
}

/// The pods that there are, once the folder can be read.
async fn first_look(files: &mut PodFiles) -> std::collections::BTreeMap<String, mesh_zds::PodFile> {
    let mut told = false;
    loop {
        match files.look().await {
            Ok(pods) => return pods,
            Err(error) if !told => {
                tracing::error!(folder = %files.folder().display(), %error, "the pods cannot be read; no proxy is served");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(FOLDER_RETRY).await;
    }
}

fn show_status(hub: &Hub, metrics: &Metrics, scope: &Scope) {
    let pods = metrics.gauge("node_agent_pods", "Pods known");
    let proxies = metrics.gauge("node_agent_proxies", "Node proxies connected");
    let mut status = hub.status();
    scope.spawn("hub status", async move {
        loop {
            let now = *status.borrow_and_update();
            pods.set(i64::try_from(now.pods).unwrap_or(i64::MAX));
            proxies.set(i64::try_from(now.proxies).unwrap_or(i64::MAX));
            if status.changed().await.is_err() {
                return;
            }
        }
    });
}
