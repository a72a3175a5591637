//! CA client: requests, caches and rotates workload certificates.
//!
//! [`Identities`] keeps one certificate an identity, on the control runtime, and hands out
//! receivers of it to the data path. [`keep_serving`] does the same for the host certificate of
//! one of our own gRPC servers, and [`incoming`] takes that server's connections within bounds.
//! The wire and the rotation rule are those of interop/ca.md.

mod client;
mod keeper;
mod schedule;
mod serving;
mod status;

pub use client::FetchError;
pub use keeper::{CertificateSource, Identities, IdentityFetchError, sleep_until};
pub use mesh_tls::CertificateReceiver;
pub use serving::{ServerStream, ServingRequest, incoming, keep_serving};
pub use status::{CertificateState, CertificateStatus};
