//! Certificate authority: authenticates callers and signs workload CSRs.

mod authenticate;
mod csr;
mod grant;
mod issuer;
mod roots;

fn main() {}
