//! Puts the parts together and takes them down again.

use crate::admin;
use crate::listeners::{self, Builder, Table};
use crate::settings::Settings;
use crate::worker::{Shared, Unbound, Worker};
use anyhow::Context as _;
use mesh_discovery::SnapshotReceiver;
use mesh_identity::{CertificateSource, Identities};
use mesh_l4::Ejector;
use mesh_proxy::Addresses;
use mesh_proxy::admin::Pages;
use mesh_runtime::{Context, ReadyGate, Workers};
use mesh_telemetry::{LogHandle, Metrics, Tracer, TracerSettings};
use mesh_tls::{CertificateReceiver, TlsPolicy};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Runs until a signal ends the process.
///
/// # Errors
/// When the process does not come up; the text names the part.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    mesh_proxy::run(&settings.process.clone(), |context, logging| async move {
        start(settings, &context, Some(logging)).map(drop)
    })
}

/// Starts everything; gives where the admin pages are.
pub(crate) fn start(
    settings: Settings,
    context: &Context,
    logging: Option<Arc<LogHandle>>,
) -> anyhow::Result<Addresses> {
    tracing::info!(?settings, "starting");
    let shown = format!("{settings:#?}");
    if matches!(settings.certificates, CertificateSource::SelfSigned) {
        tracing::warn!("FAKE_CA: no other process trusts our certificate");
    }
    let tracer = tracer(&settings).context("OTEL_EXPORTER_OTLP_ENDPOINT")?;
    let (configuration, certificate_gate, listeners_gate) = (
        context.readiness.gate("configuration"),
        context.readiness.gate("certificate"),
        context.readiness.gate("listeners"),
    );
    let metrics = Metrics::new("ingress-gateway");
    let discovery = mesh_discovery::start_proxy(
        settings.source,
        settings.process.policy_compatibility,
        &metrics,
        &context.scope,
        configuration.clone(),
    );
    let lists = settings.process.tls.crl_path.as_deref();
    let policy = TlsPolicy::new(mesh_proxy::revocations(lists, &metrics, &context.scope)?);
    let identities = Identities::start_with(settings.certificates, policy, &context.scope);
    let certificate = identities.watch(&settings.edge.identity);
    let watching = follow_certificate(certificate.clone(), certificate_gate);
    context.scope.spawn("certificate", watching);

    let builder = Builder::new(settings.edge.clone());
    let (sender, table) = watch::channel(builder.current());
    let metrics = Metrics::new("ingress-gateway");
    let shared = Arc::new(Shared {
        ejector: Ejector::new(&metrics),
        edge: settings.edge,
        snapshots: discovery.snapshots.clone(),
        table,
        certificate,
        metrics,
        tracer,
        drain: context.drain.clone(),
        scope: context.scope.clone(),
        connections: context.connections.clone(),
        unbound: Unbound::default(),
    });
    let pages = Pages {
        metrics: shared.metrics.clone(),
        discovery: discovery.status,
        readiness: context.readiness.clone(),
        drain: context.drain.clone(),
        logging,
    };
    let dump = admin::config_dump(shared.clone(), identities, shown);
    let addresses =
        mesh_proxy::admin::serve(&context.scope, settings.process.addresses, pages, dump)
            .context("admin pages")?;

    let control = Control {
        builder,
        sender,
        workers: context.workers.clone(),
        shared,
    };
    let listening = control.run(discovery.snapshots, configuration, listeners_gate);
    context.scope.spawn("listeners", listening);
    Ok(addresses)
}

fn tracer(settings: &Settings) -> anyhow::Result<Tracer> {
    let Some(channel) = &settings.tracing else {
        return Ok(Tracer::off());
    };
    let gateway = &settings.edge.gateway;
    let service = format!("{}.{}", gateway.name, gateway.namespace);
    let channel = channel.connect_lazy()?;
    Ok(Tracer::otlp(channel, TracerSettings::new(service))?)
}

/// The gate is open while a certificate is held.
async fn follow_certificate(mut certificate: CertificateReceiver, gate: ReadyGate) {
    loop {
        let held = certificate.borrow_and_update().is_some();
        if held {
            gate.open();
        } else {
            gate.close();
        }
        if certificate.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps the table of ports up to date, on the control thread.
struct Control {
    builder: Builder,
    sender: watch::Sender<Arc<Table>>,
    workers: Workers,
    shared: Arc<Shared>,
}

impl Control {
    /// Opens no port before the first whole configuration is there; half of one would answer
    /// clients with errors that are not theirs.
    async fn run(
        mut self,
        mut snapshots: SnapshotReceiver,
        configuration: ReadyGate,
        gate: ReadyGate,
    ) {
        configuration.opened().await;
        self.update(&mut snapshots);
        let (applied, mut heard) = mpsc::channel(self.workers.count());
        let shared = self.shared.clone();
        self.workers.on_each(move |_| {
            let worker = Worker::new(shared.clone());
            listeners::follow(worker, applied.clone())
        });
        // Every worker answers once; the channel ends when all have, or have stopped.
        while heard.recv().await.is_some() {}
        gate.open();
        while snapshots.changed().await.is_ok() {
            self.update(&mut snapshots);
        }
    }

    fn update(&mut self, snapshots: &mut SnapshotReceiver) {
        let snapshot = snapshots.borrow_and_update().clone();
        if let Some(table) = self.builder.update(&snapshot) {
            self.sender.send_replace(table);
        }
    }
}

#[cfg(test)]
mod tests;
