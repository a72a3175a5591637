//! The demo's configuration folder: `manifests/demo/`, carried in this program, and one Secret made anew.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::fs;
use std::path::{Path, PathBuf};

/// The pods, also read by the demo itself.
pub const PODS: &str = include_str!("../../../../manifests/demo/pods.yaml");

/// Every file of the folder.
const FILES: &[(&str, &str)] = &[
    ("pods.yaml", PODS),
    (
        "services.yaml",
        include_str!("../../../../manifests/demo/services.yaml"),
    ),
    (
        "gateway.yaml",
        include_str!("../../../../manifests/demo/gateway.yaml"),
    ),
    (
        "reviews-route.yaml",
        include_str!("../../../../manifests/demo/reviews-route.yaml"),
    ),
    (
        "waypoint.yaml",
        include_str!("../../../../manifests/demo/waypoint.yaml"),
    ),
    (
        "policies.yaml",
        include_str!("../../../../manifests/demo/policies.yaml"),
    ),
];

/// Host names that the gateway's certificate is for.
pub const SHOP: &str = "shop.demo.example";
/// The chat's host name.
pub const CHAT: &str = "chat.demo.example";

/// Where the folder is, and the root that its web certificate chains to.
#[derive(Debug)]
pub struct Configuration {
    /// The folder.
    pub folder: PathBuf,
    /// PEM file of the root for clients of the gateway.
    pub web_root: PathBuf,
    /// The root's PEM.
    pub web_root_pem: String,
}

/// Writes the folder, with a web certificate made for this run.
///
/// # Errors
/// When a file cannot be written, or a certificate not be made.
pub fn write(base: &Path) -> Result<Configuration> {
    let folder = base.join("configuration");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    for (name, text) in FILES {
        put(&folder.join(name), text)?;
    }
    let web = web_certificate()?;
    put(
        &folder.join("demo-example-tls.yaml"),
        &secret(&web.chain_pem, &web.key_pem),
    )?;
    let web_root = base.join("web-root.pem");
    put(&web_root, &web.root_pem)?;
    Ok(Configuration {
        folder,
        web_root,
        web_root_pem: web.root_pem,
    })
}

fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

struct WebCertificate {
    chain_pem: String,
    key_pem: String,
    root_pem: String,
}

fn web_certificate() -> Result<WebCertificate> {
    let root_key = KeyPair::generate()?;
    let mut root = CertificateParams::new(Vec::new())?;
    root.distinguished_name
        .push(DnType::CommonName, "Strata demo web root");
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root_certificate = root.self_signed(&root_key)?;
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(vec![SHOP.to_owned(), CHAT.to_owned()])?;
    leaf.distinguished_name.push(DnType::CommonName, SHOP);
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = leaf.signed_by(&key, &issuer)?;
    Ok(WebCertificate {
        chain_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
        root_pem: root_certificate.pem(),
    })
}

/// The certificate as `kubectl create secret tls` would store it, in readable form.
fn secret(chain_pem: &str, key_pem: &str) -> String {
    let indent = |pem: &str| {
        pem.lines()
            .map(|line| format!("    {line}\n"))
            .collect::<String>()
    };
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: demo-example-tls\n  namespace: demo\n\
         type: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indent(chain_pem),
        indent(key_pem)
    )
}
