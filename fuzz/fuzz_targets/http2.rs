//! Any bytes into either end of an HTTP/2 connection.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strata_fuzz::http2(data));
