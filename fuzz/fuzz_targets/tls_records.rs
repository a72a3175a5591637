//! TLS records from a peer that has the keys, and from the network.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strata_fuzz::tls_records(data));
