//! The first bytes of a connection: what it speaks, and the server name of a TLS client.

use mesh_net::{ClientHello, Prefixed, Protocol, peek_server_name, server_name as name_in};
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::runtime::{Builder, Runtime};

/// Bytes that arrive so many at a time.
struct Arriving<'a> {
    rest: &'a [u8],
    at_once: usize,
}

impl AsyncRead for Arriving<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.at_once.min(self.rest.len()).min(buffer.remaining());
        let (now, later) = self.rest.split_at(count);
        buffer.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}

thread_local! {
    static RUNTIME: RefCell<Runtime> = RefCell::new(
        Builder::new_current_thread().enable_time().build().expect("a runtime"),
    );
}

fn run<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with_borrow(|runtime| runtime.block_on(future))
}

/// Protocol detection: the same answer whatever the pieces the bytes arrive in, and none lost. The
/// first byte is the size of the pieces.
pub fn detect(data: &[u8]) {
    let Some((at_once, bytes)) = data.split_first() else {
        return;
    };
    let at_once = usize::from(*at_once).max(1);
    let whole = run(detected(bytes, bytes.len().max(1)));
    assert_eq!(whole, run(detected(bytes, at_once)));
    if whole == Protocol::Tls {
        assert_eq!(bytes[..2], [0x16, 3]);
    }
}

async fn detected(bytes: &[u8], at_once: usize) -> Protocol {
    let arriving = Arriving {
        rest: bytes,
        at_once,
    };
    let found = Prefixed::new(arriving, Vec::new()).detect().await;
    let (protocol, mut stream) = found.expect("reading from memory");
    let mut all = Vec::new();
    let read = stream.read_to_end(&mut all).await;
    assert_eq!((read.ok(), all.as_slice()), (Some(bytes.len()), bytes));
    protocol
}

/// The server name in a ClientHello: decided once and for all by its bytes, in whatever pieces they
/// arrive, and a name in lower case that can be compared with a host. The first byte is the size of
/// the pieces.
pub fn server_name(data: &[u8]) {
    let Some((at_once, bytes)) = data.split_first() else {
        return;
    };
    let whole = name_in(bytes);
    if let ClientHello::Complete(Some(name)) = &whole {
        assert!(!name.is_empty() && name.len() <= 255);
        assert!(name.bytes().all(|b| b.is_ascii_graphic()), "{name:?}");
        assert_eq!(*name, name.to_ascii_lowercase());
    }
    for cut in [bytes.len() / 2, bytes.len().saturating_sub(1), 5, 9, 60] {
        let before = name_in(bytes.get(..cut).unwrap_or(bytes));
        assert!(before == ClientHello::Incomplete || before == whole);
    }
    let arriving = Arriving {
        rest: bytes,
        at_once: usize::from(*at_once).max(1),
    };
    let peeked = run(peek_server_name(Prefixed::new(arriving, Vec::new())));
    let (found, stream) = peeked.expect("reading from memory");
    let ended = whole == ClientHello::Incomplete && found == ClientHello::Invalid;
    assert!(ended || found == whole);
    assert!(bytes.starts_with(stream.prefix()));
}
