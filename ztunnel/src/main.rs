//! Node proxy: L4 mutual TLS for every pod on the node.

fn main() {}
