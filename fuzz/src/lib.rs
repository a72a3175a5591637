//! Bodies of the fuzz targets: each takes any bytes, gives them to the product and panics when the
//! product does, or when what it answers breaks a rule that holds for every input.
//!
//! Beside "no panic", a body states what must hold: what was read is written back the same, what is
//! normal stays as it is, what was refused once is refused however it arrives. `fuzz_targets/` makes a
//! libFuzzer program of each, `tests/fuzz_seeds` runs each on stable over `seeds/` and mutations of it.

mod addresses;
mod configuration;
mod decisions;
mod dns;
mod fields;
mod http2;
mod input;
mod names;
mod paths;
mod proxy_v2;
mod requests;
mod signing;
mod streams;
mod tls_records;
mod wire;
mod zds;

// Files of the product that are private to a binary or a crate, as they are.
#[path = "../../control-plane/src"]
#[expect(
    dead_code,
    unused_imports,
    reason = "the rest of the control plane uses what is not used here"
)]
mod control {
    pub(crate) mod objects;
    pub(crate) mod translate;
}
#[path = "../../mesh-ca/src"]
mod ca {
    pub(crate) mod csr;
}
#[path = "../../ztunnel/src/inbound/app_tunnel.rs"]
mod app_tunnel;
#[path = "../../crates/mesh-discovery/src/file"]
mod file {
    pub(crate) mod schema;

    /// As the product calls it.
    pub(crate) fn parse(text: &str) -> Result<Vec<mesh_model::Resource>, String> {
        schema::parse(text)
    }
}
#[path = "../../crates/mesh-l7/src"]
#[expect(dead_code, reason = "the rest of mesh-l7 uses what is not used here")]
mod l7 {
    pub(crate) mod head;
    pub(crate) mod headers;
}
/// What the control plane's translation names of the rest of it.
mod published {
    pub(crate) type Account = (std::sync::Arc<str>, std::sync::Arc<str>);
}
// These files name each other from the root of their crate.
use control::objects;
use l7::headers;

pub use addresses::{authority, cidr};
pub use configuration::{configuration, local_file};
pub use decisions::{authorize, plan};
pub use dns::dns;
pub use fields::{hbone_headers, trace_context};
pub use http2::{hpack, http2, http2_pair};
pub use names::{names, regex};
pub use paths::paths;
pub use proxy_v2::proxy_v2;
pub use requests::request_head;
pub use signing::csr;
pub use streams::{detect, server_name};
pub use tls_records::tls_records;
pub use wire::resource;
pub use zds::zds;

/// A target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name: that of the program, of the function and of the folder in `seeds/`.
    pub name: &'static str,
    /// The body.
    pub run: fn(&[u8]),
    /// How many mutations the test on stable tries: fewer where one costs more.
    pub rounds: u32,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    target("authority", authority, 12000),
    target("authorize", authorize, 12000),
    target("cidr", cidr, 12000),
    target("configuration", configuration, 5000),
    target("csr", csr, 2500),
    target("detect", detect, 12000),
    target("dns", dns, 9000),
    target("hbone_headers", hbone_headers, 12000),
    target("hpack", hpack, 12000),
    target("http2", http2, 9000),
    target("http2_pair", http2_pair, 5000),
    target("local_file", local_file, 9000),
    target("names", names, 12000),
    target("paths", paths, 12000),
    target("plan", plan, 4000),
    target("proxy_v2", proxy_v2, 12000),
    target("regex", regex, 4000),
    target("request_head", request_head, 12000),
    target("resource", resource, 12000),
    target("server_name", server_name, 12000),
    target("tls_records", tls_records, 12000),
    target("trace_context", trace_context, 12000),
    target("zds", zds, 12000),
];

const fn target(name: &'static str, run: fn(&[u8]), rounds: u32) -> Target {
    Target { name, run, rounds }
}
