//! A socket on each side of a tunnel, over real TCP.

use super::*;
use crate::Windows;
use crate::testing::{Tunnel, in_time, tcp_pair};
use tokio::io::AsyncWriteExt;

/// An application on each side; the sessions between them; how they end.
async fn between(
    tunnel: &mut Tunnel,
) -> (
    TcpStream,
    TcpStream,
    impl Future<Output = [PumpEnd; 2]> + use<>,
) {
    let ((client, mut down), (mut up, server)) = (tcp_pair().await, tcp_pair().await);
    let (mut near, mut far) = tunnel.pair().await;
    let ends = async move {
        let (sent, received) = (Counters::new(), Counters::new());
        let near = async {
            let end = join(&mut down, &mut near, Side::Downstream, &sent).await;
            drop((down, near));
            end
        };
        let far = async {
            let end = join(&mut up, &mut far, Side::Upstream, &received).await;
            drop((up, far));
            end
        };
        let ends = tokio::join!(near, far);
        assert_eq!(sent.sent(), received.sent());
        assert_eq!(sent.received(), received.received());
        [ends.0, ends.1]
    };
    (client, server, ends)
}

#[test]
fn bytes_and_ends_pass_both_ways() {
    in_time(async |scope| {
        let mut tunnel = Tunnel::new(&scope);
        let (client, server, ends) = between(&mut tunnel).await;
        let up: Vec<u8> = (0..3_000_001_u32).map(|i| i.to_le_bytes()[1]).collect();
        let down: Vec<u8> = (0..2_000_003_u32).map(|i| i.to_le_bytes()[0]).collect();
        let talk = |mut tcp: TcpStream, say: Vec<u8>| async move {
            let (mut read, mut write) = tcp.split();
            let mut heard = Vec::new();
            let writing = async {
                // Pieces of all sizes: some share memory, some are copied.
                for piece in say.chunks(40_000) {
                    write.write_all(piece).await.unwrap();
                }
                write.shutdown().await.unwrap();
            };
            tokio::join!(writing, async {
                read.read_to_end(&mut heard).await.unwrap();
            });
            heard
        };
        let (at_client, at_server, ends) =
            tokio::join!(talk(client, down.clone()), talk(server, up.clone()), ends);
        assert!(at_server == down && at_client == up);
        assert!(
            matches!(ends, [PumpEnd::Complete, PumpEnd::Complete]),
            "{ends:?}"
        );
    });
}

#[test]
fn one_direction_ends_and_the_other_goes_on() {
    in_time(async |scope| {
        let mut tunnel = Tunnel::new(&scope);
        let (mut client, mut server, ends) = between(&mut tunnel).await;
        let talk = async move {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"question");
            server.write_all(b"late answer").await.unwrap();
            server.shutdown().await.unwrap();
            heard.clear();
            client.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"late answer");
        };
        let ((), ends) = tokio::join!(talk, ends);
        assert!(
            matches!(ends, [PumpEnd::Complete, PumpEnd::Complete]),
            "{ends:?}"
        );
    });
}

#[test]
fn what_came_before_a_reset_is_delivered() {
    in_time(async |scope| {
        let mut tunnel = Tunnel::new(&scope);
        let (mut client, mut down) = tcp_pair().await;
        let (mut near, mut far) = tunnel.pair().await;
        far.write_all(&[9; 100_000]).await.unwrap();
        drop(far);
        let counters = Counters::new();
        let talk = async move {
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard.len(), 100_000);
        };
        let joined = join(&mut down, &mut near, Side::Downstream, &counters);
        let (end, ()) = tokio::join!(joined, talk);
        // RST_STREAM with CANCEL reads as an end; the client closed as well.
        assert!(matches!(end, PumpEnd::Complete), "{end:?}");
    });
}

#[test]
fn an_application_that_does_not_read_stops_its_own_stream_only() {
    in_time(async |scope| {
        let mut tunnel = Tunnel::new(&scope);
        let (mut stuck, _silent, ends) = between(&mut tunnel).await;
        scope.spawn_local("stuck session", async move {
            ends.await;
        });
        scope.spawn_local("stuck writer", async move {
            let chunk = vec![0; 64 << 10];
            while stuck.write_all(&chunk).await.is_ok() {}
        });
        let (mut client, mut server, ends) = between(&mut tunnel).await;
        let talk = async move {
            let (mut read, mut write) = client.split();
            let mut heard = vec![0; 8 << 20];
            let writing = async {
                write.write_all(&vec![5; 8 << 20]).await.unwrap();
                write.shutdown().await.unwrap();
            };
            tokio::join!(writing, async {
                server.read_exact(&mut heard).await.unwrap();
                server.shutdown().await.unwrap();
            });
            assert_eq!(read.read(&mut [0; 1]).await.unwrap(), 0);
        };
        let (ends, ()) = tokio::join!(ends, talk);
        assert!(
            matches!(ends, [PumpEnd::Complete, PumpEnd::Complete]),
            "{ends:?}"
        );
    });
}

#[test]
fn what_came_before_a_reset_is_delivered_though_the_application_still_talks() {
    // More than the sockets between take at once.
    const BYTES: u32 = 24 << 20;
    let windows = Windows {
        stream_bytes: 2 * BYTES,
        connection_bytes: 2 * BYTES,
        ..Windows::default()
    };
    in_time(async |scope| {
        let mut tunnel = Tunnel::with_windows(&scope, windows);
        let (mut client, mut down) = tcp_pair().await;
        let (mut near, mut far) = tunnel.pair().await;
        far.write_all(&vec![9; BYTES as usize]).await.unwrap();
        drop(far);
        // Until the reset is there: nothing more is taken.
        while near.put_slice(b".").is_ok() {
            tokio::task::yield_now().await;
        }
        client.write_all(b"not heard any more").await.unwrap();
        let counters = Counters::new();
        let joined = async {
            let end = join(&mut down, &mut near, Side::Downstream, &counters).await;
            drop(down);
            end
        };
        let talk = async move {
            let (mut heard, mut piece) = (0, vec![0; 1 << 16]);
            loop {
                match client.read(&mut piece).await {
                    Ok(0) | Err(_) => return heard,
                    Ok(read) => heard += read,
                }
            }
        };
        let (end, heard) = tokio::join!(joined, talk);
        assert_eq!(heard, BYTES as usize);
        let failed = matches!(end, PumpEnd::Failed { side, .. } if side == Side::Upstream);
        assert!(
            failed,
            "what the application said was not delivered: {end:?}"
        );
    });
}
