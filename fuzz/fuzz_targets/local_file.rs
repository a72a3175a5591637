//! The local configuration file of a proxy.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strata_fuzz::local_file(data));
