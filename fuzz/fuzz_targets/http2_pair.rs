//! Two ends of an HTTP/2 connection, any owners, any network.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strata_fuzz::http2_pair(data));
