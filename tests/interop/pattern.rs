//! A stream of bytes that both ends know: what arrives is compared byte by byte, in order.

use anyhow::{Result, ensure};
use std::sync::LazyLock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A prime, so that no frame or buffer size divides the period: what is lost or swapped shows.
const PERIOD: usize = 65_521;
/// Bytes of one write and of the largest read.
const PIECE: usize = 32 * 1024;

/// Two periods, so that every piece is one slice.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut period = Vec::with_capacity(PERIOD * 2);
    for _ in 0..PERIOD {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        period.push(state.to_le_bytes()[3]);
    }
    let again = period.clone();
    period.extend(again);
    period
});

/// The bytes at an offset of the stream.
fn at(offset: u64, length: usize) -> &'static [u8] {
    let phase = usize::try_from(offset % PERIOD as u64).unwrap_or_default();
    &BYTES[phase..phase + length]
}

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
