//! The signing key and the roots, kept in the state directory.
//!
//! | file | mode | what |
//! |---|---|---|
//! | `ca-key.pem` | 0600 | the signing key |
//! | `ca-cert.pem` | 0644 | its certificate: the root itself, or an intermediate put there by the user |
//! | `cert-chain.pem` | 0644 | optional: certificates between `ca-cert.pem` and the roots |
//! | `root-cert.pem` | 0644 | what every proxy trusts; may hold several roots while one replaces another |
//!
//! The names are those of Istio's `cacerts` (interop/ca.md, Signing material), so a directory of
//! that kind can be taken over. Invariant: only an empty directory gets a new root. Anything else
//! that cannot be read is an error, because a new root would cut off every proxy of the mesh.

mod files;

use base64::Engine;
use files::{create_private_dir, lock, read, write_atomic};
use mesh_tls::fill_random;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SignatureAlgorithm,
};
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

pub(crate) const KEY_FILE: &str = "ca-key.pem";
pub(crate) const CERTIFICATE_FILE: &str = "ca-cert.pem";
pub(crate) const CHAIN_FILE: &str = "cert-chain.pem";
pub(crate) const ROOT_FILE: &str = "root-cert.pem";
/// There while the first start writes its files: nothing was signed yet, so it may start over.
const CREATING_FILE: &str = "creating";

/// Lifetime of a root made here (interop/ca.md: 10 years).
const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far a start of validity is back-dated, for clocks that lag.
pub(crate) const BACK_DATED: Duration = Duration::from_secs(120);

/// Why there is no signing key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootsError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{} has mode {mode:o}; it must be {wanted:o}, for whoever reads the key can sign anything",
        path.display()
    )]
    Mode {
        path: PathBuf,
        mode: u32,
        wanted: u32,
    },
    #[error(
        "{} is missing while {present} is there; put it back (a new root would cut off every proxy)",
        path.display()
    )]
    Missing {
        path: PathBuf,
        present: &'static str,
    },
    #[error("{}: {why}", path.display())]
    Content { path: PathBuf, why: String },
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    #[error("no root could be made: {0}")]
    Make(String),
}

impl RootsError {
    fn content(path: &Path, why: &(impl ToString + ?Sized)) -> Self {
        Self::Content {
            path: path.to_owned(),
            why: why.to_string(),
        }
    }
}

/// Algorithm of a root made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RootAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    P256,
    /// ECDSA on P-384 with SHA-384.
    P384,
}

impl RootAlgorithm {
    fn rcgen(self) -> &'static SignatureAlgorithm {
        match self {
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        }
    }
}

/// The signer and what it vouches by.
pub(crate) struct Authority {
    /// Signs leaves.
    pub(crate) issuer: Issuer<'static, KeyPair>,
    /// When the signer's own certificate ends: no leaf lives longer.
    pub(crate) not_after: SystemTime,
    /// From the signer's certificate, when it is no root, towards the roots; one PEM each.
    pub(crate) intermediates_pem: Vec<String>,
    /// Every root, concatenated.
    pub(crate) roots_pem: String,
    /// Subject of the signer, for admin pages.
    pub(crate) subject: String,
    /// Serial number of the signer, hex.
    pub(crate) serial: String,
    /// Held while this process lives.
    _lock: File,
}

impl Authority {
    /// Opens the state directory; makes it, and a root, at the first start.
    ///
    /// # Errors
    /// See [`RootsError`]; nothing is changed then.
    pub(crate) fn open(
        directory: &Path,
        trust_domain: &str,
        algorithm: RootAlgorithm,
    ) -> Result<Self, RootsError> {
        create_private_dir(directory)?;
        let lock = lock(directory)?;
        let path = |name: &str| directory.join(name);
        let creating = path(CREATING_FILE);
        let present = [KEY_FILE, CERTIFICATE_FILE, ROOT_FILE]
            .into_iter()
            .find(|name| path(name).exists());
        if creating.exists() || present.is_none() {
            create(directory, &creating, trust_domain, algorithm)?;
        }
        Self::load(directory, lock)
    }

    fn load(directory: &Path, lock: File) -> Result<Self, RootsError> {
        let path = |name: &str| directory.join(name);
        let (key_path, certificate_path) = (path(KEY_FILE), path(CERTIFICATE_FILE));
        let key_pem = read(&key_path, Some(0o600), CERTIFICATE_FILE)?;
        let certificate_pem = read(&certificate_path, None, KEY_FILE)?;
        let roots_pem = read(&path(ROOT_FILE), None, KEY_FILE)?;
        let key = KeyPair::from_pem(&key_pem).map_err(|e| RootsError::content(&key_path, &e))?;
        let signer = Signer::read(&certificate_path, &certificate_pem, &key)?;
        let roots = certificates(&path(ROOT_FILE), &roots_pem)?;
        let mut intermediates = Vec::new();
        if !roots.contains(&signer.der) {
            intermediates.push(signer.der.clone());
            let chain_path = path(CHAIN_FILE);
            if chain_path.exists() {
                let chain = read(&chain_path, None, KEY_FILE)?;
                for der in certificates(&chain_path, &chain)? {
                    if !intermediates.contains(&der) && !roots.contains(&der) {
                        intermediates.push(der);
                    }
                }
            }
        }
        let issuer = Issuer::from_ca_cert_der(&signer.der.as_slice().into(), key)
            .map_err(|e| RootsError::content(&certificate_path, &e))?;
        Ok(Self {
            issuer,
            not_after: signer.not_after,
            intermediates_pem: intermediates.iter().map(|der| to_pem(der)).collect(),
            roots_pem: roots.iter().map(|der| to_pem(der)).collect(),
            subject: signer.subject,
            serial: signer.serial,
            _lock: lock,
        })
    }
}

/// Facts of the signing certificate, checked.
struct Signer {
    der: Vec<u8>,
    not_after: SystemTime,
    subject: String,
    serial: String,
}

impl Signer {
    fn read(path: &Path, pem: &str, key: &KeyPair) -> Result<Self, RootsError> {
        let bad = |why: &str| RootsError::content(path, why);
        let der = certificates(path, pem)?
            .into_iter()
            .next()
            .ok_or_else(|| bad("no certificate in it"))?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|e| bad(&e.to_string()))?;
        if !parsed.is_ca() {
            return Err(bad("not the certificate of an authority"));
        }
        if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
            return Err(bad("ca-key.pem is the key of another certificate"));
        }
        let not_after = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(not_after);
        if not_after <= SystemTime::now() {
            return Err(bad("the certificate has expired"));
        }
        let subject = parsed.subject().to_string();
        let serial = parsed.serial.to_str_radix(16);
        Ok(Self {
            der,
            not_after,
            subject,
            serial,
        })
    }
}

/// Every certificate of a PEM text, DER.
fn certificates(path: &Path, pem: &str) -> Result<Vec<Vec<u8>>, RootsError> {
    let mut all = Vec::new();
    for section in Pem::iter_from_buffer(pem.as_bytes()) {
        let section = section.map_err(|e| RootsError::content(path, &e))?;
        if section.label == "CERTIFICATE" {
            X509Certificate::from_der(&section.contents)
                .map_err(|e| RootsError::content(path, &e))?;
            all.push(section.contents);
        }
    }
    if all.is_empty() {
        return Err(RootsError::content(path, "no certificate in it"));
    }
    Ok(all)
}

fn create(
    directory: &Path,
    creating: &Path,
    trust_domain: &str,
    algorithm: RootAlgorithm,
) -> Result<(), RootsError> {
    let make = |e: rcgen::Error| RootsError::Make(e.to_string());
    write_atomic(creating, b"", 0o600)?;
    let key = KeyPair::generate_for(algorithm.rcgen()).map_err(make)?;
    let serial = random_serial()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = root_name(trust_domain, &serial);
    params.serial_number = Some(serial.into());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    params.not_before = (now - BACK_DATED).into();
    params.not_after = (now + ROOT_TTL).into();
    let certificate = params.self_signed(&key).map_err(make)?.pem();
    let path = |name: &str| directory.join(name);
    write_atomic(&path(KEY_FILE), key.serialize_pem().as_bytes(), 0o600)?;
    write_atomic(&path(CERTIFICATE_FILE), certificate.as_bytes(), 0o644)?;
    write_atomic(&path(ROOT_FILE), certificate.as_bytes(), 0o644)?;
    std::fs::remove_file(creating).map_err(|source| RootsError::Io {
        path: creating.to_owned(),
        source,
    })?;
    tracing::info!(directory = %directory.display(), "a new root was made");
    Ok(())
}

/// A name that tells roots of one mesh apart: an operator sees two while one replaces the other.
fn root_name(trust_domain: &str, serial: &[u8]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    let mut short = String::new();
    for byte in serial.iter().take(4) {
        // Writing to a String cannot fail.
        write!(short, "{byte:02x}").ok();
    }
    name.push(DnType::OrganizationName, trust_domain);
    name.push(DnType::CommonName, format!("strata root {short}"));
    name
}

/// A random positive serial number of 16 bytes (RFC 5280 4.1.2.2 wants it unique and short).
pub(crate) fn random_serial() -> Result<Vec<u8>, RootsError> {
    let mut serial = [0; 16];
    fill_random(&mut serial).map_err(|e| RootsError::Make(e.to_string()))?;
    // Positive, and with a first byte that no encoder drops.
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial.to_vec())
}

/// One certificate as PEM, ending with a newline: ztunnel joins the parts as they are.
pub(crate) fn to_pem(der: &[u8]) -> String {
    /// Characters a line, RFC 7468.
    const LINE: usize = 64;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for (i, c) in text.chars().enumerate() {
        if i > 0 && i % LINE == 0 {
            pem.push('\n');
        }
        pem.push(c);
    }
    pem + "\n-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests;
