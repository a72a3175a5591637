//! `baggage`, `forwarded` and `traceparent` of a CONNECT.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strata_fuzz::hbone_headers(data));
