//! The repository's own tasks: ci, test, demo, layers.

fn main() {}
