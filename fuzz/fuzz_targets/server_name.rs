//! The server name in a TLS ClientHello.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strata_fuzz::server_name(data));
