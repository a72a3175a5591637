//! Whether the fields of a message are well-formed (RFC 9113 sections 8.1 to 8.5), for messages that
//! come in and for those that go out: what is malformed here could be smuggled elsewhere.

use crate::hpack::Field;
use serde::{Deserialize, Serialize};

/// Fields that belong to one HTTP/1 connection and have no place here (section 8.2.2).
const CONNECTION_SPECIFIC: &[&[u8]] = &[
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"transfer-encoding",
    b"upgrade",
];

/// Why fields are not a well-formed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum FieldsError {
    /// A name that is empty, has upper-case letters, or characters that no name has.
    #[error("a field name is not valid")]
    Name,
    /// A value with NUL, CR or LF, or with white space at its ends.
    #[error("a field value is not valid")]
    Value,
    /// A pseudo-header field after another field, twice, in trailers, or unknown.
    #[error("a pseudo-header field is misplaced, repeated or unknown")]
    Pseudo,
    /// A pseudo-header field that must be there is not, or the other way round.
    #[error("a pseudo-header field is missing, or must not be there")]
    PseudoSet,
    /// A field of HTTP/1 connections.
    #[error("a connection-specific field")]
    ConnectionSpecific,
    /// `:status` is not a three-digit number, or is 101.
    #[error("the status is not valid")]
    Status,
    /// `content-length` is not a number, or two that differ.
    #[error("content-length is not valid")]
    ContentLength,
    /// An interim response that ends the stream.
    #[error("an interim response ends the stream")]
    InterimEnd,
}

/// What the fields should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    Request,
    Response,
    Trailers,
}

/// What the engine needs to know of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// A CONNECT request: what follows is a tunnel.
    pub(crate) connect: bool,
    /// An extended CONNECT request (RFC 8441).
    pub(crate) extended: bool,
    /// A HEAD request: the response has no body, whatever it says.
    pub(crate) head: bool,
    /// Of a response.
    pub(crate) status: Option<u16>,
    pub(crate) content_length: Option<u64>,
}

impl Message {
    /// An interim response (1xx): another one follows.
    pub(crate) fn is_interim(&self) -> bool {
        self.status.is_some_and(|status| status < 200)
    }
}

#[derive(Default)]
struct Pseudo<'a> {
    method: Option<&'a [u8]>,
    scheme: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    protocol: Option<&'a [u8]>,
    status: Option<&'a [u8]>,
}

impl<'a> Pseudo<'a> {
    fn set(&mut self, field: &'a Field) -> Result<(), FieldsError> {
        let place = match field.name.as_ref() {
            b":method" => &mut self.method,
            b":scheme" => &mut self.scheme,
            b":authority" => &mut self.authority,
            b":path" => &mut self.path,
            b":protocol" => &mut self.protocol,
            b":status" => &mut self.status,
            _ => return Err(FieldsError::Pseudo),
        };
        match place.replace(&field.value) {
            None => Ok(()),
            Some(_) => Err(FieldsError::Pseudo),
        }
    }

    fn is_empty(&self) -> bool {
        self.is_no_request() && self.status.is_none()
    }

    fn is_no_request(&self) -> bool {
        let fields = [
            self.method,
            self.scheme,
            self.authority,
            self.path,
            self.protocol,
        ];
        fields.iter().all(Option::is_none)
    }

    /// Sections 8.3.1 and 8.5, and RFC 8441 section 4.
    fn is_request(&self) -> bool {
        let Some(method) = self.method else {
            return false;
        };
        let plain_connect = method == b"CONNECT" && self.protocol.is_none();
        let target = match plain_connect {
            true => {
                self.scheme.is_none() && self.path.is_none() && self.authority.is_some_and(filled)
            }
            false => self.scheme.is_some_and(filled) && self.path.is_some_and(filled),
        };
        let protocol = self
            .protocol
            .is_none_or(|p| filled(p) && method == b"CONNECT");
        filled(method) && target && protocol && self.status.is_none()
    }
}

fn filled(value: &[u8]) -> bool {
    !value.is_empty()
}

/// Checks the fields of one message.
pub(crate) fn check(expect: Expect, fields: &[Field]) -> Result<Message, FieldsError> {
    let (mut pseudo, mut message, mut regular) = (Pseudo::default(), Message::default(), false);
    for field in fields {
        check_value(&field.value)?;
        if field.is_pseudo() {
            if regular {
                return Err(FieldsError::Pseudo);
            }
            pseudo.set(field)?;
            continue;
        }
        regular = true;
        check_name(&field.name)?;
        check_connection_specific(field)?;
        if field.name == "content-length" {
            let length = content_length(&field.value)?;
            if message.content_length.is_some_and(|known| known != length) {
                return Err(FieldsError::ContentLength);
            }
            message.content_length = Some(length);
        }
    }
    match expect {
        Expect::Request if pseudo.is_request() => {
            message.connect = pseudo.method == Some(b"CONNECT");
            message.extended = pseudo.protocol.is_some();
            message.head = pseudo.method == Some(b"HEAD");
        }
        Expect::Response if pseudo.is_no_request() => {
            let status = pseudo.status.ok_or(FieldsError::PseudoSet)?;
            message.status = Some(check_status(status)?);
        }
        Expect::Trailers if pseudo.is_empty() => {}
        Expect::Trailers => return Err(FieldsError::Pseudo),
        Expect::Request | Expect::Response => return Err(FieldsError::PseudoSet),
    }
    Ok(message)
}

/// A token in lower case (RFC 9110 section 5.1).
fn check_name(name: &[u8]) -> Result<(), FieldsError> {
    let valid =
        |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9') || b"!#$%&'*+-.^_`|~".contains(byte);
    if name.is_empty() || !name.iter().all(valid) {
        return Err(FieldsError::Name);
    }
    Ok(())
}

fn check_value(value: &[u8]) -> Result<(), FieldsError> {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let control = |byte: &u8| matches!(byte, 0 | b'\r' | b'\n');
    if blank(value.first()) || blank(value.last()) || value.iter().any(control) {
        return Err(FieldsError::Value);
    }
    Ok(())
}

fn check_connection_specific(field: &Field) -> Result<(), FieldsError> {
    let te = field.name == "te" && !field.value.eq_ignore_ascii_case(b"trailers");
    if te || CONNECTION_SPECIFIC.contains(&field.name.as_ref()) {
        return Err(FieldsError::ConnectionSpecific);
    }
    Ok(())
}

fn check_status(value: &[u8]) -> Result<u16, FieldsError> {
    let status = match value {
        [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9'] => number(value),
        _ => None,
    };
    match status.and_then(|status| u16::try_from(status).ok()) {
        // Section 8.6: there is no switching of protocols.
        None | Some(101) => Err(FieldsError::Status),
        Some(status) => Ok(status),
    }
}

fn content_length(value: &[u8]) -> Result<u64, FieldsError> {
    number(value).ok_or(FieldsError::ContentLength)
}

/// Digits, nothing else.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs = &'static [(&'static str, &'static str)];

    fn verdict(expect: Expect, pairs: Pairs) -> Result<Message, FieldsError> {
        let fields: Vec<_> = pairs
            .iter()
            .map(|(n, v)| Field::from_static(n, v))
            .collect();
        check(expect, &fields)
    }

    const GET: (&str, &str) = (":method", "GET");
    const HTTPS: (&str, &str) = (":scheme", "https");
    const ROOT: (&str, &str) = (":path", "/");
    const CONNECT: (&str, &str) = (":method", "CONNECT");
    const AUTHORITY: (&str, &str) = (":authority", "a:1");
    const OK: (&str, &str) = (":status", "200");

    #[test]
    fn well_formed_messages() {
        let get = verdict(Expect::Request, &[GET, HTTPS, ROOT, ("te", "trailers")]).unwrap();
        assert_eq!(get, Message::default());
        assert!(
            verdict(Expect::Request, &[CONNECT, AUTHORITY])
                .unwrap()
                .connect
        );
        let socket = &[CONNECT, (":protocol", "websocket"), HTTPS, ROOT, AUTHORITY];
        assert!(verdict(Expect::Request, socket).is_ok());
        let length = verdict(
            Expect::Response,
            &[OK, ("content-length", "12"), ("content-length", "12")],
        );
        assert_eq!(length.unwrap().content_length, Some(12));
        assert!(
            verdict(Expect::Response, &[(":status", "103")])
                .unwrap()
                .is_interim()
        );
        assert!(verdict(Expect::Trailers, &[("grpc-status", "0")]).is_ok());
    }

    #[test]
    fn malformed_requests() {
        use Expect::Request;
        let cases: &[(Expect, Pairs, FieldsError)] = &[
            (Request, &[GET, HTTPS], FieldsError::PseudoSet),
            (Request, &[HTTPS, ROOT], FieldsError::PseudoSet),
            (
                Request,
                &[GET, HTTPS, (":path", "")],
                FieldsError::PseudoSet,
            ),
            (Request, &[CONNECT], FieldsError::PseudoSet),
            (Request, &[CONNECT, AUTHORITY, ROOT], FieldsError::PseudoSet),
            (
                Request,
                &[CONNECT, AUTHORITY, HTTPS],
                FieldsError::PseudoSet,
            ),
            (
                Request,
                &[GET, HTTPS, ROOT, (":protocol", "x")],
                FieldsError::PseudoSet,
            ),
            (Request, &[GET, HTTPS, ROOT, OK], FieldsError::PseudoSet),
            (Request, &[GET, GET, HTTPS, ROOT], FieldsError::Pseudo),
            (Request, &[GET, HTTPS, ("x", ""), ROOT], FieldsError::Pseudo),
            (
                Request,
                &[GET, HTTPS, ROOT, (":version", "2")],
                FieldsError::Pseudo,
            ),
            (
                Request,
                &[GET, HTTPS, ROOT, ("Host", "a")],
                FieldsError::Name,
            ),
            (Request, &[GET, HTTPS, ROOT, ("", "a")], FieldsError::Name),
            (
                Request,
                &[GET, HTTPS, ROOT, ("a b", "a")],
                FieldsError::Name,
            ),
            (
                Request,
                &[GET, HTTPS, ROOT, ("a", "b\r\nc")],
                FieldsError::Value,
            ),
            (
                Request,
                &[GET, HTTPS, ROOT, ("a", " b")],
                FieldsError::Value,
            ),
            (
                Request,
                &[GET, HTTPS, ROOT, ("a", "b\t")],
                FieldsError::Value,
            ),
            (
                Request,
                &[GET, HTTPS, ROOT, ("connection", "close")],
                FieldsError::ConnectionSpecific,
            ),
            (
                Request,
                &[GET, HTTPS, ROOT, ("te", "gzip")],
                FieldsError::ConnectionSpecific,
            ),
        ];
        check_all(cases);
    }

    #[test]
    fn malformed_responses_and_trailers() {
        use Expect::{Response, Trailers};
        let cases: &[(Expect, Pairs, FieldsError)] = &[
            (Response, &[], FieldsError::PseudoSet),
            (Response, &[OK, GET], FieldsError::PseudoSet),
            (Response, &[(":status", "101")], FieldsError::Status),
            (Response, &[(":status", "20")], FieldsError::Status),
            (Response, &[(":status", "+20")], FieldsError::Status),
            (
                Response,
                &[OK, ("content-length", "-1")],
                FieldsError::ContentLength,
            ),
            (
                Response,
                &[OK, ("content-length", "1"), ("content-length", "2")],
                FieldsError::ContentLength,
            ),
            (
                Response,
                &[OK, ("content-length", "18446744073709551616")],
                FieldsError::ContentLength,
            ),
            (Trailers, &[OK], FieldsError::Pseudo),
        ];
        check_all(cases);
    }

    fn check_all(cases: &[(Expect, Pairs, FieldsError)]) {
        for (expect, pairs, error) in cases {
            assert_eq!(verdict(*expect, pairs), Err(*error), "{pairs:?}");
        }
    }
}
