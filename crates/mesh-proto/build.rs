//! Compiles the `.proto` files without `protoc`: protox is a compiler in Rust.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "discovery.proto",
        "workload.proto",
        "authorization.proto",
        "ca.proto",
        "config.proto",
        "zds.proto",
    ];
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        // Ordered maps: the same message always encodes to the same bytes, so a hash of them is a version.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
