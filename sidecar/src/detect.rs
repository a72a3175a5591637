//! What a connection speaks, found without breaking protocols in which the server speaks first.
//!
//! Three ways, by what is at hand: only the client may begin ([`by_client`]); the server is
//! connected already ([`with_server`]); or a client that is silent for a moment makes us connect
//! the server and see who begins ([`within`]). Bytes read on the way are never lost.

use mesh_l7::HttpVersion;
use mesh_model::{AppProtocol, Reason};
use mesh_net::{FirstSpeaker, Prefixed, Protocol, first_speaker};
use mesh_plan::Refusal;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is spoken.
pub(crate) enum Found<D, U> {
    /// HTTP, and the server's side when it is connected.
    Http(HttpVersion, Prefixed<D>, Option<Prefixed<U>>),
    /// Anything else, likewise.
    Bytes(Prefixed<D>, Option<Prefixed<U>>),
}

/// What a declaration says about a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Declared {
    /// HTTP: the client begins.
    Http,
    /// Not HTTP.
    Bytes,
    /// Nothing: it is found out.
    Unknown,
}

impl From<AppProtocol> for Declared {
    fn from(protocol: AppProtocol) -> Self {
        match protocol {
            AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => Self::Http,
            AppProtocol::Tcp | AppProtocol::Tls => Self::Bytes,
            AppProtocol::Unknown => Self::Unknown,
        }
    }
}

/// Waits for the client, however long it takes.
///
/// # Errors
/// [`Reason::DownstreamReset`].
pub(crate) async fn by_client<D, U>(down: Prefixed<D>) -> Result<Found<D, U>, Refusal>
where
    D: AsyncRead + AsyncWrite + Unpin,
{
    decided(down, None).await
}

/// Waits for whichever side begins.
///
/// # Errors
/// [`Reason::DownstreamReset`] or [`Reason::UpstreamReset`].
pub(crate) async fn with_server<D, U>(
    mut down: Prefixed<D>,
    mut up: Prefixed<U>,
) -> Result<Found<D, U>, Refusal>
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + Unpin,
{
    // Whose side failed is not told; a reset by the server is seen again by the session.
    match first_speaker(&mut down, &mut up)
        .await
        .map_err(|e| lost(&e))?
    {
        FirstSpeaker::Upstream => Ok(Found::Bytes(down, Some(up))),
        FirstSpeaker::Downstream => decided(down, Some(up)).await,
    }
}

/// Gives the client a moment to begin; then `dial`s the server and waits for whichever begins.
///
/// # Errors
/// Those of `dial`, [`Reason::DownstreamReset`] or [`Reason::UpstreamReset`].
pub(crate) async fn within<D, U, F>(
    down: D,
    grace: Duration,
    dial: F,
) -> Result<Found<D, U>, Refusal>
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + Unpin,
    F: Future<Output = Result<U, Refusal>>,
{
    let mut down = Prefixed::new(down, Vec::new());
    let mut nobody = Prefixed::new(Nobody, Vec::new());
    let begun = tokio::time::timeout(grace, first_speaker(&mut down, &mut nobody)).await;
    match begun {
        Ok(begun) => {
            begun.map_err(|e| lost(&e))?;
            decided(down, None).await
        }
        Err(_) => with_server(down, Prefixed::new(dial.await?, Vec::new())).await,
    }
}

async fn decided<D, U>(down: Prefixed<D>, up: Option<Prefixed<U>>) -> Result<Found<D, U>, Refusal>
where
    D: AsyncRead + AsyncWrite + Unpin,
{
    let (protocol, down) = down.detect().await.map_err(|e| lost(&e))?;
    Ok(match protocol {
        Protocol::Http1 => Found::Http(HttpVersion::Http1, down, up),
        Protocol::Http2 => Found::Http(HttpVersion::Http2, down, up),
        Protocol::Tls | Protocol::Opaque => Found::Bytes(down, up),
    })
}

fn lost(error: &io::Error) -> Refusal {
    Refusal::new(Reason::DownstreamReset, error.to_string())
}

/// A side that never speaks.
struct Nobody;

impl AsyncRead for Nobody {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Waited for beside a side that does speak, and under a timeout.
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    const GRACE: Duration = Duration::from_millis(2);

    async fn never() -> Result<DuplexStream, Refusal> {
        std::future::pending().await
    }

    #[tokio::test]
    async fn a_client_that_begins_is_known_without_a_server() {
        for (text, http) in [("GET / HTTP/1.1\r\n", true), ("\x16\x03\x01", false)] {
            let (mut client, down) = duplex(64);
            client.write_all(text.as_bytes()).await.unwrap();
            match within(down, GRACE, never()).await.unwrap() {
                Found::Http(version, down, up) => {
                    assert!(up.is_none());
                    assert!(http, "{text}");
                    assert_eq!(version, HttpVersion::Http1);
                    assert_eq!(down.prefix(), text.as_bytes());
                }
                Found::Bytes(down, up) => {
                    assert!(!http && up.is_none(), "{text}");
                    assert_eq!(down.prefix(), text.as_bytes());
                }
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_begins_is_heard() {
        let (_client, down) = duplex(64);
        let (mut server, up) = duplex(64);
        server.write_all(b"220 ready").await.unwrap();
        let found = within(down, GRACE, async { Ok(up) }).await.unwrap();
        let Found::Bytes(_, Some(up)) = found else {
            panic!("not bytes with a server");
        };
        assert_eq!(up.prefix(), b"220 ready");
    }

    #[tokio::test]
    async fn a_client_that_begins_late_is_still_http() {
        let (mut client, down) = duplex(64);
        let (_server, up) = duplex(64);
        let dial = async {
            client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            Ok(up)
        };
        let found = within(down, GRACE, dial).await.unwrap();
        assert!(matches!(found, Found::Http(HttpVersion::Http1, _, Some(_))));
    }

    #[tokio::test]
    async fn a_failed_dial_is_told() {
        let (_client, down) = duplex(64);
        let dial = async { Err::<DuplexStream, _>(Refusal::new(Reason::ConnectFailed, "refused")) };
        let refusal = within(down, GRACE, dial).await.err().unwrap();
        assert_eq!(refusal.reason, Reason::ConnectFailed);
    }
}
