//! The pods of a node as an agent tells them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strata_fuzz::zds(data));
