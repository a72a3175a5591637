//! What a connection speaks, and who speaks first.

use crate::Prefixed;
use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// The client's preface of HTTP/2 (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Methods after which anything may follow: the registered ones whose target need not begin with a
/// slash, and the common ones, so that most requests are known by their first bytes.
const METHODS: [&[u8]; 9] = [
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH",
];
/// Longest method looked for (registered ones reach 17 bytes): with the space it stays within the
/// 24 bytes that also hold the HTTP/2 preface.
const METHOD_BYTES_MAX: usize = 23;
/// Read at once while detecting: the whole head of a small request.
const DETECT_READ_BYTES: usize = 1024;
/// How long a client that has begun may take to make clear what it speaks. A protocol whose first
/// message happens to begin like an HTTP one, and whose client then waits, goes on as opaque.
pub const DETECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// TLS: a ClientHello.
    Tls,
    /// Anything else.
    Opaque,
}

/// Decides by the first bytes; `None` while more are needed (never past 24 bytes).
fn classify(bytes: &[u8]) -> Option<Protocol> {
    let head = bytes.get(..HTTP2_PREFACE.len()).unwrap_or(bytes);
    if HTTP2_PREFACE.starts_with(head) {
        return (head.len() == HTTP2_PREFACE.len()).then_some(Protocol::Http2);
    }
    match head {
        // A handshake record of TLS 1.0 or later (RFC 8446 section 5.1).
        [0x16] => return None,
        [0x16, 0x03, ..] => return Some(Protocol::Tls),
        _ => {}
    }
    let length = head
        .iter()
        .take(METHOD_BYTES_MAX + 1)
        .position(|b| !b.is_ascii_uppercase() && *b != b'-');
    let Some(length) = length else {
        return (head.len() > METHOD_BYTES_MAX).then_some(Protocol::Opaque);
    };
    let (method, rest) = head.split_at(length);
    match rest {
        [b' ', ..] if METHODS.contains(&method) => Some(Protocol::Http1),
        // Other text protocols also begin with a word and a space; a target with a slash is HTTP's.
        [b' ', b'/', ..] if !method.is_empty() => Some(Protocol::Http1),
        [b' '] if !method.is_empty() && head.len() < HTTP2_PREFACE.len() => None,
        _ => Some(Protocol::Opaque),
    }
}

/// Finds what a client speaks, and gives the stream back with nothing lost.
///
/// Waits for the first byte without limit, so it must not stand before a protocol in which the
/// server speaks first: ask [`first_speaker`] before. Once the client has begun it ends within
/// [`DETECT_TIMEOUT`]. The end of the stream counts as [`Protocol::Opaque`].
///
/// # Errors
/// When reading fails.
pub async fn detect<S>(stream: S) -> io::Result<(Protocol, Prefixed<S>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Prefixed::new(stream, Vec::new()).detect().await
}

impl<S: AsyncRead + Unpin> Prefixed<S> {
    /// As [`detect`], for a stream some bytes of which were read already.
    ///
    /// # Errors
    /// When reading fails.
    pub async fn detect(self) -> io::Result<(Protocol, Self)> {
        self.detect_within(DETECT_TIMEOUT).await
    }

    async fn detect_within(mut self, limit: Duration) -> io::Result<(Protocol, Self)> {
        if self.prefix().is_empty() && self.fill().await? == 0 {
            return Ok((Protocol::Opaque, self));
        }
        let decided = tokio::time::timeout(limit, self.decide()).await;
        match decided {
            Ok(protocol) => Ok((protocol?, self)),
            Err(_) => Ok((Protocol::Opaque, self)),
        }
    }

    async fn decide(&mut self) -> io::Result<Protocol> {
        loop {
            if let Some(protocol) = classify(self.prefix()) {
                return Ok(protocol);
            }
            if self.fill().await? == 0 {
                return Ok(Protocol::Opaque);
            }
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill::<DETECT_READ_BYTES>(cx)).await
    }
}

/// Who spoke first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FirstSpeaker {
    /// The client, or it ended its side without a word.
    Downstream,
    /// The server, or it ended its side without a word.
    Upstream,
}

/// Waits until one side speaks; the bytes read are kept in that side's [`Prefixed`]. A client that
/// has spoken already wins at once.
///
/// # Errors
/// When reading from the side that was ready first fails.
pub async fn first_speaker<D, U>(
    down: &mut Prefixed<D>,
    up: &mut Prefixed<U>,
) -> io::Result<FirstSpeaker>
where
    D: AsyncRead + Unpin,
    U: AsyncRead + Unpin,
{
    if !down.prefix().is_empty() {
        return Ok(FirstSpeaker::Downstream);
    }
    if !up.prefix().is_empty() {
        return Ok(FirstSpeaker::Upstream);
    }
    poll_fn(|cx| {
        if let Poll::Ready(read) = down.poll_fill::<DETECT_READ_BYTES>(cx) {
            return Poll::Ready(read.map(|_| FirstSpeaker::Downstream));
        }
        up.poll_fill::<DETECT_READ_BYTES>(cx)
            .map_ok(|_| FirstSpeaker::Upstream)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[test]
    fn the_usual_openings_are_known() {
        for (bytes, want) in [
            (&b"GET / HTTP/1.1\r\n"[..], Protocol::Http1),
            (b"CONNECT a:1 HTTP/1.1", Protocol::Http1),
            (b"OPTIONS * HTTP/1.1", Protocol::Http1),
            (b"PROPFIND /x HTTP/1.1", Protocol::Http1),
            (b"VERSION-CONTROL / HTTP/1.1", Protocol::Http1),
            (HTTP2_PREFACE, Protocol::Http2),
            (&[0x16, 3, 1, 2, 0], Protocol::Tls),
            (b"EHLO mail.example", Protocol::Opaque),
            (b"*1\r\n$4\r\nPING\r\n", Protocol::Opaque),
            (b"SSH-2.0-OpenSSH_9.9\r\n", Protocol::Opaque),
            (b"PRI * HTTP/1.1\r\n", Protocol::Opaque),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", Protocol::Opaque),
            (&[0, 0, 0, 8, 4, 0xd2], Protocol::Opaque),
            (&[0x16, 0x04], Protocol::Opaque),
        ] {
            assert_eq!(classify(bytes), Some(want), "{bytes:?}");
        }
        assert_eq!(classify(b"GE"), None);
        assert_eq!(classify(b"PRI * HTTP/2.0\r\n"), None);
    }

    proptest! {
        #[test]
        fn twenty_four_bytes_always_decide(bytes in proptest::collection::vec(any::<u8>(), 24..64)) {
            prop_assert!(classify(&bytes).is_some());
        }

        /// More bytes never change a decision.
        #[test]
        fn a_decision_stands(text in "(GET|PRI|PUT|EHLO|X-Y|P)[ /*A-Z]{0,30}") {
            let bytes = text.as_bytes();
            let first = (0..=bytes.len()).find_map(|n| classify(&bytes[..n]));
            prop_assert_eq!(classify(bytes), first);
        }
    }

    #[tokio::test]
    async fn bytes_that_come_one_by_one_are_all_given_back() {
        let (mut client, server) = duplex(1);
        let text = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore";
        let sending = async {
            client.write_all(text).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let detecting = async {
            let (protocol, mut stream) = detect(server).await.unwrap();
            assert_eq!(protocol, Protocol::Http2);
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, text);
        };
        tokio::join!(sending, detecting);
    }

    #[tokio::test]
    async fn an_end_without_decision_is_opaque() {
        let (mut client, server) = duplex(16);
        client.write_all(b"GE").await.unwrap();
        client.shutdown().await.unwrap();
        let (protocol, stream) = detect(server).await.unwrap();
        assert_eq!((protocol, stream.prefix()), (Protocol::Opaque, &b"GE"[..]));
    }

    #[tokio::test]
    async fn a_client_that_stops_in_the_middle_goes_on_as_opaque() {
        let (mut client, server) = duplex(16);
        client.write_all(b"PRI").await.unwrap();
        let stream = Prefixed::new(server, vec![]);
        let (protocol, stream) = stream.detect_within(Duration::ZERO).await.unwrap();
        assert_eq!((protocol, stream.prefix()), (Protocol::Opaque, &b"PRI"[..]));
    }

    #[tokio::test]
    async fn whoever_speaks_first_is_found_and_heard() {
        let ((mut client, down), (mut server, up)) = (duplex(64), duplex(64));
        let (mut down, mut up) = (Prefixed::new(down, vec![]), Prefixed::new(up, vec![]));
        server.write_all(b"220 ready\r\n").await.unwrap();
        let first = first_speaker(&mut down, &mut up).await.unwrap();
        assert_eq!(first, FirstSpeaker::Upstream);
        assert_eq!(up.prefix(), b"220 ready\r\n");

        let mut up = Prefixed::new(duplex(1).0, vec![]);
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let first = first_speaker(&mut down, &mut up).await.unwrap();
        assert_eq!(first, FirstSpeaker::Downstream);
        let (protocol, _) = down.detect().await.unwrap();
        assert_eq!(protocol, Protocol::Http1);
    }
}
