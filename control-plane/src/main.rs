//! Control plane: reads configuration, translates it to the model and serves it over delta xDS.

fn main() {}
