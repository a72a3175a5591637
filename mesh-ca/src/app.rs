//! Composition: the authority, its gRPC server with its own certificate, the node check's source.

use crate::admin::{self, Pages};
use crate::authenticate::Authenticator;
use crate::csr::Csr;
use crate::grant::Grant;
use crate::incoming::incoming;
use crate::issuer;
use crate::roots::Authority;
use crate::service::{Counts, Mesh, Service};
use crate::settings::Settings;
use anyhow::Context as _;
use mesh_discovery::Discovery;
use mesh_net::{ListenOptions, listen};
use mesh_proto::ca::istio_certificate_service_server::IstioCertificateServiceServer;
use mesh_proxy::admin::Common;
use mesh_runtime::{Drain, Readiness, RunError, RunOptions, Scope};
use mesh_telemetry::{LogHandle, Metrics};
use mesh_tls::{ServingCertificate, ServingTls, new_serving_csr};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Most connections at once; more wait in the backlog. A proxy needs one.
const CONNECTIONS_MAX: usize = 2048;
/// Requests under way on one connection: twice what a proxy sends at once.
const CALLS_PER_CONNECTION_MAX: usize = 16;
/// HTTP/2 streams of one connection.
const STREAMS_MAX: u32 = 64;
/// Largest request: a CSR and its metadata.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Largest header block: a token is the largest part of it.
const HEADER_BYTES_MAX: u32 = 32 * 1024;
/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that answers no ping for this long is gone.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// A connection is closed after this time, so that silent strangers do not hold places for ever.
const CONNECTION_AGE: (Duration, Duration) = (Duration::from_secs(1800), Duration::from_secs(10));
/// Lifetime of our own serving certificate, and the pause after a failed renewal.
const OWN_TTL: Duration = Duration::from_secs(24 * 3600);
const OWN_RETRY: Duration = Duration::from_secs(60);

/// What the process gives.
#[derive(Clone)]
pub(crate) struct Inputs {
    /// Owns listeners, timers and the discovery client.
    pub(crate) scope: Scope,
    /// Owns what drains.
    pub(crate) connections: Scope,
    pub(crate) drain: Drain,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
    pub(crate) log: Option<Arc<LogHandle>>,
}

/// Runs the authority until a signal ends it.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn run(settings: &Settings, log: &Arc<LogHandle>) -> anyhow::Result<()> {
    let options = RunOptions {
        // There is no data plane here; the runtime wants one worker.
        workers: 1,
        drain_deadline: settings.drain_deadline,
    };
    mesh_runtime::run(options, |context| async move {
        let inputs = Inputs {
            scope: context.scope,
            connections: context.connections,
            drain: context.drain,
            readiness: context.readiness,
            metrics: Metrics::new("mesh-ca"),
            log: Some(log.clone()),
        };
        start(settings, &inputs).map(drop)
    })
    .map_err(|error| match error {
        RunError::App(error) => error,
        other => anyhow::anyhow!("{other}"),
    })
}

/// Starts the authority; gives the address of its gRPC service.
///
/// # Errors
/// When the state directory cannot be used or an address is taken.
pub(crate) fn start(settings: &Settings, inputs: &Inputs) -> anyhow::Result<SocketAddr> {
    let authority = Authority::open(
        &settings.state,
        &settings.rules.trust_domain,
        settings.root_algorithm,
    )
    .context("state directory")?;
    let authority = Arc::new(authority);
    tracing::info!(
        subject = authority.subject,
        serial = authority.serial,
        "signing"
    );
    let (mesh, discovery) = discover(settings, &inputs.scope);
    let authenticator = Authenticator::new(
        &settings.token_keys,
        settings.token_audiences.clone(),
        settings.token_issuers.clone(),
    );
    if !authenticator.has_keys() {
        tracing::warn!(path = %settings.token_keys.display(), "no token is taken until there are keys");
    }
    let common = Common {
        metrics: inputs.metrics.clone(),
        readiness: inputs.readiness.clone(),
        logging: inputs.log.clone(),
    };
    let pages = Pages {
        authority: authority.clone(),
        common,
        discovery,
    };
    admin::serve(&inputs.scope, settings, &pages).context("admin pages")?;
    let tls = own_certificate(settings, authority.clone(), &inputs.scope)?;
    let service = Service {
        authenticator,
        rules: settings.rules.clone(),
        authority,
        mesh,
        counts: Counts::new(&inputs.metrics),
    };
    let address = serve(settings.listen, tls, service, inputs)
        .with_context(|| format!("listening on {}", settings.listen))?;
    tracing::info!(%address, names = settings.own.1.join(","), "serving");
    Ok(address)
}

/// Subscribes to the control plane, when there is one. Its first state is no condition of our
/// readiness: the control plane itself needs a certificate of ours before it can serve.
fn discover(
    settings: &Settings,
    scope: &Scope,
) -> (Option<Mesh>, Option<mesh_discovery::StatusReceiver>) {
    let Some(source) = settings.discovery.clone() else {
        tracing::info!("no control plane: node proxies cannot ask in the name of workloads");
        return (None, None);
    };
    let known = Readiness::new().gate("state of the mesh");
    let Discovery { snapshots, status } = mesh_discovery::start(source, scope, known.clone());
    (Some(Mesh { snapshots, known }), Some(status))
}

/// Signs our own serving certificate and keeps it renewed.
fn own_certificate(
    settings: &Settings,
    authority: Arc<Authority>,
    scope: &Scope,
) -> anyhow::Result<ServingTls> {
    let tls = ServingTls::with_key_exchange(settings.key_exchange)?;
    let grant = Grant {
        identity: settings.own.0.clone(),
        dns_names: settings.own.1.clone(),
        ttl: OWN_TTL,
    };
    let mut current = sign_own(&authority, &grant).context("own serving certificate")?;
    tls.set(&current);
    let kept = tls.clone();
    scope.spawn("own certificate", async move {
        loop {
            sleep_until(current.renew_at()).await;
            match sign_own(&authority, &grant) {
                Ok(next) => {
                    kept.set(&next);
                    current = next;
                    tracing::info!("own serving certificate renewed");
                }
                Err(error) => tracing::error!(%error, "own serving certificate not renewed"),
            }
            // Also after a success: a signer about to end gives certificates that are due at once.
            sleep_until(SystemTime::now() + OWN_RETRY).await;
        }
    });
    Ok(tls)
}

/// Sleeps until a moment of the wall clock, which may jump or stand still.
async fn sleep_until(at: SystemTime) {
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(OWN_RETRY)).await;
    }
}

fn sign_own(authority: &Authority, grant: &Grant) -> anyhow::Result<ServingCertificate> {
    let (csr, key) = new_serving_csr(&grant.identity, &grant.dns_names)?;
    let csr = Csr::read(&csr)?;
    let issued = issuer::issue(authority, grant, &csr, SystemTime::now())?;
    Ok(ServingCertificate::from_chain(key, &issued.chain)?)
}

fn serve(
    address: SocketAddr,
    tls: ServingTls,
    service: Service,
    inputs: &Inputs,
) -> std::io::Result<SocketAddr> {
    let listener = listen(&ListenOptions::new(address))?;
    let address = listener.local_addr()?;
    let server = tonic::transport::Server::builder()
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .timeout(CALL_TIMEOUT)
        .http2_keepalive_interval(Some(KEEP_ALIVE.0))
        .http2_keepalive_timeout(Some(KEEP_ALIVE.1))
        .max_connection_age(CONNECTION_AGE.0)
        .max_connection_age_grace(CONNECTION_AGE.1)
        .add_service(
            IstioCertificateServiceServer::new(service)
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        );
    let (drain, forced) = (inputs.drain.clone(), inputs.drain.clone());
    let gate = inputs.readiness.gate("certificate service");
    gate.open();
    inputs.connections.spawn("certificate service", async move {
        let stream = incoming(listener, tls, CONNECTIONS_MAX);
        let serving = server.serve_with_incoming_shutdown(stream, async move {
            drain.started().await;
        });
        tokio::select! {
            result = serving => if let Err(error) = result {
                tracing::error!(%error, "the certificate service has ended");
            },
            () = forced.forced() => {}
        }
        gate.close();
    });
    Ok(address)
}

#[cfg(test)]
mod tests;
