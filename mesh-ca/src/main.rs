//! Certificate authority: authenticates callers and signs workload CSRs.

fn main() {}
