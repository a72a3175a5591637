//! Reading a certificate request: form, key policy, proof of possession.
//!
//! What the request asks for is read here and decided in `grant`.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA, OID_SIG_ED25519,
};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo as Spki;

/// Largest request read, PEM bytes: an RSA-8192 request with some names is under 8 KiB.
const PEM_BYTES_MAX: usize = 16 * 1024;
/// Most names a request may carry.
const NAMES_MAX: usize = 32;
/// RSA keys, bits: weaker ones are no longer safe, longer ones only burn CPU.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Why a request is not taken. Each is the caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CsrError {
    #[error("the CSR has {0} bytes, at most {PEM_BYTES_MAX} are read")]
    TooLarge(usize),
    #[error("the CSR is not PEM of a PKCS#10 request: {0}")]
    Form(String),
    #[error("the CSR's key is {0}; P-256, P-384, Ed25519 or RSA of 2048 to 8192 bits is needed")]
    Key(String),
    #[error("the CSR's signature does not prove possession of its key")]
    Signature,
    #[error("the CSR asks for {0}, which is never granted")]
    Name(&'static str),
    #[error("the CSR asks for over {NAMES_MAX} names")]
    Names,
}

/// A request whose sender has the key.
#[derive(Debug)]
pub(crate) struct Csr {
    /// URI SANs asked for, as they are.
    pub(crate) uris: Vec<String>,
    /// DNS SANs asked for, lower case.
    pub(crate) dns_names: Vec<String>,
    /// The key to certify.
    pub(crate) key: SubjectPublicKeyInfo,
}

impl Csr {
    /// Reads a request.
    ///
    /// # Errors
    /// See [`CsrError`].
    pub(crate) fn read(pem: &str) -> Result<Self, CsrError> {
        let form = |e: &dyn std::fmt::Display| CsrError::Form(e.to_string());
        if pem.len() > PEM_BYTES_MAX {
            return Err(CsrError::TooLarge(pem.len()));
        }
        let section = Pem::iter_from_buffer(pem.as_bytes())
            .next()
            .ok_or_else(|| form(&"no PEM section"))?
            .map_err(|e| form(&e))?;
        if !matches!(
            section.label.as_str(),
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST"
        ) {
            return Err(form(&"the PEM section is of another kind"));
        }
        let (rest, request) =
            X509CertificationRequest::from_der(&section.contents).map_err(|e| form(&e))?;
        if !rest.is_empty() {
            return Err(form(&"bytes follow the request"));
        }
        // The key first: a weak one is named as such, not as a signature that cannot be verified.
        let spki = &request.certification_request_info.subject_pki;
        check_key(spki)?;
        check_possession(&request)?;
        let (uris, dns_names) = names(&request)?;
        Ok(Self {
            uris,
            dns_names,
            key: SubjectPublicKeyInfo::from_der(spki.raw)
                .map_err(|e| CsrError::Key(e.to_string()))?,
        })
    }
}

fn check_possession(request: &X509CertificationRequest<'_>) -> Result<(), CsrError> {
    let algorithm = &request.signature_algorithm.algorithm;
    if *algorithm == OID_PKCS1_SHA1WITHRSA || *algorithm == OID_SHA1_WITH_RSA {
        return Err(CsrError::Signature);
    }
    request.verify_signature().map_err(|_| CsrError::Signature)
}

fn check_key(spki: &Spki<'_>) -> Result<(), CsrError> {
    let algorithm = &spki.algorithm.algorithm;
    if *algorithm == OID_SIG_ED25519 {
        return Ok(());
    }
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = spki.algorithm.parameters.as_ref();
        return match curve.and_then(|p| p.as_oid().ok()) {
            Some(curve) if curve == OID_EC_P256 || curve == OID_NIST_EC_P384 => Ok(()),
            Some(curve) => Err(CsrError::Key(format!("on the curve {curve}"))),
            None => Err(CsrError::Key("on a curve without a name".into())),
        };
    }
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        let Ok(PublicKey::RSA(key)) = spki.parsed() else {
            return Err(CsrError::Key("an unreadable RSA key".into()));
        };
        let bits = rsa_bits(key.modulus);
        return if RSA_BITS.contains(&bits) {
            Ok(())
        } else {
            Err(CsrError::Key(format!("RSA of {bits} bits")))
        };
    }
    Err(CsrError::Key(format!("of the algorithm {algorithm}")))
}

/// The length of a big-endian number.
fn rsa_bits(modulus: &[u8]) -> usize {
    let start = modulus.iter().position(|b| *b != 0);
    let digits = start.map_or(&[][..], |s| modulus.split_at(s).1);
    let leading = digits.first().map_or(0, |b| b.leading_zeros());
    (digits.len() * 8).saturating_sub(usize::try_from(leading).unwrap_or(0))
}

fn names(request: &X509CertificationRequest<'_>) -> Result<(Vec<String>, Vec<String>), CsrError> {
    let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
    let extensions = request.requested_extensions().into_iter().flatten();
    for extension in extensions {
        let ParsedExtension::SubjectAlternativeName(names) = extension else {
            // Every other extension is the authority's to set: what is asked for is ignored.
            continue;
        };
        for name in &names.general_names {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => dns_names.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(_) => return Err(CsrError::Name("an IP address")),
                GeneralName::RFC822Name(_) => return Err(CsrError::Name("a mail address")),
                _ => return Err(CsrError::Name("a name of an unknown kind")),
            }
            if uris.len() + dns_names.len() > NAMES_MAX {
                return Err(CsrError::Names);
            }
        }
    }
    Ok((uris, dns_names))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, RsaKeySize, SanType};

    const IDENTITY: &str = "spiffe://cluster.local/ns/demo/sa/a";

    fn params() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(IDENTITY.try_into().unwrap())];
        params
    }

    fn request(pair: &KeyPair) -> String {
        params().serialize_request(pair).unwrap().pem().unwrap()
    }

    /// The request with one bit of its signature changed.
    fn tampered_by(pair: &KeyPair) -> String {
        let request = params().serialize_request(pair).unwrap();
        let mut der = request.der().to_vec();
        *der.last_mut().unwrap() ^= 1;
        encode(&der)
    }

    /// A request whose signature is wrong.
    pub(crate) fn tampered() -> String {
        tampered_by(&KeyPair::generate().unwrap())
    }

    fn encode(der: &[u8]) -> String {
        let pem = crate::roots::to_pem(der);
        pem.replace(" CERTIFICATE-", " CERTIFICATE REQUEST-")
    }

    #[test]
    fn good_keys_are_taken() {
        for algorithm in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
            &rcgen::PKCS_RSA_SHA256,
        ] {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            let csr = Csr::read(&request(&pair)).unwrap();
            assert_eq!(csr.uris, [IDENTITY]);
            assert!(csr.dns_names.is_empty());
        }
    }

    #[test]
    fn a_bad_signature_is_refused() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(
                Csr::read(&tampered_by(&pair)).unwrap_err(),
                CsrError::Signature
            );
        }
        // A good encoding otherwise: the same bytes unchanged are taken.
        let pair = KeyPair::generate().unwrap();
        let request = params().serialize_request(&pair).unwrap();
        Csr::read(&encode(request.der())).unwrap();
    }

    #[test]
    fn weak_and_foreign_keys_are_refused_by_name() {
        // No library here makes such a key: these were made with openssl.
        let error = Csr::read(include_str!("csr/rsa1024.pem")).unwrap_err();
        assert!(error.to_string().contains("RSA of 1024 bits"), "{error}");
        let error = Csr::read(include_str!("csr/secp256k1.pem")).unwrap_err();
        assert!(error.to_string().contains("1.3.132.0.10"), "{error}");
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
        assert!(matches!(Csr::read(&request(&pair)), Err(CsrError::Key(_))));
        let pair = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_4096).unwrap();
        Csr::read(&request(&pair)).unwrap();
    }

    #[test]
    fn names_that_are_never_granted_are_refused() {
        let pair = KeyPair::generate().unwrap();
        let mut with_ip = params();
        let address = std::net::IpAddr::from([10, 0, 0, 1]);
        with_ip.subject_alt_names.push(SanType::IpAddress(address));
        let pem = with_ip.serialize_request(&pair).unwrap().pem().unwrap();
        assert_eq!(
            Csr::read(&pem).unwrap_err(),
            CsrError::Name("an IP address")
        );
        let mut many = params();
        for i in 0..NAMES_MAX {
            let name = format!("n{i}.test").as_str().try_into().unwrap();
            many.subject_alt_names.push(SanType::DnsName(name));
        }
        let pem = many.serialize_request(&pair).unwrap().pem().unwrap();
        assert_eq!(Csr::read(&pem).unwrap_err(), CsrError::Names);
    }

    #[test]
    fn other_text_is_refused() {
        let pair = KeyPair::generate().unwrap();
        let cut: String = request(&pair).chars().take(200).collect();
        let key = pair.serialize_pem();
        for text in ["", "hello", &cut, &key] {
            assert!(matches!(Csr::read(text), Err(CsrError::Form(_))), "{text}");
        }
        let long = "x".repeat(PEM_BYTES_MAX + 1);
        assert!(matches!(Csr::read(&long), Err(CsrError::TooLarge(_))));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(
            der in proptest::collection::vec(0u8.., 0..300), cut in 0usize..400, flip in 0usize..400,
        ) {
            drop(Csr::read(&encode(&der)));
            let pair = KeyPair::generate().unwrap();
            let mut good = params().serialize_request(&pair).unwrap().der().to_vec();
            if let Some(byte) = good.get_mut(flip) {
                *byte ^= 0x55;
            }
            good.truncate(cut);
            drop(Csr::read(&encode(&good)));
        }
    }
}
