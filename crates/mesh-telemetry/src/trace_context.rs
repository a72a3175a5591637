//! W3C trace context: `traceparent`, version 00 (<https://www.w3.org/TR/trace-context/>).

use http::{HeaderMap, HeaderName};
use std::fmt;
use std::str::FromStr;

/// The header that carries a position in a trace.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header that carries what vendors add to it.
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A position in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace, never 0.
    pub trace_id: u128,
    /// The span that is the parent of what comes next, never 0.
    pub span_id: u64,
    /// The trace is recorded.
    pub sampled: bool,
}

/// Why a text is no trace context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct TraceContextError;

impl TraceContext {
    /// The position that headers carry; `None` when they carry none, several, or a malformed one.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let first = values.next()?;
        if values.next().is_some() {
            return None;
        }
        first.to_str().ok()?.parse().ok()
    }

    /// The trace as 32 hex digits, as logs show it.
    pub fn trace_id_text(&self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id,
            self.span_id,
            u8::from(self.sampled)
        )
    }
}

impl FromStr for TraceContext {
    type Err = TraceContextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim_matches([' ', '\t']).split('-');
        let version = hex(parts.next(), 2)?;
        let trace_id = hex(parts.next(), 32)?;
        let span_id = hex(parts.next(), 16)?;
        let flags = hex(parts.next(), 2)?;
        // A later version may carry more parts, version 00 may not; ff is never a version.
        let surplus = parts.next().is_some();
        if version == 0xff || (version == 0 && surplus) || trace_id == 0 || span_id == 0 {
            return Err(TraceContextError);
        }
        Ok(Self {
            trace_id,
            span_id: u64::try_from(span_id).map_err(|_| TraceContextError)?,
            sampled: flags & 1 == 1,
        })
    }
}

/// Lower-case hex digits only, as the recommendation asks; `from_str_radix` would take `+`.
fn hex(part: Option<&str>, digits: usize) -> Result<u128, TraceContextError> {
    let part = part
        .filter(|p| p.len() == digits && p.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
    u128::from_str_radix(part.ok_or(TraceContextError)?, 16).map_err(|_| TraceContextError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_recommendations_example_is_read() {
        let context: TraceContext = EXAMPLE.parse().unwrap();
        assert_eq!(context.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(context.span_id, 0x00f0_67aa_0ba9_02b7);
        assert!(context.sampled);
        assert_eq!(context.to_string(), EXAMPLE);
    }

    #[test]
    fn what_is_no_context_is_refused() {
        for bad in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        ] {
            assert!(bad.parse::<TraceContext>().is_err(), "{bad} was taken");
        }
        // A later version may add parts and flags.
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-09-more";
        assert!(later.parse::<TraceContext>().unwrap().sampled);
    }

    #[test]
    fn two_headers_are_none() {
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, EXAMPLE.parse().unwrap());
        assert!(TraceContext::of(&headers).is_some());
        headers.append(TRACEPARENT, EXAMPLE.parse().unwrap());
        assert!(TraceContext::of(&headers).is_none());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            trace_id in 1..=u128::MAX,
            span_id in 1..=u64::MAX,
            sampled: bool,
        ) {
            let context = TraceContext { trace_id, span_id, sampled };
            prop_assert_eq!(context.to_string().parse::<TraceContext>(), Ok(context));
        }

        #[test]
        fn any_text_is_refused_or_read(text in "[0-9a-f-]{0,60}|\\PC{0,60}") {
            if let Ok(context) = text.parse::<TraceContext>() {
                prop_assert!(context.trace_id != 0 && context.span_id != 0);
            }
        }
    }
}
