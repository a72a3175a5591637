//! Small questions to programs inside a place: does a port answer, what does a URL say.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_net::ConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::place::Place;

/// Longest a question may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer taken: a configuration dump of a lab is far below.
const ANSWER_LENGTH_MAX: u64 = 16 << 20;

/// An HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Connects from inside a place.
///
/// # Errors
/// When nobody answers within 5 s.
pub async fn connect(place: &Place, address: SocketAddr) -> Result<TcpStream> {
    let options = ConnectOptions {
        netns: Some(place.netns().clone()),
        timeout: QUESTION_TIMEOUT,
        ..ConnectOptions::default()
    };
    Ok(mesh_net::connect(address, &options).await?)
}

/// Asks a URL from inside a place: an admin, metrics or readiness endpoint.
///
/// # Errors
/// When nobody answers HTTP within 5 s.
pub async fn get(place: &Place, address: SocketAddr, path: &str) -> Result<Answer> {
    request(place, address, "GET", path).await
}

/// Like [`get`], with POST and an empty body.
///
/// # Errors
/// When nobody answers HTTP within 5 s.
pub async fn post(place: &Place, address: SocketAddr, path: &str) -> Result<Answer> {
    request(place, address, "POST", path).await
}

async fn request(place: &Place, address: SocketAddr, method: &str, path: &str) -> Result<Answer> {
    let exchange = async {
        let mut stream = connect(place, address).await?;
        // HTTP/1.0: the answer is not chunked and ends with the connection.
        let head =
            format!("{method} {path} HTTP/1.0\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream
            .take(ANSWER_LENGTH_MAX)
            .read_to_end(&mut bytes)
            .await?;
        parse(&String::from_utf8_lossy(&bytes))
    };
    let Ok(outcome) = timeout(QUESTION_TIMEOUT, exchange).await else {
        bail!(
            "{address}{path} did not answer within {} s",
            QUESTION_TIMEOUT.as_secs()
        );
    };
    outcome.with_context(|| format!("{method} {address}{path} in {}", place.name()))
}

fn parse(text: &str) -> Result<Answer> {
    let (head, body) = text.split_once("\r\n\r\n").context("not an HTTP answer")?;
    let mut words = head.split(' ');
    ensure!(
        words.next().is_some_and(|word| word.starts_with("HTTP/1.")),
        "not an HTTP answer"
    );
    let status = words.next().unwrap_or_default();
    let status = status.trim_end().parse().context("no HTTP status")?;
    Ok(Answer {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let answer = parse("HTTP/1.0 503 Service Unavailable\r\na: b\r\n\r\nxds").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (503, "xds"));
        assert!(parse("").is_err());
        assert!(parse("SSH-2.0\r\n\r\n").is_err());
        assert!(parse("HTTP/1.1 x\r\n\r\n").is_err());
    }
}
