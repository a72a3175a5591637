//! A WebSocket echo.

use super::{bind, serve_each};
use futures_util::{SinkExt, StreamExt};
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Longest message taken, either side.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// How the WebSocket echo behaves.
#[derive(Debug, Clone, Default)]
pub struct WebsocketOptions {
    /// Sent as the first text message of each connection; empty: nothing.
    pub greeting: String,
}

/// Gives every text and binary message back, after an HTTP/1.1 upgrade on any path.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve_websocket(address: SocketAddr, options: WebsocketOptions) -> io::Result<()> {
    serve_websocket_on(bind(address)?, options).await
}

/// As [`serve_websocket`], on a listener.
///
/// # Errors
/// When the listener fails.
pub async fn serve_websocket_on(
    listener: TcpListener,
    options: WebsocketOptions,
) -> io::Result<()> {
    serve_each(listener, "origin-websocket", move |stream, _| {
        let greeting = options.greeting.clone();
        async move {
            match echo(stream, greeting).await {
                Ok(()) | Err(Error::ConnectionClosed) => Ok(()),
                Err(Error::Io(error)) => Err(error),
                Err(error) => Err(io::Error::other(error)),
            }
        }
    })
    .await
}

async fn echo(stream: TcpStream, greeting: String) -> Result<(), Error> {
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX));
    let mut socket = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await?;
    if !greeting.is_empty() {
        socket.send(Message::text(greeting)).await?;
    }
    while let Some(message) = socket.next().await {
        let message = message?;
        // The library answers pings and the closing handshake by itself.
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}
