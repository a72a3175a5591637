//! Pure Gateway API matching: precedence, weighted split, filters and timeouts as data.
//!
//! Nothing here knows of connections or of a runtime: facts in, data out. Precedence is that of
//! Gateway API v1, `HTTPRouteSpec.hostnames` and `HTTPRouteRule.matches`.

mod facts;
mod filters;
mod path;
mod pick;
mod select;

pub use facts::{HttpFacts, without_port};
pub use filters::{HeaderChange, RedirectFrom, header_changes, redirect_location, rewrite_path};
pub use path::normalise_path;
pub use pick::pick_backend;
pub use select::{
    Attachment, RouteMatch, attached_http, attached_tcp, pick_listener, select, select_tcp,
};
