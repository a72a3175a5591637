//! TLS provider, SPIFFE verification, certificates and CSR making: the only crate that names rustls.
//!
//! * [`accept_mesh`] and [`connect_mesh`] speak mutual TLS 1.3 between workloads, with the identity
//!   rules of interop/hbone.md.
//! * [`accept_session`] and [`connect_session`] do the same and hand over the record layer, [`Records`].
//! * [`WorkloadCertificate`] is one certificate with everything a handshake needs, built once.
//! * [`new_csr`] makes the key and the request that a certificate authority signs (interop/ca.md).
//! * [`EdgeTls`] terminates TLS for gateways, by SNI; [`ServingTls`] for our own gRPC servers.
//!
//! Invariant: a private key is made in this process or handed in by the user; it is never written
//! to disk here and never shown by `Debug`.

mod aead;
mod certificate;
mod csr;
mod edge;
mod edge_client;
mod error;
mod mesh;
mod pem;
mod provider;
mod revocation;
mod san;
mod serving;
mod session;
#[cfg(test)]
mod testing;
mod trust;
mod verify;

pub use aead::{AeadChoice, AeadLibrary};
pub use certificate::{CertificateReceiver, WorkloadCertificate};
pub use csr::{PrivateKey, new_csr, new_serving_csr};
pub use edge::{EdgeInfo, EdgeStream, EdgeTls};
pub use edge_client::{
    EdgeAgreed, EdgeClientSettings, EdgeClientStream, EdgeConnector, ServerCheck,
};
pub use error::TlsError;
pub use mesh::{HANDSHAKE_TIMEOUT, MeshStream, Peer, accept_mesh, connect_mesh, judge_both};
pub use provider::{
    Cryptography, KeyExchange, TlsPolicy, fill_random, install_provider, install_provider_with,
    set_cryptography,
};
pub use revocation::{PeerSide, Refreshed, RevocationEvent, RevocationFiles, Revocations};
pub use san::ShownCertificate;
pub use serving::{ServingCertificate, ServingTls};
pub use session::{
    HalfSnapshot, Opened, RECORD_PLAIN_MAX, RECORD_WIRE_MAX, RecordFault, Records, RecordsSnapshot,
    Session, Writer, accept_session, connect_session,
};
pub use trust::PeerTrust;
pub use verify::Expected;
