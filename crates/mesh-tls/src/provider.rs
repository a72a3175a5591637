//! The cryptography in use: aws-lc-rs, narrowed for the mesh.

use crate::TlsError;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::sync::{Arc, OnceLock};

/// The provider of mesh connections: AES-256-GCM and AES-128-GCM only (interop/hbone.md,
/// Transport), X25519MLKEM768 preferred for the key exchange.
pub(crate) fn mesh() -> &'static Arc<CryptoProvider> {
    static MESH: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    MESH.get_or_init(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
                aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ],
            ..aws_lc_rs::default_provider()
        })
    })
}

/// The provider of the edge: the library's defaults, for clients we do not choose.
pub(crate) fn edge() -> &'static Arc<CryptoProvider> {
    static EDGE: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    EDGE.get_or_init(|| Arc::new(aws_lc_rs::default_provider()))
}

/// Makes aws-lc-rs the provider of every TLS user in this process that asks for the default one,
/// such as gRPC channels. Does nothing when there is one already.
pub fn install_provider() {
    if CryptoProvider::get_default().is_none() {
        // Lost to another thread: then that one's provider stands, which is as good.
        drop(aws_lc_rs::default_provider().install_default());
    }
}

/// Fills a buffer with random bytes fit for secrets and serial numbers.
///
/// # Errors
/// When the system gives none.
pub fn fill_random(bytes: &mut [u8]) -> Result<(), TlsError> {
    edge()
        .secure_random
        .fill(bytes)
        .map_err(|_| TlsError::Key("the system gives no random bytes".into()))
}
