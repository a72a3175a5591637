//! Secrets of type `kubernetes.io/tls`, for listeners.

use crate::objects::Objects;
use mesh_model::{ObjectName, TlsCertificatePem};
use mesh_tls::ServingCertificate;

const TYPE_TLS: &str = "kubernetes.io/tls";

/// The certificate and key of a Secret, checked to be a pair.
///
/// # Errors
/// Why there is none.
pub(super) fn certificate(
    objects: &Objects,
    name: &ObjectName,
) -> Result<TlsCertificatePem, String> {
    let secret = objects
        .secrets
        .get(name)
        .ok_or_else(|| format!("Secret {name} does not exist"))?;
    if secret.type_.as_deref() != Some(TYPE_TLS) {
        return Err(format!("Secret {name} is not of type {TYPE_TLS}"));
    }
    let text = |key: &str| {
        let plain = secret
            .string_data
            .as_ref()
            .and_then(|d| d.get(key))
            .cloned();
        let encoded = || {
            let bytes = secret.data.as_ref()?.get(key)?;
            String::from_utf8(bytes.0.clone()).ok()
        };
        plain
            .or_else(encoded)
            .ok_or_else(|| format!("Secret {name} has no text {key}"))
    };
    let pem = TlsCertificatePem {
        chain_pem: text("tls.crt")?.into(),
        key_pem: text("tls.key")?.into(),
    };
    match ServingCertificate::from_pem(&pem) {
        Ok(_) => Ok(pem),
        Err(error) => Err(format!("Secret {name}: {error}")),
    }
}
