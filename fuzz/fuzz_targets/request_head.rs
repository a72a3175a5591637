//! The head of an HTTP request.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strata_fuzz::request_head(data));
