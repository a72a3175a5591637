//! The server name in a TLS ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3), read without
//! ending the TLS: for pass-through listeners.

use crate::Prefixed;
use std::future::poll_fn;
use std::io;
use tokio::io::AsyncRead;

/// Bytes of a ClientHello looked at. Real ones stay under 2 KiB, with post-quantum key shares too;
/// one past this limit is not a TLS client we serve.
const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;
/// Read at once.
const READ_BYTES: usize = 2048;
/// Content type of a handshake record.
const HANDSHAKE: u8 = 0x16;
/// Handshake type of a ClientHello.
const CLIENT_HELLO: u8 = 0x01;
/// Extension number of server_name.
const SERVER_NAME: u16 = 0;
/// Name type host_name.
const HOST_NAME: u8 = 0;

/// What the first bytes of a connection say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientHello {
    /// More bytes are needed.
    Incomplete,
    /// A ClientHello; with the name asked for in lower case, when there is one.
    Complete(Option<String>),
    /// Not TLS, or malformed, or past 16 KiB.
    Invalid,
}

/// Reads the server name of a ClientHello that begins at the first byte.
pub fn server_name(bytes: &[u8]) -> ClientHello {
    let mut hello = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [] => return ClientHello::Incomplete,
            [HANDSHAKE] => return ClientHello::Incomplete,
            [HANDSHAKE, 0x03, ..] => {}
            _ => return ClientHello::Invalid,
        }
        let mut reader = Reader(rest);
        let (Some(_), Some(length)) = (reader.take(3), reader.number(2)) else {
            return ClientHello::Incomplete;
        };
        if length == 0 || hello.len() + length > CLIENT_HELLO_BYTES_MAX {
            return ClientHello::Invalid;
        }
        let (body, whole) = match reader.take(length) {
            Some(body) => (body, true),
            None => (reader.0, false),
        };
        hello.extend_from_slice(body);
        match parse(&hello) {
            ClientHello::Incomplete if whole => rest = reader.0,
            decided => return decided,
        }
    }
}

/// Parses the handshake message, freed of its records.
fn parse(hello: &[u8]) -> ClientHello {
    let mut message = Reader(hello);
    match message.number(1) {
        None => return ClientHello::Incomplete,
        Some(kind) if kind == usize::from(CLIENT_HELLO) => {}
        Some(_) => return ClientHello::Invalid,
    }
    let Some(length) = message.number(3) else {
        return ClientHello::Incomplete;
    };
    if length > CLIENT_HELLO_BYTES_MAX {
        return ClientHello::Invalid;
    }
    match message.take(length) {
        None => ClientHello::Incomplete,
        Some(body) => match body_name(Reader(body)) {
            Some(name) => ClientHello::Complete(name),
            None => ClientHello::Invalid,
        },
    }
}

/// The name in a whole ClientHello; the outer `None` says that it is malformed.
fn body_name(mut body: Reader<'_>) -> Option<Option<String>> {
    body.take(2 + 32)?; // legacy version, random
    body.vector(1)?; // session id
    body.vector(2)?; // cipher suites
    body.vector(1)?; // compression methods
    if body.0.is_empty() {
        return Some(None);
    }
    let mut extensions = Reader(body.vector(2)?);
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let data = extensions.vector(2)?;
        if kind != usize::from(SERVER_NAME) {
            continue;
        }
        let mut names = Reader(Reader(data).vector(2)?);
        let kind = names.number(1)?;
        let name = std::str::from_utf8(names.vector(2)?).ok()?;
        if kind != usize::from(HOST_NAME) || name.len() > 255 {
            return None;
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        // A DNS name in ASCII (RFC 6066 section 3), which is looked up, logged and told to others.
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(plain) {
            return None;
        }
        return Some(Some(name.to_ascii_lowercase()));
    }
    Some(None)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A big-endian number of at most 3 bytes.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        let taken = self.take(bytes)?;
        Some(taken.iter().fold(0, |n, b| (n << 8) | usize::from(*b)))
    }

    /// Bytes with their count before them.
    fn vector(&mut self, length_bytes: usize) -> Option<&'a [u8]> {
        let length = self.number(length_bytes)?;
        self.take(length)
    }
}

/// Reads until the ClientHello is whole, and gives the stream back with nothing lost. Waits without
/// limit: the caller sets one.
///
/// # Errors
/// When reading fails.
pub async fn peek_server_name<S: AsyncRead + Unpin>(
    mut stream: Prefixed<S>,
) -> io::Result<(ClientHello, Prefixed<S>)> {
    loop {
        match server_name(stream.prefix()) {
            ClientHello::Incomplete => {}
            decided => return Ok((decided, stream)),
        }
        if poll_fn(|cx| stream.poll_fill::<READ_BYTES>(cx)).await? == 0 {
            return Ok((ClientHello::Invalid, stream));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vector(length_bytes: usize, data: &[u8]) -> Vec<u8> {
        let mut out = data.len().to_be_bytes()[8 - length_bytes..].to_vec();
        out.extend_from_slice(data);
        out
    }

    fn hello(name: Option<&str>) -> Vec<u8> {
        let mut extensions = [&[0, 43][..], &vector(2, &[2, 3, 4])].concat();
        if let Some(name) = name {
            let entry = [&[0][..], &vector(2, name.as_bytes())].concat();
            extensions.extend([&[0, 0][..], &vector(2, &vector(2, &entry))].concat());
        }
        let body = [
            &[3, 3][..],
            &[7; 32],
            &vector(1, &[9; 32]),
            &vector(2, &[0x13, 1, 0x13, 2]),
            &vector(1, &[0]),
            &vector(2, &extensions),
        ]
        .concat();
        [&[1][..], &vector(3, &body)].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| [&[0x16, 3, 1][..], &vector(2, part)].concat();
        message.chunks(size).flat_map(record).collect()
    }

    #[test]
    fn the_name_is_found_whatever_the_records() {
        let message = hello(Some("Shop.Example."));
        for size in [1, 5, 40, 4096] {
            let bytes = records(&message, size);
            let want = ClientHello::Complete(Some("shop.example".into()));
            assert_eq!(server_name(&bytes), want, "records of {size}");
            for cut in 0..bytes.len() {
                assert_eq!(server_name(&bytes[..cut]), ClientHello::Incomplete);
            }
        }
        let none = records(&hello(None), 4096);
        assert_eq!(server_name(&none), ClientHello::Complete(None));
    }

    #[test]
    fn what_is_no_dns_name_is_refused() {
        for name in ["", ".", "a b", "a\n{}", "a\0.b", "b\u{fc}ro.example", "a/b"] {
            let bytes = records(&hello(Some(name)), 4096);
            assert_eq!(server_name(&bytes), ClientHello::Invalid, "{name:?}");
        }
    }

    #[test]
    fn what_is_no_hello_is_refused() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            &[0x16, 0x04, 0, 0, 0],
            &[0x16, 3, 1, 0, 0],
            &[0x16, 3, 1, 0, 4, 2, 0, 0, 0],
            &[0x16, 3, 1, 0, 4, 1, 0xff, 0, 0],
            &[0x16, 3, 1, 0xff, 0xff],
        ] {
            assert_eq!(server_name(bytes), ClientHello::Invalid, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_panic(tail in proptest::collection::vec(any::<u8>(), 0..300)) {
            server_name(&tail);
            server_name(&[&[0x16, 3, 1, 1, 0, 1, 0, 0, 200][..], &tail].concat());
            let mut message = hello(Some("a.b"));
            for (i, byte) in tail.iter().enumerate() {
                let at = (i * 31 + usize::from(*byte)) % message.len();
                message[at] ^= byte;
            }
            server_name(&records(&message, 4096));
        }
    }

    #[tokio::test]
    async fn peeking_loses_nothing() {
        let bytes = records(&hello(Some("a.b")), 4096);
        let stream = Prefixed::new(&bytes[5..], bytes[..5].to_vec());
        let (found, stream) = peek_server_name(stream).await.unwrap();
        assert_eq!(found, ClientHello::Complete(Some("a.b".into())));
        assert_eq!(stream.prefix(), bytes);

        let cut = Prefixed::new(&bytes[..9], vec![]);
        let (found, _) = peek_server_name(cut).await.unwrap();
        assert_eq!(found, ClientHello::Invalid);
    }
}
