//! Edge proxy: Gateway API listeners to backends.

fn main() {}
