//! Switching protocols: WebSocket and the like, with half-close.

use super::support::{dial, read_until, run, shop, status, talk, text};
use http::Response;
use mesh_model::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ASK: &str = "GET /chat HTTP/1.1\r\nhost: shop\r\nconnection: Upgrade\r\n\
    upgrade: websocket\r\nsec-websocket-key: x\r\n\r\n";
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
    upgrade: websocket\r\n\r\n";

#[test]
fn bytes_flow_both_ways_after_a_switch_and_each_way_ends_alone() {
    run(|mut world| async move {
        let origin = world.accept(|mut tcp, _| async move {
            let head = read_until(&mut tcp, "\r\n\r\n").await;
            assert!(head.contains("connection: upgrade\r\n"), "{head}");
            assert!(head.contains("upgrade: websocket\r\n"), "{head}");
            // The first bytes of the new protocol come with the head.
            tcp.write_all(&[SWITCH, b"welcome"].concat()).await.unwrap();
            let mut all = Vec::new();
            tcp.read_to_end(&mut all).await.unwrap();
            tcp.write_all(b"you said ").await.unwrap();
            tcp.write_all(&all).await.unwrap();
        });
        world.service(&shop(), &[origin]);
        let mut client = dial(world.proxy()).await;
        // So do the client's.
        client
            .write_all(format!("{ASK}he").as_bytes())
            .await
            .unwrap();
        let answer = read_until(&mut client, "welcome").await;
        assert_eq!(status(&answer), 101);
        assert!(answer.contains("upgrade: websocket\r\n"), "{answer}");
        client.write_all(b"llo").await.unwrap();
        client.shutdown().await.unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "you said hello");
        let record = world.record().await;
        assert_eq!(record["response_code"], 101);
        assert_eq!(record["reason"], "ok");
        assert_eq!(record["bytes_received"], 5);
        assert_eq!(record["bytes_sent"], 21);
    });
}

#[test]
fn a_refused_switch_is_an_ordinary_answer() {
    run(|mut world| async move {
        let origin = world.origin(|_| async {
            let mut response = Response::new(text("no"));
            *response.status_mut() = http::StatusCode::UPGRADE_REQUIRED;
            response
        });
        world.service(&shop(), &[origin]);
        let mut client = dial(world.proxy()).await;
        client.write_all(ASK.as_bytes()).await.unwrap();
        let answer = read_until(&mut client, "\r\n\r\nno").await;
        assert_eq!(status(&answer), 426);
        assert_eq!(world.record().await["response_code"], 426);
    });
}

#[test]
fn a_switch_nobody_asked_for_is_502() {
    run(|mut world| async move {
        let origin = world.accept(|mut tcp, _| async move {
            read_until(&mut tcp, "\r\n\r\n").await;
            tcp.write_all(SWITCH).await.unwrap();
            drop(tcp.read(&mut [0]).await);
        });
        world.service(&shop(), &[origin]);
        let request = "GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";
        assert_eq!(status(&talk(world.proxy(), request).await), 502);
        assert_eq!(world.record().await["reason"], Reason::UpstreamReset.code());
    });
}

#[test]
fn a_forced_drain_ends_the_tunnel() {
    run(|mut world| async move {
        let origin = world.accept(|mut tcp, _| async move {
            read_until(&mut tcp, "\r\n\r\n").await;
            tcp.write_all(SWITCH).await.unwrap();
            drop(tcp.read(&mut [0]).await);
        });
        world.service(&shop(), &[origin]);
        let drain = world.drain.clone();
        let mut client = dial(world.proxy()).await;
        client.write_all(ASK.as_bytes()).await.unwrap();
        read_until(&mut client, "\r\n\r\n").await;
        // The first step leaves it alone, the second ends it.
        drain.start();
        drain.force();
        let mut rest = Vec::new();
        drop(client.read_to_end(&mut rest).await);
        assert_eq!(world.record().await["reason"], "drained");
    });
}
