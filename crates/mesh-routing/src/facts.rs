//! What routing looks at in a request.

use mesh_model::ValueMatch;
use std::borrow::Cow;

/// The facts of a request.
#[derive(Clone, Copy)]
pub struct HttpFacts<'a> {
    /// Host without port, lower case: see [`without_port`].
    pub host: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// Query without `?`.
    pub query: Option<&'a str>,
    /// Upper-case method.
    pub method: &'a str,
    /// Looks up a header by lower-case name; repeated headers joined by a comma.
    pub headers: &'a dyn Fn(&str) -> Option<String>,
}

impl HttpFacts<'_> {
    /// Whether the first query parameter of the name meets the condition, percent-decoded.
    pub(crate) fn query_matches(&self, condition: &ValueMatch) -> bool {
        let pairs = self.query.into_iter().flat_map(|q| q.split('&'));
        let mut of_name = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .filter(|(name, _)| decoded(name) == *condition.name);
        of_name
            .next()
            .is_some_and(|(_, value)| condition.value.matches(&decoded(value)))
    }

    pub(crate) fn header_matches(&self, condition: &ValueMatch) -> bool {
        (self.headers)(&condition.name).is_some_and(|value| condition.value.matches(&value))
    }
}

/// The host of an authority, without its port; brackets of an IPv6 address stay.
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit())
                && (host.ends_with(']') || !host.contains(':')) =>
        {
            host
        }
        _ => authority,
    }
}

/// Decodes `%XX` and `+`. What is not valid stays as it is.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        match (first, hex_pair(tail)) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    match String::from_utf8(bytes) {
        Ok(text) => Cow::Owned(text),
        Err(_) => Cow::Borrowed(text),
    }
}

fn hex_pair(bytes: &[u8]) -> Option<u8> {
    let digit = |b: &u8| {
        char::from(*b)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    match bytes {
        [high, low, ..] => Some(digit(high)? * 16 + digit(low)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_cut_and_addresses_stay_whole() {
        for (authority, host) in [
            ("a.b:80", "a.b"),
            ("a.b", "a.b"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("a:", "a"),
        ] {
            assert_eq!(without_port(authority), host);
        }
    }

    #[test]
    fn query_text_is_decoded() {
        assert_eq!(decoded("a%20b+c"), "a b c");
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%zz%4"), "%zz%4");
        assert_eq!(decoded("%ff"), "%ff");
    }
}
