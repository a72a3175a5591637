//! Composition: folder → translation → what is served, and the doors it is served through.

use crate::admin::{self, Pages};
use crate::published::Published;
use crate::serve::{CertificateSettings, Discovery, Door, keep, serve};
use crate::settings::Settings;
use crate::status::StreamStatus;
use crate::tokens::Tokens;
use crate::translate::{Mesh, ObjectStatus, translate};
use crate::watch::{Configuration, Watch};
use anyhow::Context as _;
use mesh_proxy::admin::Common;
use mesh_runtime::{Readiness, Scope};
use mesh_telemetry::{Counter, Gauge, LogHandle, Metrics};
use mesh_tls::ServingTls;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// What the process gives.
pub(crate) struct Inputs {
    /// Owns everything.
    pub(crate) scope: Scope,
    /// Readiness of the process.
    pub(crate) readiness: Readiness,
    /// Metrics of the process.
    pub(crate) metrics: Metrics,
    /// Log level control.
    pub(crate) log: Option<Arc<LogHandle>>,
}

/// Configuration and what became of it.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The objects in force, and the files that are not.
    pub(crate) configuration: Configuration,
    /// Conditions of the objects.
    pub(crate) status: Vec<ObjectStatus>,
    /// What is served.
    pub(crate) published: Arc<Published>,
}

impl State {
    /// The state a configuration leads to; what it shares with this one is not encoded again.
    fn next(&self, configuration: Configuration, mesh: &Mesh) -> Self {
        let translation = translate(&configuration.objects, mesh);
        let published = self
            .published
            .next(&translation.resources, translation.gateway_accounts);
        Self {
            configuration,
            status: translation.status,
            published: Arc::new(published),
        }
    }
}

/// Where the doors are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// Discovery over TLS.
    pub(crate) tls: SocketAddr,
    /// Discovery without TLS.
    pub(crate) plaintext: Option<SocketAddr>,
}

/// Starts the control plane.
///
/// # Errors
/// When the state or configuration folder cannot be used, or an address is taken.
pub(crate) async fn start(settings: &Settings, inputs: &Inputs) -> anyhow::Result<Addresses> {
    let tokens = Arc::new(Tokens::open(&settings.state).context("state folder")?);
    let folder = Watch::open(&settings.config, Some(&settings.state))
        .await
        .with_context(|| format!("configuration folder {}", settings.config.display()))?;
    let first = State::default().next(folder.configuration(), &settings.mesh);
    let counts = Counts::new(&inputs.metrics);
    counts.show(&first);
    // Nothing is served before the first full state is there: an empty answer would make every
    // proxy forget what it knows.
    let (published, served) = watch::channel(first.published.clone());
    let (states, state) = watch::channel(Arc::new(first));
    let streams = Arc::new(StreamStatus::new(&inputs.metrics));
    let common = Common {
        metrics: inputs.metrics.clone(),
        readiness: inputs.readiness.clone(),
        logging: inputs.log.clone(),
    };
    let pages = Pages {
        state,
        streams: streams.clone(),
        common,
    };
    admin::serve(&inputs.scope, settings, &pages).context("admin pages")?;
    let discovery = |keys_allowed| Discovery {
        published: served.clone(),
        tokens: tokens.clone(),
        status: streams.clone(),
        scope: inputs.scope.clone(),
        keys_allowed,
    };
    let addresses = open_doors(settings, inputs, &tokens, discovery)?;
    let mesh = settings.mesh.clone();
    inputs.scope.spawn(
        "configuration",
        follow(folder, mesh, states, published, counts),
    );
    Ok(addresses)
}

fn open_doors(
    settings: &Settings,
    inputs: &Inputs,
    tokens: &Arc<Tokens>,
    discovery: impl Fn(bool) -> Discovery,
) -> anyhow::Result<Addresses> {
    let tls = ServingTls::with_key_exchange(settings.key_exchange)?;
    let certificate = CertificateSettings {
        channel: settings.authority.clone(),
        identity: settings.identity.clone(),
        dns_names: settings.dns_names.clone(),
    };
    let gate = inputs.readiness.gate("serving certificate");
    inputs.scope.spawn(
        "serving certificate",
        keep(certificate, tokens.clone(), tls.clone(), gate),
    );
    let open = |address: SocketAddr, tls: Option<ServingTls>| {
        let discovery = discovery(tls.is_some());
        serve(Door { address, tls }, discovery, &inputs.scope)
            .with_context(|| format!("listening on {address}"))
    };
    let addresses = Addresses {
        tls: open(settings.listen, Some(tls))?,
        plaintext: match settings.plaintext_listen {
            Some(address) => Some(open(address, None)?),
            None => None,
        },
    };
    tracing::info!(tls = %addresses.tls, plaintext = ?addresses.plaintext, names = ?settings.dns_names, "serving discovery");
    Ok(addresses)
}

/// Follows the folder until the task is ended.
async fn follow(
    mut folder: Watch,
    mesh: Mesh,
    states: watch::Sender<Arc<State>>,
    published: watch::Sender<Arc<Published>>,
    counts: Counts,
) {
    loop {
        let configuration = folder.changed().await;
        let next = states.borrow().next(configuration, &mesh);
        counts.show(&next);
        counts.changes.inc();
        tracing::info!(
            objects = next.configuration.objects.ids().len(),
            refused_files = next.configuration.refused.len(),
            "configuration changed"
        );
        published.send_replace(next.published.clone());
        states.send_replace(Arc::new(next));
    }
}

struct Counts {
    changes: Counter,
    refused_files: Gauge,
    objects: Gauge,
    resources: Gauge,
}

impl Counts {
    fn new(metrics: &Metrics) -> Self {
        Self {
            changes: metrics.counter("strata_config_changes", "Changes of the configuration"),
            refused_files: metrics.gauge(
                "strata_config_refused_files",
                "Files that are not in force as they stand",
            ),
            objects: metrics.gauge("strata_config_objects", "Objects in force"),
            resources: metrics.gauge("strata_discovery_resources", "Resources served"),
        }
    }

    fn show(&self, state: &State) {
        let set = |gauge: &Gauge, value: usize| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.refused_files, state.configuration.refused.len());
        set(&self.objects, state.configuration.objects.ids().len());
        set(
            &self.resources,
            state.published.types.values().map(|t| t.len()).sum(),
        );
    }
}
