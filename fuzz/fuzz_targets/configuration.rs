//! The control plane's YAML, to the resources it gives.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strata_fuzz::configuration(data));
