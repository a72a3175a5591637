//! A client of the gRPC echo.

use super::Target;
use crate::origin::echo::echo_client::EchoClient;
use crate::origin::echo::{EchoReply, EchoRequest};
use anyhow::{Context, Result};
use futures_util::StreamExt;
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tonic::metadata::{AsciiMetadataKey, MetadataMap};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// An answer of the echo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcAnswer {
    /// Who answered.
    pub name: String,
    /// The message given back.
    pub message: String,
    /// Its number within a stream, from 1.
    pub sequence: u32,
    /// Metadata that the server saw.
    pub metadata: HashMap<String, String>,
    /// From the call, or the message before, to this answer.
    pub took: Duration,
}

impl GrpcAnswer {
    fn of(reply: EchoReply, took: Duration) -> Self {
        Self {
            name: reply.name,
            message: reply.message,
            sequence: reply.sequence,
            metadata: reply.metadata,
            took,
        }
    }
}

/// A channel to the echo. It dials at its first call, and again after a loss.
#[derive(Debug, Clone)]
pub struct GrpcClient {
    client: EchoClient<Channel>,
    metadata: MetadataMap,
}

impl GrpcClient {
    /// A client of a target; `authority` is what `:authority` says, such as `echo.example:80`. TLS
    /// targets must offer `h2`.
    ///
    /// # Errors
    /// When the authority is none.
    pub fn new(target: &Target, authority: &str) -> Result<Self> {
        // The scheme only fills `:scheme`: what the connector gives is used as it is.
        let scheme = if target.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let origin: Uri = format!("{scheme}://{authority}")
            .parse()
            .with_context(|| format!("authority '{authority}'"))?;
        let endpoint = Endpoint::from(Uri::from_static("http://target.invalid"))
            .origin(origin)
            .timeout(CALL_TIMEOUT);
        let target = target.clone();
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let target = target.clone();
            async move {
                let connected = target.connect().await;
                connected
                    .map(|(stream, _)| TokioIo::new(stream))
                    .map_err(|e| std::io::Error::other(format!("{e:#}")))
            }
        }));
        Ok(Self {
            client: EchoClient::new(channel),
            metadata: MetadataMap::new(),
        })
    }

    /// The same, sending further metadata.
    ///
    /// # Errors
    /// When name or value cannot be metadata.
    pub fn metadata(mut self, name: &str, value: &str) -> Result<Self> {
        let name: AsciiMetadataKey = name.parse()?;
        self.metadata.insert(name, value.parse()?);
        Ok(self)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request
    }

    /// One message there and back.
    ///
    /// # Errors
    /// The status of the failed call.
    pub async fn unary(&mut self, message: &str) -> Result<GrpcAnswer, Status> {
        self.call(message, Code::Ok).await
    }

    /// A call that the server is asked to fail with a code.
    ///
    /// # Errors
    /// The status of the failed call: the code asked for, when all went well.
    pub async fn fail(&mut self, code: Code) -> Result<GrpcAnswer, Status> {
        self.call("asked to fail", code).await
    }

    async fn call(&mut self, message: &str, code: Code) -> Result<GrpcAnswer, Status> {
        let started = Instant::now();
        let request = self.request(EchoRequest {
            message: message.to_owned(),
            fail_with: u32::try_from(i32::from(code)).unwrap_or_default(),
        });
        let reply = self.client.unary(request).await?;
        Ok(GrpcAnswer::of(reply.into_inner(), started.elapsed()))
    }

    /// A stream of messages, each sent at once, and their answers as they came.
    ///
    /// # Errors
    /// The status of the failed call.
    pub async fn stream(&mut self, messages: &[&str]) -> Result<Vec<GrpcAnswer>, Status> {
        let requests: Vec<EchoRequest> = messages
            .iter()
            .map(|message| EchoRequest {
                message: (*message).to_owned(),
                fail_with: 0,
            })
            .collect();
        let mut before = Instant::now();
        let request = self.request(futures_util::stream::iter(requests));
        let mut replies = self.client.stream(request).await?.into_inner();
        let mut answers = Vec::new();
        while let Some(reply) = replies.next().await {
            let now = Instant::now();
            answers.push(GrpcAnswer::of(reply?, now - before));
            before = now;
        }
        Ok(answers)
    }
}
