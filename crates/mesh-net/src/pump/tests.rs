//! The pump over real sockets and over streams that misbehave.

use super::*;
use crate::{ConnectOptions, ListenOptions, accept, connect, listen};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::TcpStream;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = listen(&ListenOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let to = listener.local_addr().unwrap();
    let client = connect(to, &ConnectOptions::default()).await.unwrap();
    let (server, _) = accept(&listener).await.unwrap();
    (client, server)
}

#[tokio::test]
async fn the_answer_to_a_half_closed_request_arrives_whole() {
    let ((mut client, mut down), (mut up, mut server)) = (pair().await, pair().await);
    let counters = Counters::new();
    let request = vec![7_u8; 1_000_000];
    let client_side = async {
        client.write_all(&request).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let server_side = async {
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        // Only now, with the request's end seen, does the answer begin.
        server.write_all(&vec![9; 300_000]).await.unwrap();
        server.shutdown().await.unwrap();
        got
    };
    let (end, answer, got) = tokio::join!(
        pump(&mut down, &mut up, &counters),
        client_side,
        server_side
    );
    assert!(matches!(end, PumpEnd::Complete), "{end:?}");
    assert_eq!(got, request);
    assert_eq!(answer, vec![9; 300_000]);
    assert_eq!((counters.sent(), counters.received()), (1_000_000, 300_000));
}

#[tokio::test]
async fn the_side_that_fails_is_named() {
    for failing in [Side::Downstream, Side::Upstream] {
        let ((client, mut down), (mut up, server)) = (pair().await, pair().await);
        let (gone, kept) = match failing {
            Side::Downstream => (client, server),
            Side::Upstream => (server, client),
        };
        // A reset rather than an end.
        socket2::SockRef::from(&gone)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
        drop(gone);
        let end = pump(&mut down, &mut up, &Counters::new()).await;
        assert!(
            matches!(end, PumpEnd::Failed { side, .. } if side == failing),
            "{failing:?}: {end:?}"
        );
        drop(kept);
    }
}

#[tokio::test]
async fn a_slow_reader_bounds_what_is_read() {
    let (mut client, mut down) = duplex(8 * PUMP_BUFFER_BYTES);
    let (mut up, mut server) = duplex(10);
    client
        .write_all(&vec![1; 8 * PUMP_BUFFER_BYTES])
        .await
        .unwrap();
    let counters = Counters::new();
    let mut pumping = Box::pin(pump(&mut down, &mut up, &counters));
    assert!(futures_poll(pumping.as_mut()).is_pending());
    assert_eq!(
        counters.sent(),
        10,
        "the counters move while the session lives"
    );
    let mut ten = [0; 10];
    server.read_exact(&mut ten).await.unwrap();
    assert!(futures_poll(pumping.as_mut()).is_pending());
    assert_eq!(counters.sent(), 20);
    drop(pumping);
    // One buffer was read and no more.
    let mut left = Vec::new();
    drop(client);
    down.read_to_end(&mut left).await.unwrap();
    assert_eq!(left.len(), 7 * PUMP_BUFFER_BYTES);
}

#[tokio::test]
async fn an_idle_direction_holds_no_memory() {
    let (mut client, mut down) = duplex(64);
    let (mut up, mut server) = duplex(64);
    client.write_all(b"hello").await.unwrap();
    let mut direction = Direction::default();
    let count = AtomicU64::new(0);
    let once = poll_fn(|cx| Poll::Ready(direction.poll(cx, &mut down, &mut up, &count)));
    assert!(once.await.is_pending());
    assert_eq!(direction.held.capacity(), 0);
    let mut got = [0; 5];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
}

/// A writer that gathers until it is flushed, as TLS and HTTP/2 streams do.
struct Gathering {
    gathered: Vec<u8>,
    out: tokio::io::DuplexStream,
}

impl AsyncRead for Gathering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.out).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gathering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.gathered.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let data = std::mem::take(&mut self.gathered);
            let n = ready!(Pin::new(&mut self.out).poll_write(cx, &data))?;
            self.gathered = data[n..].to_vec();
        }
        Pin::new(&mut self.out).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.out).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_stream_that_gathers_is_flushed_when_the_reader_pauses() {
    let (mut client, mut down) = duplex(64);
    let (out, mut server) = duplex(64);
    let mut up = Gathering {
        gathered: Vec::new(),
        out,
    };
    let counters = Counters::new();
    let talking = async {
        client.write_all(b"ping").await.unwrap();
        let mut got = [0; 4];
        // Arrives although the client sends neither more nor an end.
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
        drop((client, server));
    };
    let (end, ()) = tokio::join!(pump(&mut down, &mut up, &counters), talking);
    assert!(matches!(end, PumpEnd::Complete), "{end:?}");
}

fn futures_poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(std::task::Waker::noop()))
}
