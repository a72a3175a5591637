//! Headers that proxies write for each other.

use http::{HeaderMap, HeaderValue};
use mesh_hbone::{Baggage, Forwarded, trace_id};
use mesh_telemetry::TraceContext;

/// `baggage`, `forwarded` and the trace id of a CONNECT: what was read can be written, and is read the
/// same again.
pub fn hbone_headers(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let baggage = Baggage::parse(&value);
    let written = baggage.to_value().expect("what was read can be written");
    assert_eq!(Baggage::parse(&written), baggage);
    let forwarded = Forwarded::parse(&value);
    match forwarded.to_value() {
        Some(written) => assert_eq!(Forwarded::parse(&written), forwarded),
        None => assert!(forwarded.client.is_none() && forwarded.host.is_none()),
    }
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", value);
    let id = trace_id(&headers);
    assert!(id.is_none_or(|id| u128::from_str_radix(id, 16).is_ok_and(|n| n != 0)));
    if let (Some(context), Some(id)) = (TraceContext::of(&headers), id) {
        assert_eq!(context.trace_id_text(), id);
    }
}

/// `traceparent` of a request: what was read is written back the same.
pub fn trace_context(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(context) = text.parse::<TraceContext>() else {
        return;
    };
    assert!(context.trace_id != 0 && context.span_id != 0);
    let written = context.to_string();
    assert_eq!(written.parse::<TraceContext>(), Ok(context));
    assert!(text.contains(&context.trace_id_text()));
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", written.parse().expect("a header value"));
    assert_eq!(TraceContext::of(&headers), Some(context));
}
