//! CA client: requests, caches and rotates workload certificates.
//!
//! [`Identities`] keeps one certificate an identity, on the control runtime, and hands out
//! receivers of it to the data path. The wire and the rotation rule are those of interop/ca.md.

mod client;
mod keeper;
mod queue;
mod schedule;
mod status;

pub use keeper::{CertificateSource, Identities, IdentityFetchError};
pub use mesh_tls::CertificateReceiver;
pub use status::{CertificateState, CertificateStatus};
