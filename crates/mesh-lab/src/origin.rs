//! Servers of every protocol, for the demo and the tests: what pods run behind the mesh.
//!
//! Each `serve_*` listens on an address and serves until its future is dropped, which ends its
//! connections too; each `serve_*_on` does the same with a listener made elsewhere, such as on a
//! free port or in another network namespace.

mod counter;
mod grpc;
mod http;
mod lines;
mod mysql;
mod websocket;

pub(crate) use counter::QUESTION as COUNTER_QUESTION;
pub use counter::{Count, CounterOptions, serve_counter, serve_counter_on};
pub use grpc::{GrpcOptions, serve_grpc, serve_grpc_on};
pub(crate) use http::ScopeExecutor;
pub use http::{HttpEcho, HttpOptions, NextCall, NextEcho, serve_http, serve_http_on};
pub use lines::{
    SmtpOptions, TcpOptions, serve_smtp, serve_smtp_on, serve_tcp_echo, serve_tcp_echo_on,
};
pub use mysql::{MysqlOptions, serve_mysql, serve_mysql_on};
pub(crate) use websocket::MESSAGE_BYTES_MAX;
pub use websocket::{WebsocketOptions, serve_websocket, serve_websocket_on};

use mesh_net::{ListenOptions, listen};
use mesh_runtime::Scope;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Most connections an origin serves at a time; more wait in the backlog.
const CONNECTIONS_MAX: usize = 4096;

/// The messages of `lab.echo.v1`, shared by server and client.
pub(crate) mod echo {
    #![allow(
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        clippy::all,
        clippy::pedantic,
        clippy::restriction,
        reason = "generated"
    )]
    tonic::include_proto!("lab.echo.v1");
}

/// Opens a listener for an origin; port 0 takes a free one. Needs a tokio runtime around it.
///
/// # Errors
/// When the address cannot be listened on.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    listen(&ListenOptions::new(address))
}

/// Ends the tasks of a scope when its owner is dropped.
#[derive(Debug)]
pub(crate) struct EndOnDrop(pub(crate) Scope);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Takes connections for ever and runs each in a task of its own. What goes wrong on one connection
/// is its client's to see, and a debug line here.
async fn serve_each<F, Fut>(listener: TcpListener, name: &'static str, serve: F) -> io::Result<()>
where
    F: Fn(TcpStream, SocketAddr) -> Fut,
    Fut: Future<Output = io::Result<()>> + Send + 'static,
{
    let tasks = EndOnDrop(Scope::new());
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = free.clone().acquire_owned().await else {
            return Ok(());
        };
        let (stream, peer) = mesh_net::accept(&listener).await?;
        let serving = serve(stream, peer);
        tasks.0.spawn(name, async move {
            if let Err(error) = serving.await {
                tracing::debug!(origin = name, %peer, %error, "a connection ended early");
            }
            drop(permit);
        });
    }
}
