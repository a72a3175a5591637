//! The header of an application tunnel.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strata_fuzz::proxy_v2(data));
