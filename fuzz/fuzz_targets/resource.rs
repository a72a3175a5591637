//! Resources from the control plane, of each type.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strata_fuzz::resource(data));
