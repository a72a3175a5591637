//! Puts the parts together and takes them down again.

use crate::proxy::{Node, Parts};
use crate::settings::{Role, Settings};
use crate::worker::{self, Worker};
use crate::{admin, inbound, local, network_gateway, outbound, plaintext, waypoint};
use anyhow::Context as _;
use mesh_identity::{CertificateReceiver, Identities};
use mesh_model::{PORT_HBONE, PORT_INBOUND_PLAINTEXT, PORT_OUTBOUND};
use mesh_proxy::admin::Pages;
use mesh_runtime::{Context, ReadyGate};
use mesh_telemetry::{LogHandle, Metrics, Tracer, TracerSettings};
use mesh_tls::TlsPolicy;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

/// Runs until a signal ends the process.
///
/// # Errors
/// When the process does not come up; the text names the part.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    mesh_proxy::run(&settings.process.clone(), |context, logging| async move {
        start(settings, &context, Some(logging)).await.map(drop)
    })
}

/// Starts everything; what it gives is for tests.
///
/// # Errors
/// When an address cannot be bound.
pub(crate) async fn start(
    settings: Settings,
    context: &Context,
    logging: Option<Arc<LogHandle>>,
) -> anyhow::Result<Arc<Node>> {
    tracing::info!(?settings, "starting");
    let shown = format!("{settings:#?}");
    let tracer = tracer(&settings)?;
    let xds = context.readiness.gate("discovery");
    let certified = context.readiness.gate("certificate");
    let listening = context.readiness.gate("listeners");
    let metrics = Metrics::new(settings.proxy.role.as_str());
    let discovery = mesh_discovery::start_proxy(
        settings.source,
        settings.process.policy_compatibility,
        &metrics,
        &context.scope,
        xds,
    );
    let (known, local) = watch::channel(None);
    let follow = local::follow(
        settings.proxy.info.clone(),
        discovery.snapshots.clone(),
        known,
    );
    context.scope.spawn("local workload", follow);
    let lists = settings.process.tls.crl_path.as_deref();
    let policy = TlsPolicy::new(mesh_proxy::revocations(lists, &metrics, &context.scope)?);
    let parts = Parts {
        snapshots: discovery.snapshots,
        local,
        identities: Identities::start_with(settings.certificates, policy, &context.scope),
        metrics,
        tracer,
    };
    let node = Arc::new(Node::new(settings.proxy, parts, context));
    let first = first_certificate(node.certificate.clone(), certified);
    context.scope.spawn("first certificate", first);
    let pages = Pages {
        metrics: node.metrics.clone(),
        discovery: discovery.status,
        readiness: context.readiness.clone(),
        drain: context.drain.clone(),
        logging,
    };
    let dump = admin::config_dump(node.clone(), shown);
    mesh_proxy::admin::serve(&context.scope, settings.process.addresses, pages, dump)
        .context("admin pages")?;
    listen(&node, context).await?;
    listening.open();
    Ok(node)
}

/// Ready with the first certificate; a lost one does not take readiness back, as live tunnels go on.
async fn first_certificate(mut certificate: CertificateReceiver, gate: ReadyGate) {
    if certificate.wait_for(Option::is_some).await.is_ok() {
        gate.open();
    }
}

fn tracer(settings: &Settings) -> anyhow::Result<Tracer> {
    let Some(collector) = &settings.tracing else {
        return Ok(Tracer::off());
    };
    let channel = collector
        .connect_lazy()
        .context("OTEL_EXPORTER_OTLP_ENDPOINT")?;
    let (role, info) = (settings.proxy.role.as_str(), &settings.proxy.info);
    let mut named = TracerSettings::new(format!("{}.{}-{role}", info.name, info.namespace));
    named.sample_ratio = settings.trace_sample_ratio;
    Ok(Tracer::otlp(channel, named)?)
}

/// Opens the listeners on every worker; one that cannot be opened ends the start.
async fn listen(node: &Arc<Node>, context: &Context) -> anyhow::Result<()> {
    let mut waiting = Vec::new();
    for handle in context.workers.handles() {
        let (done, opened) = oneshot::channel();
        let node = node.clone();
        handle.run(move || async move { start_worker(node, done) });
        waiting.push(opened);
    }
    for opened in waiting {
        opened.await.context("a worker has stopped")??;
    }
    Ok(())
}

fn start_worker(node: Arc<Node>, done: oneshot::Sender<anyhow::Result<()>>) {
    let scope = node.scope.clone();
    let opened = match node.proxy.role {
        Role::Sidecar => open(&node, [PORT_OUTBOUND, PORT_INBOUND_PLAINTEXT, PORT_HBONE]).map(
            |[out, plain, tunnels]| {
                let worker = Rc::new(Worker::new(node));
                scope.spawn_local("outbound", outbound::run(worker.clone(), out));
                scope.spawn_local("plaintext", plaintext::run(worker.clone(), plain));
                scope.spawn_local("inbound", inbound::run(worker, tunnels));
            },
        ),
        Role::Waypoint => open(&node, [PORT_HBONE]).map(|[tunnels]| {
            let worker = Rc::new(Worker::new(node));
            scope.spawn_local("waypoint", waypoint::run(worker, tunnels));
        }),
        Role::NetworkGateway => open(&node, [PORT_HBONE]).map(|[tunnels]| {
            let worker = Rc::new(Worker::new(node));
            scope.spawn_local("network gateway", network_gateway::run(worker, tunnels));
        }),
    };
    // Nobody waits: the start was given up.
    drop(done.send(opened));
}

fn open<const N: usize>(node: &Node, ports: [u16; N]) -> anyhow::Result<[TcpListener; N]> {
    let all: Result<Vec<TcpListener>, (u16, io::Error)> = ports
        .into_iter()
        .map(|port| worker::listen(node, port).map_err(|error| (port, error)))
        .collect();
    let all = all.map_err(|(port, error)| anyhow::anyhow!("port {port}: {error}"))?;
    all.try_into()
        .map_err(|_| anyhow::anyhow!("a listener is missing"))
}
