//! The serving certificate, from the mesh's own certificate authority.

use crate::tokens::{Caller, Tokens};
use mesh_grpc::{ChannelSettings, TextSource};
use mesh_model::SpiffeId;
use mesh_proto::ca::IstioCertificateRequest;
use mesh_proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use mesh_runtime::ReadyGate;
use mesh_tls::{ServingCertificate, ServingTls, new_serving_csr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The first wait after a failure: the authority comes up about when we do.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest wait after a failure.
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// How long the certificate is to be valid.
const VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// How long the token of one request is valid.
const TOKEN_TTL: Duration = Duration::from_secs(600);
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Whom to ask, and for what.
pub(crate) struct CertificateSettings {
    /// The authority. The token is put in here.
    pub(crate) channel: ChannelSettings,
    /// Our identity.
    pub(crate) identity: SpiffeId,
    /// The names the certificate is to carry.
    pub(crate) dns_names: Vec<String>,
}

/// Keeps a valid certificate in use: asks at once, and again half way through its validity.
pub(crate) async fn keep(
    settings: CertificateSettings,
    tokens: Arc<Tokens>,
    tls: ServingTls,
    gate: ReadyGate,
) {
    let mut retry = RETRY_FIRST;
    loop {
        let wait = match request(&settings, &tokens).await {
            Ok(certificate) => {
                tracing::info!(names = ?certificate.names(), "serving certificate received");
                tls.set(&certificate);
                gate.open();
                retry = RETRY_FIRST;
                let renew_at = certificate.renew_at();
                renew_at
                    .duration_since(SystemTime::now())
                    .unwrap_or(RETRY_LONGEST)
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    wait_ms = retry.as_millis(),
                    "no serving certificate"
                );
                let wait = retry;
                retry = (retry * 2).min(RETRY_LONGEST);
                wait
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn request(
    settings: &CertificateSettings,
    tokens: &Tokens,
) -> anyhow::Result<ServingCertificate> {
    let (csr, key) = new_serving_csr(&settings.identity, &settings.dns_names)?;
    let caller = Caller {
        namespace: settings.identity.namespace().into(),
        service_account: settings.identity.service_account().into(),
        pod: None,
        node: None,
    };
    let mut channel = settings.channel.clone();
    channel.token = Some(TextSource::Literal(tokens.issue(&caller, TOKEN_TTL)?));
    let mut request = tonic::Request::new(IstioCertificateRequest {
        csr,
        validity_duration: i64::try_from(VALIDITY.as_secs())?,
        metadata: None,
    });
    channel.authorize(&mut request)?;
    request.set_timeout(REQUEST_TIMEOUT);
    let mut client = IstioCertificateServiceClient::new(channel.connect().await?);
    let answer = client.create_certificate(request).await?.into_inner();
    Ok(ServingCertificate::from_chain(key, &answer.cert_chain)?)
}
