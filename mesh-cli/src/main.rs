//! The mesh command: demo, status and explain.

fn main() {}
