//! One call to the certificate authority (interop/ca.md, RPC and Client side).

use mesh_grpc::{ChannelError, ChannelSettings};
use mesh_model::SpiffeId;
use mesh_proto::ca::IstioCertificateRequest;
use mesh_proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use mesh_tls::TlsError;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use std::time::Duration;
use tokio::sync::Mutex;
use tonic::transport::Channel;

/// How long one request may take, dial included.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer read: a chain and a bundle of some hundred roots.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Why no certificate came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The authority could not be reached, or the root or token could not be read.
    #[error("certificate authority: {0}")]
    Channel(#[from] ChannelError),
    /// The authority said no.
    #[error("certificate authority: {code}: {message}")]
    Refused {
        /// gRPC status code.
        code: tonic::Code,
        /// Its words.
        message: String,
    },
    /// Key or request could not be made, or the answer cannot be used.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The thread that makes keys broke down.
    #[error("no key was made")]
    NoKey,
    /// No answer within 10 s.
    #[error("certificate authority: no answer within 10 s")]
    Timeout,
}

impl FetchError {
    /// The whole story: a transport error says why only in its causes.
    pub(crate) fn story(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let words = error.to_string();
            if !text.contains(&words) {
                text.push_str(": ");
                text.push_str(&words);
            }
            cause = error.source();
        }
        text
    }
}

struct Dialled {
    channel: Channel,
    /// The root the channel trusts: another one in the file means a new dial.
    root: Option<String>,
}

/// A client of one authority. Its channel is shared by all calls and made anew after a failure or
/// when the root has changed.
pub(crate) struct CaClient {
    settings: ChannelSettings,
    ttl: Duration,
    dialled: Mutex<Option<Dialled>>,
}

impl CaClient {
    pub(crate) fn new(settings: ChannelSettings, ttl: Duration) -> Self {
        Self {
            settings,
            ttl,
            dialled: Mutex::new(None),
        }
    }

    /// Has a request signed; `impersonate` names the identity when it is not the caller's own.
    pub(crate) async fn sign(
        &self,
        csr: String,
        impersonate: Option<&SpiffeId>,
    ) -> Result<Vec<String>, FetchError> {
        match tokio::time::timeout(FETCH_TIMEOUT, self.call(csr, impersonate)).await {
            Ok(result) => result,
            Err(_) => {
                self.hang_up().await;
                Err(FetchError::Timeout)
            }
        }
    }

    async fn call(
        &self,
        csr: String,
        impersonate: Option<&SpiffeId>,
    ) -> Result<Vec<String>, FetchError> {
        let mut request = tonic::Request::new(IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: impersonate.map(impersonation),
        });
        self.settings.authorize(&mut request)?;
        let mut client = IstioCertificateServiceClient::new(self.channel().await?)
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        match client.create_certificate(request).await {
            Ok(answer) => Ok(answer.into_inner().cert_chain),
            Err(status) => {
                if matches!(
                    status.code(),
                    tonic::Code::Unavailable | tonic::Code::Unknown
                ) {
                    self.hang_up().await;
                }
                Err(FetchError::Refused {
                    code: status.code(),
                    message: status.message().chars().take(300).collect(),
                })
            }
        }
    }

    async fn channel(&self) -> Result<Channel, FetchError> {
        let root = match &self.settings.root {
            Some(source) => Some(source.read().map_err(|source| ChannelError::Read {
                what: "root",
                source,
            })?),
            None => None,
        };
        let mut dialled = self.dialled.lock().await;
        if let Some(d) = dialled.as_ref().filter(|d| d.root == root) {
            return Ok(d.channel.clone());
        }
        let channel = self.settings.connect().await?;
        *dialled = Some(Dialled {
            channel: channel.clone(),
            root,
        });
        Ok(channel)
    }

    async fn hang_up(&self) {
        *self.dialled.lock().await = None;
    }
}

fn impersonation(identity: &SpiffeId) -> Struct {
    let value = Value {
        kind: Some(Kind::StringValue(identity.to_string())),
    };
    Struct {
        fields: [("ImpersonatedIdentity".to_owned(), value)].into(),
    }
}
