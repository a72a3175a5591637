//! A gRPC echo (`lab.echo.v1`).

use super::echo::echo_server::{Echo, EchoServer};
use super::echo::{EchoReply, EchoRequest};
use super::{EndOnDrop, ScopeExecutor, bind, serve_each};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use mesh_runtime::Scope;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::{Code, Request, Response, Status, Streaming};

/// How the gRPC echo behaves.
#[derive(Debug, Clone)]
pub struct GrpcOptions {
    /// The name it gives itself in answers.
    pub name: String,
}

/// Serves `lab.echo.v1.Echo`.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve_grpc(address: SocketAddr, options: GrpcOptions) -> io::Result<()> {
    serve_grpc_on(bind(address)?, options).await
}

/// As [`serve_grpc`], on a listener.
///
/// # Errors
/// When the listener fails.
pub async fn serve_grpc_on(listener: TcpListener, options: GrpcOptions) -> io::Result<()> {
    let echo = EchoServer::new(Server { name: options.name });
    serve_each(listener, "origin-grpc", move |stream, _| {
        let service = TowerToHyperService::new(echo.clone());
        async move {
            let streams = EndOnDrop(Scope::new());
            hyper::server::conn::http2::Builder::new(ScopeExecutor(streams.0.clone()))
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await
                .map_err(io::Error::other)
        }
    })
    .await
}

#[derive(Debug)]
struct Server {
    name: String,
}

fn reply(
    name: &str,
    request: EchoRequest,
    sequence: u32,
    metadata: &HashMap<String, String>,
) -> Result<EchoReply, Status> {
    match request.fail_with {
        0 => Ok(EchoReply {
            name: name.to_owned(),
            message: request.message,
            sequence,
            metadata: metadata.clone(),
        }),
        code => {
            let code = i32::try_from(code).map_or(Code::Unknown, Code::from_i32);
            Err(Status::new(code, request.message))
        }
    }
}

fn texts(metadata: &MetadataMap) -> HashMap<String, String> {
    metadata
        .iter()
        .filter_map(|entry| match entry {
            KeyAndValueRef::Ascii(key, value) => {
                Some((key.to_string(), value.to_str().ok()?.to_owned()))
            }
            KeyAndValueRef::Binary(..) => None,
        })
        .collect()
}

#[tonic::async_trait]
impl Echo for Server {
    type StreamStream = BoxStream<'static, Result<EchoReply, Status>>;

    async fn unary(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        let metadata = texts(request.metadata());
        reply(&self.name, request.into_inner(), 1, &metadata).map(Response::new)
    }

    async fn stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let metadata = texts(request.metadata());
        let name = self.name.clone();
        let mut sequence = 0;
        let replies = request.into_inner().map(move |message| {
            sequence += 1;
            reply(&name, message?, sequence, &metadata)
        });
        Ok(Response::new(replies.boxed()))
    }
}
