//! Headers that belong to one hop, and those the edge writes.

use http::header::{
    CONNECTION, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Version};
use mesh_model::Dice;
use std::fmt::Write as _;
use std::net::IpAddr;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Longest request id taken from a peer, in bytes: a UUID and some room.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Takes off what concerns one hop only: the headers that `Connection` names and the known ones
/// (RFC 9110 section 7.6.1). `TE: trailers` stays: gRPC servers insist on it, and trailers are
/// passed on. `Trailer` stays, as it describes the message.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
            .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
            .filter(|name| *name != TE && *name != TRAILER)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    let trailers = tokens(headers, &TE).any(|t| t.eq_ignore_ascii_case("trailers"));
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// The comma-separated values of all headers of a name.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// The protocols an HTTP/1.1 request asks to switch to, as far as we tunnel them. A request with a
/// body is none: a server could not tell where the body ends and the new protocol begins.
pub(crate) fn upgrade_wanted<B: http_body::Body>(request: &Request<B>) -> Option<HeaderValue> {
    let upgrade = request.version() == Version::HTTP_11
        && *request.method() == Method::GET
        && request.body().is_end_stream()
        && tokens(request.headers(), &CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"));
    if !upgrade {
        return None;
    }
    let tunnelled: Vec<&str> = tokens(request.headers(), &UPGRADE)
        .filter(|protocol| !carries_http(protocol))
        .collect();
    let text = tunnelled.join(", ");
    HeaderValue::try_from(text).ok().filter(|v| !v.is_empty())
}

/// Protocols that carry HTTP requests: within a tunnel no policy or route would see them, so they
/// are not switched to (RFC 9110 section 7.8 lets a server pass the wish over). HTTP/2 is spoken by
/// its preface, TLS where the connection begins.
fn carries_http(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default();
    ["h2c", "h2", "http", "tls"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
}

/// Asks for, or confirms, a switch of protocols.
pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Whether the content is gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"))
}

/// Looks a header up by lower-case name: its lines, as mesh-authz wants them.
pub(crate) fn lines(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(lossy).collect()
}

/// Looks a header up by lower-case name; repeated ones joined by a comma, as mesh-routing wants them.
pub(crate) fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut values = headers.get_all(name).iter();
    let mut text = lossy(values.next()?);
    for value in values {
        text.push(',');
        text.push_str(&lossy(value));
    }
    Some(text)
}

fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// HTTP/2 clients may split `Cookie`; HTTP/1.1 knows one (RFC 9113 section 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let mut all = Vec::new();
    for value in headers.get_all(COOKIE) {
        if !all.is_empty() {
            all.extend_from_slice(b"; ");
        }
        all.extend_from_slice(value.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&all) {
        headers.insert(COOKIE, value);
    }
}

/// What the edge of the mesh writes: the peer is appended to `x-forwarded-for`, the scheme is ours
/// to say, and a client certificate header from outside is never believed.
pub(crate) fn set_edge(headers: &mut HeaderMap, peer: IpAddr, secure: bool) {
    let peer = peer.to_canonical().to_string();
    let chain = match joined(headers, X_FORWARDED_FOR.as_str()) {
        Some(before) => format!("{before}, {peer}"),
        None => peer,
    };
    if let Ok(value) = HeaderValue::try_from(chain) {
        headers.insert(X_FORWARDED_FOR, value);
    }
    let scheme = if secure { "https" } else { "http" };
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    remove_client_cert(headers);
}

/// Takes off what a client that has proven nothing claims about a certificate: applications take
/// it for the word of a proxy.
pub(crate) fn remove_client_cert(headers: &mut HeaderMap) {
    headers.remove(X_FORWARDED_CLIENT_CERT);
}

/// Sees to a request id: the one that came when it is short and printable, else a new random one.
/// Gives the new one.
pub(crate) fn ensure_request_id(headers: &mut HeaderMap, dice: &mut Dice) -> Option<String> {
    let fine =
        |v: &HeaderValue| !v.is_empty() && v.len() <= REQUEST_ID_BYTES_MAX && v.to_str().is_ok();
    if headers.get(X_REQUEST_ID).is_some_and(fine) {
        return None;
    }
    let id = uuid_v4(dice);
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(X_REQUEST_ID, value);
    }
    Some(id)
}

/// A random UUID (RFC 9562 version 4). It names a request, it guards nothing.
fn uuid_v4(dice: &mut Dice) -> String {
    let high = (dice.next_u64() & !0xf000) | 0x4000;
    let low = (dice.next_u64() & !(0b11 << 62)) | (0b10 << 62);
    let mut text = String::with_capacity(36);
    for (n, byte) in high
        .to_be_bytes()
        .into_iter()
        .chain(low.to_be_bytes())
        .enumerate()
    {
        if matches!(n, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string cannot fail.
        if write!(text, "{byte:02x}").is_err() {
            break;
        }
    }
    text
}

/// The authority of a request: the URI's, else the `Host` header's.
pub(crate) fn authority<B>(request: &Request<B>) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers().get(HOST)?.to_str().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn hop_by_hop_headers_end_here() {
        let mut headers = map(&[
            ("connection", "close, X-Private"),
            ("connection", "te"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers, gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-connection", "keep-alive"),
            ("trailer", "grpc-status"),
            ("x-kept", "1"),
        ]);
        strip_hop_by_hop(&mut headers);
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["te", "trailer", "x-kept"]);
        assert_eq!(headers["te"], "trailers");
    }

    #[test]
    fn protocols_that_would_hide_requests_are_not_switched_to() {
        for (wish, want) in [
            ("websocket", Some("websocket")),
            ("h2c", None),
            ("H2C, websocket", Some("websocket")),
            ("TLS/1.2, HTTP/2.0", None),
        ] {
            let mut request = Request::new(http_body_util::Empty::<bytes::Bytes>::new());
            *request.headers_mut() = map(&[("connection", "Upgrade"), ("upgrade", wish)]);
            let wanted = upgrade_wanted(&request);
            assert_eq!(
                wanted.as_ref().map(HeaderValue::as_bytes),
                want.map(str::as_bytes)
            );
        }
    }

    #[test]
    fn the_edge_appends_and_overwrites() {
        let mut headers = map(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-client-cert", "By=spiffe://evil"),
        ]);
        set_edge(&mut headers, "::ffff:9.9.9.9".parse().unwrap(), false);
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1,2.2.2.2, 9.9.9.9");
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert!(!headers.contains_key("x-forwarded-client-cert"));
    }

    #[test]
    fn a_request_id_is_kept_or_made() {
        let mut dice = Dice::seeded(1);
        let mut headers = map(&[("x-request-id", "abc")]);
        assert_eq!(ensure_request_id(&mut headers, &mut dice), None);
        let mut headers = map(&[("x-request-id", "")]);
        let id = ensure_request_id(&mut headers, &mut dice).unwrap();
        assert_eq!(headers["x-request-id"], id.as_str());
        assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'));
        assert!(
            matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'),
            "{id}"
        );
    }

    #[test]
    fn split_cookies_become_one() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2")]);
        join_cookies(&mut headers);
        assert_eq!(headers["cookie"], "a=1; b=2");
        assert_eq!(headers.get_all("cookie").iter().count(), 1);
    }
}
