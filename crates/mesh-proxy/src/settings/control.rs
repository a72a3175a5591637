//! How the control plane and the certificate authority are reached.

use super::parse;
use mesh_grpc::{ChannelSettings, TextSource};
use mesh_identity::CertificateSource;
use std::time::Duration;

/// The control plane when no other is named.
pub const XDS_ADDRESS_DEFAULT: &str = "https://mesh-control.strata-system.svc:15012";

/// Flags for the control plane and the certificate authority.
#[derive(Debug, Clone, clap::Args)]
pub struct ControlFlags {
    /// Address of the control plane.
    #[arg(
        long,
        env = "XDS_ADDRESS",
        default_value = XDS_ADDRESS_DEFAULT,
        value_parser = parse::with_scheme
    )]
    pub xds_address: String,
    /// PEM root of the control plane: a file, or the text itself.
    #[arg(
        long,
        env = "XDS_ROOT_CA",
        default_value = "/var/run/secrets/istio/root-cert.pem",
        value_parser = parse::text_source
    )]
    pub xds_root: TextSource,
    /// Name the control plane's certificate must carry, when not the address's host.
    #[arg(long, env = "ALT_XDS_HOSTNAME")]
    pub xds_server_name: Option<String>,
    /// Address of the certificate authority.
    #[arg(
        long,
        env = "CA_ADDRESS",
        default_value = "https://mesh-ca.strata-system.svc:15012",
        value_parser = parse::with_scheme
    )]
    pub ca_address: String,
    /// PEM root of the certificate authority: a file, or the text itself.
    #[arg(
        long,
        env = "CA_ROOT_CA",
        default_value = "/var/run/secrets/istio/root-cert.pem",
        value_parser = parse::text_source
    )]
    pub ca_root: TextSource,
    /// Name the certificate authority's certificate must carry, when not the address's host.
    #[arg(long, env = "ALT_CA_HOSTNAME")]
    pub ca_server_name: Option<String>,
    /// Bearer token of both: a file, or the text itself.
    #[arg(
        long,
        env = "AUTH_TOKEN",
        default_value = "/var/run/secrets/tokens/istio-token",
        hide_env_values = true,
        value_parser = parse::text_source
    )]
    pub auth_token: TextSource,
    /// Lifetime asked of certificates.
    #[arg(long, env = "SECRET_TTL", default_value = "24h", value_parser = parse::duration)]
    pub secret_ttl: Duration,
}

impl ControlFlags {
    /// The channel to the control plane. `cluster` is sent along; `mark` is put on its packets.
    pub fn control_plane(&self, cluster: &str, mark: Option<u32>) -> ChannelSettings {
        ChannelSettings {
            address: self.xds_address.clone(),
            root: Some(self.xds_root.clone()),
            server_name: self.xds_server_name.clone(),
            token: Some(self.auth_token.clone()),
            metadata: metadata(cluster, "XDS_HEADER_", environment()),
            mark,
        }
    }

    /// Certificates of the authority, asked for in this proxy's own name, or, with `impersonate`, in
    /// the names of the pods it carries. `cluster` and `mark` are those of [`Self::control_plane`].
    pub fn authority(
        &self,
        cluster: &str,
        mark: Option<u32>,
        impersonate: bool,
    ) -> CertificateSource {
        CertificateSource::Ca {
            channel: ChannelSettings {
                address: self.ca_address.clone(),
                root: Some(self.ca_root.clone()),
                server_name: self.ca_server_name.clone(),
                token: Some(self.auth_token.clone()),
                metadata: metadata(cluster, "CA_HEADER_", environment()),
                mark,
            },
            impersonate,
            ttl: self.secret_ttl,
        }
    }
}

/// What is sent with each call: the cluster, and a header for each variable with the prefix, such as
/// `XDS_HEADER_x-team=shop` (interop/ca.md, interop/xds-workload.md section 1).
fn metadata(
    cluster: &str,
    prefix: &str,
    environment: impl Iterator<Item = (String, String)>,
) -> Vec<(String, String)> {
    let mut all = vec![("clusterid".to_owned(), cluster.to_owned())];
    all.extend(environment.filter_map(|(name, value)| {
        let header = name
            .strip_prefix(prefix)
            .filter(|header| !header.is_empty())?;
        Some((header.to_lowercase(), value))
    }));
    all
}

/// The environment's variables that are text.
pub(super) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        control: ControlFlags,
    }

    fn flags(arguments: &[&str]) -> ControlFlags {
        Flags::try_parse_from([&["proxy"], arguments].concat())
            .unwrap()
            .control
    }

    #[test]
    fn variables_with_the_prefix_are_headers() {
        let environment = [
            ("XDS_HEADER_X-Team", "shop"),
            ("XDS_HEADER_", "no"),
            ("PATH", "/bin"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            metadata("c1", "XDS_HEADER_", environment.into_iter()),
            [
                ("clusterid".into(), "c1".into()),
                ("x-team".into(), "shop".into())
            ]
        );
    }

    #[test]
    fn both_channels_carry_the_token_the_cluster_and_the_mark() {
        let flags = flags(&[
            "--xds-address=control:15012",
            "--xds-server-name=mesh-control",
            "--ca-address=http://ca:1",
            "--auth-token=secret",
        ]);
        let control = flags.control_plane("c1", Some(1337));
        assert_eq!(control.address, "https://control:15012");
        assert_eq!(control.server_name.as_deref(), Some("mesh-control"));
        assert_eq!(control.mark, Some(1337));
        assert_eq!(control.metadata, [("clusterid".into(), "c1".into())]);
        let source = flags.authority("c1", None, true);
        let CertificateSource::Ca {
            channel,
            impersonate: true,
            ttl,
        } = source
        else {
            panic!("not in the pods' names: {source:?}");
        };
        assert_eq!(
            (&*channel.address, channel.server_name),
            ("http://ca:1", None)
        );
        assert_eq!((channel.token, channel.mark), (control.token, None));
        assert_eq!(ttl, Duration::from_secs(86_400));
    }

    #[test]
    fn a_token_given_as_text_is_not_shown() {
        let shown = format!("{:?}", flags(&["--auth-token=secret"]));
        assert!(!shown.contains("secret\""), "{shown}");
        assert!(shown.contains("auth_token: Literal(6 bytes)"), "{shown}");
    }
}
