//! W3C trace context: `traceparent`, version 00 (<https://www.w3.org/TR/trace-context/>).

use std::fmt;
use std::str::FromStr;

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
