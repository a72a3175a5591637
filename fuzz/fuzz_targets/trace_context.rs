//! `traceparent` of a request.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strata_fuzz::trace_context(data));
