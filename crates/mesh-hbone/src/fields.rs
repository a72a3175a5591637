//! Header maps and the fields of the wire (interop/hbone.md, "CONNECT request" and "response").

use crate::{ConnectRequest, TunnelError};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, uri};
use mesh_http2::Field;
use std::str;

/// Longest authority taken: a DNS name of 253 bytes and a port, with room.
const AUTHORITY_BYTES_MAX: usize = 300;
/// Names that need no copy.
const NAMES: &[&str] = &["baggage", "forwarded", "traceparent", "x-forwarded-network"];

/// A plain CONNECT (RFC 9113 section 8.5): `:method` and `:authority`, then the headers.
pub(crate) fn connect(request: &ConnectRequest) -> Result<Vec<Field>, TunnelError> {
    if request.authority.parse::<uri::Authority>().is_err() {
        let shown = request
            .authority
            .chars()
            .take(AUTHORITY_BYTES_MAX)
            .collect();
        return Err(TunnelError::Authority(shown));
    }
    let authority = Bytes::copy_from_slice(request.authority.as_bytes());
    let mut fields = Vec::with_capacity(2 + request.headers.len());
    fields.push(Field::from_static(":method", "CONNECT"));
    fields.push(Field::new(Bytes::from_static(b":authority"), authority));
    extend(&mut fields, &request.headers);
    Ok(fields)
}

/// An answer.
pub(crate) fn answer(status: u16, headers: &HeaderMap) -> Vec<Field> {
    let mut fields = Vec::with_capacity(1 + headers.len());
    fields.push(match status {
        200 => Field::from_static(":status", "200"),
        other => Field::new(Bytes::from_static(b":status"), other.to_string()),
    });
    extend(&mut fields, headers);
    fields
}

/// Headers as fields.
pub(crate) fn extend(fields: &mut Vec<Field>, headers: &HeaderMap) {
    for (name, value) in headers {
        let name = match NAMES.iter().find(|known| name == **known) {
            Some(known) => Bytes::from_static(known.as_bytes()),
            None => Bytes::copy_from_slice(name.as_str().as_bytes()),
        };
        let mut field = Field::new(name, Bytes::copy_from_slice(value.as_bytes()));
        field.sensitive = value.is_sensitive();
        fields.push(field);
    }
}

/// What fields say that came, without pseudo-header fields.
pub(crate) fn headers(fields: Vec<Field>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for field in fields {
        if field.is_pseudo() {
            continue;
        }
        // The engine has let well-formed fields through; what http takes differs in details only.
        let name = HeaderName::from_bytes(&field.name);
        let value = HeaderValue::from_maybe_shared(field.value);
        if let (Ok(name), Ok(value)) = (name, value) {
            // Fails past 32,768 fields, which the engine's bound does not let through.
            headers.try_append(name, value).ok();
        }
    }
    headers
}

/// The `:status` of an answer.
pub(crate) fn status(fields: &[Field]) -> Option<u16> {
    str::from_utf8(pseudo(fields, b":status")?)
        .ok()?
        .parse()
        .ok()
}

/// The authority of a plain CONNECT when it is `host:port` of bounded length without user
/// information; none for any other request.
pub(crate) fn authority(fields: &[Field]) -> Option<String> {
    if pseudo(fields, b":method")? != b"CONNECT" || pseudo(fields, b":protocol").is_some() {
        return None;
    }
    let text = str::from_utf8(pseudo(fields, b":authority")?).ok()?;
    let authority: uri::Authority = text.parse().ok()?;
    let good = text.len() <= AUTHORITY_BYTES_MAX
        && !text.contains('@')
        && !authority.host().is_empty()
        && authority.port_u16().is_some_and(|port| port != 0);
    good.then(|| text.to_owned())
}

fn pseudo<'a>(fields: &'a [Field], name: &[u8]) -> Option<&'a [u8]> {
    let field = fields.iter().find(|field| field.name == name)?;
    Some(&field.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(authority: &str) -> Vec<Field> {
        let headers = HeaderMap::from_iter([
            (HeaderName::from_static("baggage"), "a=b".parse().unwrap()),
            (HeaderName::from_static("x-other"), "c".parse().unwrap()),
        ]);
        let authority = authority.to_owned();
        connect(&ConnectRequest { authority, headers }).unwrap()
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let fields = request("[fd00::1]:80");
        assert_eq!(authority(&fields).as_deref(), Some("[fd00::1]:80"));
        let headers = headers(fields);
        assert_eq!(
            (&headers["baggage"], &headers["x-other"]),
            (&"a=b".parse().unwrap(), &"c".parse().unwrap())
        );
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn what_is_no_host_and_port_is_no_authority() {
        let long = format!("{}:80", "a".repeat(400));
        for bad in [
            "10.0.0.9",
            "10.0.0.9:0",
            "[fd00::1]",
            "user@10.0.0.9:80",
            &long,
        ] {
            assert_eq!(authority(&request(bad)), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_authority_or_not(text in ".{0,40}") {
            let fields = [
                Field::from_static(":method", "CONNECT"),
                Field::new(Bytes::from_static(b":authority"), text.into_bytes()),
            ];
            if let Some(authority) = authority(&fields) {
                prop_assert!(authority.contains(':'));
            }
        }
    }
}
