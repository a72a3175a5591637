//! TLS provider, SPIFFE verification, certificates and CSR making: the only crate that names rustls.
