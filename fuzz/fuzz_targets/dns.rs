//! DNS messages of pods and of upstream servers.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strata_fuzz::dns(data));
