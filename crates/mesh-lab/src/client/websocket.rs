//! A client of the WebSocket echo.

use super::{Stream, Target};
use crate::origin::MESSAGE_BYTES_MAX;
use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

/// How long one message may take.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// An open WebSocket.
#[derive(Debug)]
pub struct Websocket<S>(WebSocketStream<S>);

impl Websocket<Stream> {
    /// Connects and upgrades.
    ///
    /// # Errors
    /// When nobody answers, or the upgrade is refused: the message holds the status.
    pub async fn open(target: &Target, host: &str, path: &str) -> Result<Self> {
        let (stream, _) = target.connect().await?;
        Self::over(stream, host, path).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Websocket<S> {
    /// Upgrades a connection made elsewhere.
    ///
    /// # Errors
    /// When the upgrade is refused: the message holds the status.
    pub async fn over(stream: S, host: &str, path: &str) -> Result<Self> {
        let request = format!("ws://{host}{path}").into_client_request()?;
        let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX));
        let upgrade = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
        match timeout(MESSAGE_TIMEOUT, upgrade).await? {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(Error::Http(response)) => bail!("the upgrade was answered {}", response.status()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a text and waits for the next text.
    ///
    /// # Errors
    /// When the connection ends, or nothing comes within 10 s.
    pub async fn echo(&mut self, text: &str) -> Result<String> {
        self.0.send(Message::text(text)).await?;
        self.next().await
    }

    /// Waits for the next text.
    ///
    /// # Errors
    /// When the connection ends, or nothing comes within 10 s.
    pub async fn next(&mut self) -> Result<String> {
        let waiting = async {
            while let Some(message) = self.0.next().await {
                if let Message::Text(text) = message? {
                    return Ok(text.to_string());
                }
            }
            bail!("the server closed")
        };
        timeout(MESSAGE_TIMEOUT, waiting)
            .await
            .context("no message came")?
    }

    /// Closes as the protocol asks: sends a close and waits for the server's.
    ///
    /// # Errors
    /// When the server does not answer the close.
    pub async fn close(mut self) -> Result<()> {
        self.0.close(None).await?;
        let waiting = async {
            while let Some(message) = self.0.next().await {
                match message {
                    Ok(_) => {}
                    Err(Error::ConnectionClosed) => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        Ok(timeout(MESSAGE_TIMEOUT, waiting).await??)
    }
}

/// Opens a WebSocket, sends each text and gives what came back, then closes.
///
/// # Errors
/// When one of these fails.
pub async fn websocket_echo(
    target: &Target,
    host: &str,
    path: &str,
    texts: &[&str],
) -> Result<Vec<String>> {
    let mut socket = Websocket::open(target, host, path).await?;
    let mut answers = Vec::new();
    for text in texts {
        answers.push(socket.echo(text).await?);
    }
    socket.close().await?;
    Ok(answers)
}
