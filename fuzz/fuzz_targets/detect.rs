//! Protocol detection on the first bytes of a connection.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strata_fuzz::detect(data));
