//! The stream of bytes that both ends know, sent to an end and compared to an end.

use crate::bytes::{PIECE, at};
use anyhow::{Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Sends so many bytes of the stream and ends the direction.
pub(crate) async fn send(stream: &mut (impl AsyncWrite + Unpin), total: u64) -> Result<()> {
    let mut sent = 0;
    while sent < total {
        let length = usize::try_from(total - sent).map_or(PIECE, |left| left.min(PIECE));
        stream.write_all(at(sent, length)).await?;
        sent += length as u64;
    }
    stream.shutdown().await?;
    Ok(())
}

/// Reads to the end and gives how many bytes came.
pub(crate) async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Result<u64> {
    let mut buffer = vec![0; PIECE];
    let mut received = 0;
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(received);
        }
        ensure!(
            buffer[..count] == *at(received, count),
            "other bytes than were sent, within {count} bytes after {received}"
        );
        received += count as u64;
    }
}
