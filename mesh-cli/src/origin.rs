//! `mesh origin`: the servers that the demo's pods run.

use crate::settings::{OriginKind, OriginSettings};
use anyhow::{Context, Result};
use mesh_lab::origin::{
    GrpcOptions, HttpOptions, MysqlOptions, NextCall, SmtpOptions, TcpOptions, WebsocketOptions,
    serve_grpc, serve_http, serve_mysql, serve_smtp, serve_tcp_echo, serve_websocket,
};
use std::process::ExitCode;

/// Serves until it is killed.
pub(crate) fn run(settings: OriginSettings) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let listen = settings.listen;
    runtime
        .block_on(serve(settings))
        .with_context(|| format!("listening on {listen}"))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(settings: OriginSettings) -> std::io::Result<()> {
    let OriginSettings {
        kind,
        listen,
        name,
        next,
        payload,
    } = settings;
    match kind {
        OriginKind::Http => {
            let next = next.map(|url| NextCall { url, host: None });
            serve_http(
                listen,
                HttpOptions {
                    name,
                    payload,
                    next,
                },
            )
            .await
        }
        OriginKind::Grpc => serve_grpc(listen, GrpcOptions { name }).await,
        OriginKind::Websocket => serve_websocket(listen, WebsocketOptions::default()).await,
        OriginKind::Smtp => serve_smtp(listen, SmtpOptions { name }).await,
        OriginKind::Mysql => {
            serve_mysql(
                listen,
                MysqlOptions {
                    version: format!("8.4.0-{name}"),
                },
            )
            .await
        }
        OriginKind::Tcp => serve_tcp_echo(listen, TcpOptions { greeting: payload }).await,
    }
}
