//! The `traceparent` of a tunnel (interop/hbone.md, "CONNECT request").
//!
//! It joins the log lines of the two proxies of one connection and nothing else: it is fresh for
//! each connection, marked unsampled and never exported.

use http::{HeaderMap, HeaderValue};
use mesh_model::Dice;

/// A fresh `traceparent`: version 00, random ids, unsampled.
pub fn new_traceparent(dice: &mut Dice) -> Option<HeaderValue> {
    // All-zero ids are invalid; setting one bit rules them out.
    let trace = (u128::from(dice.next_u64()) << 64) | u128::from(dice.next_u64() | 1);
    let parent = dice.next_u64() | 1;
    HeaderValue::from_str(&format!("00-{trace:032x}-{parent:016x}-00")).ok()
}

/// The trace id of a `traceparent`: 32 lower-case hexadecimal digits.
pub fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let good = version.len() == 2
        && trace.len() == 32
        && trace
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && trace.bytes().any(|b| b != b'0');
    good.then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_we_make_we_read(seed: u64) {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", new_traceparent(&mut Dice::seeded(seed)).unwrap());
            prop_assert_eq!(trace_id(&headers).map(str::len), Some(32));
        }

        #[test]
        fn any_text_is_read_or_ignored(text in "[ -~]{0,80}") {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", text.parse().unwrap());
            if let Some(id) = trace_id(&headers) {
                prop_assert!(text.contains(id));
            }
        }
    }
}
