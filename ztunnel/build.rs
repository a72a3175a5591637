//! How the program is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Relative relocations in their packed form: half a megabyte less of the file is read and kept
    // resident, and the program starts sooner. glibc takes them from 2.36 on.
    #[expect(
        clippy::disallowed_methods,
        reason = "cargo's environment, not the program's"
    )]
    let libc = std::env::var("CARGO_CFG_TARGET_ENV");
    if libc.as_deref() == Ok("gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
