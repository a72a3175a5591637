//! What connections between members of the mesh are made with.

use super::Mistakes;
use mesh_tls::Cryptography;
use std::path::PathBuf;

/// Flags for the cryptography and revocation of mesh connections (`docs/cryptography.md`).
#[derive(Debug, Clone, clap::Args)]
pub struct TlsFlags {
    /// Library that seals and opens records: `auto` (a trial of a millisecond at start), `ring` or
    /// `aws-lc`.
    #[arg(long, env = "TLS_AEAD_LIBRARY", default_value = "auto")]
    pub aead_library: String,
    /// `pqc`: the key exchange is X25519MLKEM768 and nothing else.
    #[arg(long, env = "COMPLIANCE_POLICY", default_value = "")]
    pub compliance_policy: String,
    /// Revocation lists: a file, or a folder such as a mounted ConfigMap; watched.
    #[arg(long, env = "CRL_PATH", value_name = "PATH")]
    pub crl_path: Option<PathBuf>,
}

/// The same, in the form it is used in.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// For [`mesh_tls::set_cryptography`].
    pub cryptography: Cryptography,
    /// Where revocation lists are.
    pub crl_path: Option<PathBuf>,
}

impl TlsFlags {
    pub(super) fn check(&self, mistakes: &mut Mistakes) -> Tls {
        let aead = mistakes.value("TLS_AEAD_LIBRARY", self.aead_library.parse());
        let policy = mistakes.value("COMPLIANCE_POLICY", self.compliance_policy.parse());
        let crl_path = self.crl_path.clone();
        Tls {
            cryptography: Cryptography {
                aead: aead.unwrap_or_default(),
                key_exchange: policy.unwrap_or_default(),
            },
            crl_path: crl_path.filter(|path| !path.as_os_str().is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use mesh_tls::{AeadChoice, AeadLibrary, KeyExchange};

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        tls: TlsFlags,
    }

    fn check(arguments: &[&str], mistakes: &mut Mistakes) -> Tls {
        let flags = Flags::try_parse_from([&["proxy"], arguments].concat()).unwrap();
        flags.tls.check(mistakes)
    }

    #[test]
    fn library_policy_and_lists_are_read() {
        let mut mistakes = Mistakes::default();
        let tls = check(&[], &mut mistakes);
        assert_eq!(tls.cryptography, Cryptography::default());
        assert_eq!(tls.crl_path, None);
        let tls = check(
            &[
                "--aead-library=ring",
                "--compliance-policy=pqc",
                "--crl-path=/crl",
            ],
            &mut mistakes,
        );
        let ring = AeadChoice::Fixed(AeadLibrary::Ring);
        assert_eq!(tls.cryptography.aead, ring);
        let only = KeyExchange::PostQuantumOnly;
        assert_eq!(tls.cryptography.key_exchange, only);
        assert_eq!(tls.crl_path, Some("/crl".into()));
        assert!(mistakes.is_empty());
        check(
            &["--aead-library=x", "--compliance-policy=fips-140-2"],
            &mut mistakes,
        );
        let told = mistakes.into_error().to_string();
        assert!(told.contains("TLS_AEAD_LIBRARY: ") && told.contains("COMPLIANCE_POLICY: "));
    }
}
