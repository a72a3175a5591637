//! Clients of plain bytes: exchanges, server-first greetings, and what became of a connection.

use super::Target;
use crate::origin;
use anyhow::{Context, Result, ensure};
use std::io;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Most bytes read of an answer.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Size of one read of a greeting.
const GREETING_BYTES: usize = 1024;

/// The greeting of a server that speaks first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstBytes {
    /// From the start of the connect to the first byte.
    pub after: Duration,
    /// From the end of the connect to the first byte.
    pub after_connect: Duration,
    /// What came with the first read.
    pub bytes: Vec<u8>,
}

/// Connects, says nothing, and waits for the server's first bytes.
///
/// # Errors
/// When nobody answers, the server ends instead of speaking, or says nothing in time.
pub async fn first_bytes(target: &Target, wait: Duration) -> Result<FirstBytes> {
    let started = Instant::now();
    let (mut stream, _) = target.connect().await?;
    let connected = Instant::now();
    let mut bytes = vec![0; GREETING_BYTES];
    let count = timeout(wait, stream.read(&mut bytes))
        .await
        .with_context(|| format!("the server said nothing within {wait:?}"))??;
    ensure!(count > 0, "the server ended without a word");
    bytes.truncate(count);
    Ok(FirstBytes {
        after: started.elapsed(),
        after_connect: connected.elapsed(),
        bytes,
    })
}

/// Sends bytes, ends its own side, and reads the answer to its end, both at once.
///
/// # Errors
/// When nobody answers, the connection breaks off, or the time is over.
pub async fn tcp_exchange(target: &Target, bytes: &[u8], wait: Duration) -> Result<Vec<u8>> {
    let (stream, _) = target.connect().await?;
    let (mut read, mut write) = tokio::io::split(stream);
    let send = async {
        write.write_all(bytes).await?;
        write.shutdown().await
    };
    let both = async { tokio::try_join!(send, read_all(&mut read)) };
    let ((), answer) = timeout(wait, both)
        .await
        .with_context(|| format!("no end of the answer within {wait:?}"))??;
    Ok(answer)
}

async fn read_all(read: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    read.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// What became of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// These bytes came back before the end.
    Answered(Vec<u8>),
    /// The connection was made and ended without a byte.
    Ended,
    /// The connection was made, or its handshake begun, and then reset or refused.
    Reset,
    /// No connection was made; the text says why.
    Refused(String),
    /// A connection was made and neither bytes nor an end came in time.
    Silent,
}

/// Connects, sends bytes, ends its own side, and says what became of it: denied connections end in
/// several ways, and tests want to know which.
pub async fn tcp_outcome(target: &Target, bytes: &[u8], wait: Duration) -> Outcome {
    let (stream, _) = match target.connect().await {
        Ok(connected) => connected,
        Err(error) => return Outcome::Refused(format!("{error:#}")),
    };
    let (mut read, mut write) = tokio::io::split(stream);
    let exchange = async {
        let sent = async {
            write.write_all(bytes).await?;
            write.shutdown().await
        };
        let mut answer = Vec::new();
        let mut limited = (&mut read).take(ANSWER_BYTES_MAX);
        let (sent, received) = tokio::join!(sent, limited.read_to_end(&mut answer));
        match received.map(|_| ()).and(sent) {
            _ if !answer.is_empty() => Outcome::Answered(answer),
            Ok(()) => Outcome::Ended,
            Err(_) => Outcome::Reset,
        }
    };
    timeout(wait, exchange).await.unwrap_or(Outcome::Silent)
}

/// Asks a counter origin how many connections and bytes arrived.
///
/// # Errors
/// When it is not reached or does not answer as a counter.
pub async fn count_of(target: &Target, wait: Duration) -> Result<(u64, u64)> {
    let question = format!("{}\n", origin::COUNTER_QUESTION);
    let answer = tcp_exchange(target, question.as_bytes(), wait).await?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let numbers = text
        .trim()
        .split_once(' ')
        .and_then(|(connections, bytes)| Some((connections.parse().ok()?, bytes.parse().ok()?)));
    numbers.with_context(|| format!("'{text}' is not a counter's answer"))
}
