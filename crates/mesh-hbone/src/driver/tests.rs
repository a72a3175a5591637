//! How a connection's task treats its streams, over memory.

use crate::testing::{Tunnel, paused};
use crate::{PoolSettings, ServerSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn small_messages_of_many_streams_leave_in_one_write() {
    paused(async |scope| {
        let mut tunnel = Tunnel::new(&scope);
        let mut pairs = Vec::new();
        for _ in 0..50 {
            pairs.push(tunnel.pair().await);
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        let before = tunnel.writes();
        for (near, _) in &mut pairs {
            // Taken at once: the connection's task does not run in between.
            near.write_all(&[7; 100]).await.unwrap();
        }
        for (_, far) in &mut pairs {
            let mut message = [0; 100];
            far.read_exact(&mut message).await.unwrap();
            assert_eq!(message, [7; 100]);
        }
        assert_eq!(tunnel.writes() - before, 1);
    });
}

#[test]
fn what_was_written_before_a_stream_was_dropped_arrives() {
    paused(async |scope| {
        let mut tunnel = Tunnel::new(&scope);
        let (mut near, mut far) = tunnel.pair().await;
        near.write_all(&[3; 200_000]).await.unwrap();
        drop(near);
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        assert!(all == [3; 200_000], "{} bytes", all.len());
        drop(far);
        // And the stream is gone on both sides: the connection is released as an idle one.
        let idle = PoolSettings::default().idle_release;
        tokio::time::sleep(idle * 2).await;
        assert_eq!(tunnel.connections(), 0);
    });
}

#[test]
fn a_dropped_stream_that_cannot_be_sent_is_reset_in_time() {
    paused(async |scope| {
        let mut tunnel = Tunnel::new(&scope);
        let (mut near, far) = tunnel.pair().await;
        let window = usize::try_from(ServerSettings::default().windows.stream_bytes).unwrap();
        near.write_all(&vec![3; window + 1000]).await.unwrap();
        drop(near);
        // Nobody reads at the far side: the rest waits, and is thrown away in the end.
        let idle = PoolSettings::default().idle_release;
        tokio::time::sleep(idle * 2).await;
        assert_eq!(tunnel.connections(), 0);
        drop(far);
    });
}

#[test]
fn a_keep_alive_is_answered_and_an_idle_tunnel_with_a_stream_lives_on() {
    paused(async |scope| {
        let mut tunnel = Tunnel::new(&scope);
        let (mut near, mut far) = tunnel.pair().await;
        let before = tunnel.writes();
        tokio::time::sleep(std::time::Duration::from_secs(1000)).await;
        // A PING of ours and the answer to one of theirs, every ten seconds.
        let writes = tunnel.writes() - before;
        assert!((90..=210).contains(&writes), "{writes} writes");
        far.write_all(b"still here").await.unwrap();
        let mut word = [0; 10];
        near.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"still here");
    });
}
