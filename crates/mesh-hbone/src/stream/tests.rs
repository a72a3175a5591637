//! Flow control and ends of a stream, over memory, with windows small enough to be felt.

use super::*;
use crate::Windows;
use crate::testing::{Tunnel, paused};
use mesh_runtime::Scope;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// HTTP/2's own minimum for a first window that needs no thought.
const WINDOW: u32 = 65_535;

const WINDOWS: Windows = Windows {
    stream_bytes: WINDOW,
    connection_bytes: 4 * WINDOW,
    frame_bytes_max: 16_384,
    send_buffer_bytes_max: 8_192,
};

/// Both ends of one stream.
async fn pair(scope: &Scope) -> (HboneStream, HboneStream) {
    Tunnel::with_windows(scope, WINDOWS).pair().await
}

/// Writes until nothing more is taken; gives how much was.
async fn fill(stream: &mut HboneStream) -> usize {
    let mut total = 0;
    // The clock stands while anything can still move, so the time passes only when nothing does.
    let second = std::time::Duration::from_secs(1);
    while let Ok(count) = tokio::time::timeout(second, stream.write(&[7; 4096])).await {
        total += count.unwrap();
    }
    total
}

#[test]
fn a_reader_that_stops_holds_its_writer_within_window_and_buffer() {
    paused(async |scope| {
        let (mut near, mut far) = pair(&scope).await;
        let room = usize::try_from(WINDOW).unwrap() + WINDOWS.send_buffer_bytes_max;
        let taken = fill(&mut near).await;
        assert!(taken <= room, "{taken} bytes were taken, {room} fit");
        // What is read makes room for as much again.
        let mut half = vec![0; taken / 2];
        far.read_exact(&mut half).await.unwrap();
        assert!(fill(&mut near).await >= taken / 4);
    });
}

#[test]
fn bytes_that_were_sent_before_the_end_are_read_before_it() {
    paused(async |scope| {
        let (mut near, mut far) = pair(&scope).await;
        near.write_all(&[1; 1000]).await.unwrap();
        near.shutdown().await.unwrap();
        near.shutdown().await.unwrap();
        let late = near.write(b"late").await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::BrokenPipe);
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, [1; 1000]);
        assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);
        far.write_all(b"the other half lives").await.unwrap();
        far.shutdown().await.unwrap();
        all.clear();
        near.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"the other half lives");
    });
}

#[test]
fn a_writer_learns_that_the_reader_is_gone() {
    paused(async |scope| {
        let (mut near, far) = pair(&scope).await;
        drop(far);
        let mut last = Ok(());
        for _ in 0..100 {
            last = near.write_all(&[7; 4096]).await;
            tokio::task::yield_now().await;
        }
        assert!(last.is_err());
    });
}

#[test]
fn a_tunnel_that_breaks_is_an_error_on_both_halves_and_no_orderly_end() {
    paused(async |scope| {
        let inner = scope.child();
        let (mut near, _far) = pair(&inner).await;
        inner.cancel();
        inner.finished().await;
        assert!(near.read(&mut [0; 8]).await.is_err());
        assert!(near.write(b"x").await.is_err());
    });
}
