//! The plans of every proxy over any mesh.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strata_fuzz::plan(data));
