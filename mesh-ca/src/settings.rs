//! Flags and environment: the only reader of both. Mistakes are reported together.

use crate::grant::Rules;
use crate::roots::RootAlgorithm;
use clap::Parser;
use mesh_discovery::{NodeInfo, Role, Source, codec};
use mesh_grpc::{ChannelSettings, TextSource};
use mesh_model::{ObjectName, SpiffeId, TRUST_DOMAIN_DEFAULT};
use mesh_telemetry::LogFormat;
use mesh_tls::KeyExchange;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The account the authority itself has.
const OWN_ACCOUNT: &str = "mesh-ca";
/// Names every authority serves as, beside those of `--dns-name`.
const OWN_DNS_NAMES: [&str; 3] = [
    "mesh-ca.strata-system.svc",
    "mesh-ca.strata-system.svc.cluster.local",
    "localhost",
];

/// One entry of `--serving-names`: `namespace/account=name,name`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ServingNames {
    account: ObjectName,
    names: BTreeSet<String>,
}

impl FromStr for ServingNames {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || format!("'{text}' is not of the form namespace/account=name,name");
        let (account, names) = text.split_once('=').ok_or_else(form)?;
        let names: BTreeSet<String> = names
            .split(',')
            .map(|name| name.trim().to_ascii_lowercase())
            .filter(|name| !name.is_empty())
            .collect();
        if names.is_empty() {
            return Err(form());
        }
        Ok(Self {
            account: account.trim().parse().map_err(|_| form())?,
            names,
        })
    }
}

/// Flags and environment as given.
#[derive(Debug, Parser)]
#[command(
    name = "mesh-ca",
    version,
    about = "Certificate authority: authenticates callers and signs workload CSRs"
)]
pub(crate) struct Flags {
    /// Folder of the signing key and the roots; made at the first start.
    #[arg(long, env = "CA_STATE_DIR", value_name = "DIR")]
    state: PathBuf,
    /// JSON Web Key Set that callers' tokens are signed with.
    #[arg(long, env = "CA_TOKEN_KEYS", value_name = "FILE")]
    token_keys: PathBuf,
    /// Audiences of which a token must have one.
    #[arg(
        long,
        env = "TOKEN_AUDIENCES",
        default_value = "istio-ca",
        value_delimiter = ','
    )]
    token_audiences: Vec<String>,
    /// Issuers of which a token must be; none given: whoever holds a key of the set.
    #[arg(long, env = "TOKEN_ISSUERS", value_delimiter = ',')]
    token_issuers: Vec<String>,

    /// Address of the gRPC service.
    #[arg(long, env = "CA_LISTEN", default_value = "0.0.0.0:15012")]
    listen: SocketAddr,
    /// Further DNS names to serve as.
    #[arg(long = "dns-name", env = "CA_DNS_NAMES", value_delimiter = ',')]
    dns_names: Vec<String>,
    /// Trust domain of every identity.
    #[arg(long, env = "TRUST_DOMAIN", default_value = TRUST_DOMAIN_DEFAULT)]
    trust_domain: String,
    /// Accounts of node proxies, which may ask in the name of the workloads on their node.
    #[arg(
        long,
        env = "CA_TRUSTED_NODE_ACCOUNTS",
        value_name = "NS/SA",
        value_delimiter = ','
    )]
    trusted_node_accounts: Vec<ObjectName>,
    /// An account that serves, and the DNS names it may have; may be given several times.
    #[arg(
        long,
        env = "CA_SERVING_NAMES",
        value_name = "NS/SA=NAME,..",
        value_delimiter = ';'
    )]
    serving_names: Vec<ServingNames>,
    /// Lifetime of a certificate when none is asked for.
    #[arg(long, env = "DEFAULT_WORKLOAD_CERT_TTL", default_value = "24h", value_parser = duration)]
    ttl_default: Duration,
    /// Longest lifetime of a certificate.
    #[arg(long, env = "MAX_WORKLOAD_CERT_TTL", default_value = "90d", value_parser = duration)]
    ttl_max: Duration,
    /// Algorithm of a root made at the first start.
    #[arg(long, env = "CA_ROOT_ALGORITHM", value_enum, default_value = "p256")]
    root_algorithm: RootAlgorithm,

    /// Control plane that knows which workloads run on which node; none: no impersonation.
    #[arg(long, env = "XDS_ADDRESS")]
    xds: Option<String>,
    /// PEM root of the control plane, a file or the text itself; none: this authority's own.
    #[arg(long, env = "XDS_ROOT_CA")]
    xds_root: Option<String>,
    /// Name the control plane's certificate must carry, when not the address's host.
    #[arg(long, env = "ALT_XDS_HOSTNAME")]
    xds_server_name: Option<String>,
    /// Bearer token towards the control plane: a file, or the text itself.
    #[arg(long, env = "AUTH_TOKEN", hide_env_values = true)]
    auth_token: Option<String>,
    /// Cluster; sent to the control plane.
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes")]
    cluster_id: String,
    /// This pod's name.
    #[arg(long, env = "POD_NAME", default_value = "mesh-ca")]
    pod_name: String,
    /// This pod's namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "strata-system")]
    pod_namespace: String,
    /// This pod's address.
    #[arg(long, env = "INSTANCE_IP", default_value = "127.0.0.1")]
    instance_ip: String,

    /// `pqc`: TLS takes and offers the key exchange X25519MLKEM768 and nothing else.
    #[arg(long, env = "COMPLIANCE_POLICY", default_value = "")]
    compliance_policy: KeyExchange,
    /// Log filter.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log_filter: String,
    /// Log format: plain or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "plain")]
    log_format: String,
    /// How long calls may run on after SIGTERM.
    #[arg(
        long,
        env = "CONNECTION_TERMINATION_DEADLINE",
        default_value = "5s",
        value_parser = duration
    )]
    drain_deadline: Duration,
    /// Admin pages.
    #[arg(long, env = "ADMIN_ADDR", default_value = "127.0.0.1:15000")]
    admin_address: SocketAddr,
    /// Metrics.
    #[arg(long, env = "STATS_ADDR", default_value = "0.0.0.0:15020")]
    metrics_address: SocketAddr,
    /// Readiness.
    #[arg(long, env = "READINESS_ADDR", default_value = "0.0.0.0:15021")]
    readiness_address: SocketAddr,
}

/// What is used.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Folder of the signing key and the roots.
    pub(crate) state: PathBuf,
    /// Algorithm of a root made at the first start.
    pub(crate) root_algorithm: RootAlgorithm,
    /// JWKS file.
    pub(crate) token_keys: PathBuf,
    /// Audiences of which a token must have one.
    pub(crate) token_audiences: Vec<String>,
    /// Issuers of which a token must be; empty: any.
    pub(crate) token_issuers: Vec<String>,
    /// Address of the gRPC service.
    pub(crate) listen: SocketAddr,
    /// Our own identity and the DNS names we serve as.
    pub(crate) own: (SpiffeId, Vec<String>),
    /// What is granted to whom.
    pub(crate) rules: Rules,
    /// Where the state of the mesh comes from.
    pub(crate) discovery: Option<Source>,
    /// Key exchanges of all TLS of this process.
    pub(crate) key_exchange: KeyExchange,
    /// Log filter and format.
    pub(crate) log: (String, LogFormat),
    /// How long calls may run on after SIGTERM.
    pub(crate) drain_deadline: Duration,
    /// Admin, metrics and readiness pages.
    pub(crate) admin_address: SocketAddr,
    pub(crate) metrics_address: SocketAddr,
    pub(crate) readiness_address: SocketAddr,
}

impl Flags {
    /// Turns what was given into what is used.
    ///
    /// # Errors
    /// Every mistake found, one a line.
    pub(crate) fn check(self) -> anyhow::Result<Settings> {
        let mut mistakes = Vec::new();
        let own = SpiffeId::new(&self.trust_domain, &self.pod_namespace, OWN_ACCOUNT)
            .inspect_err(|e| mistakes.push(format!("TRUST_DOMAIN or POD_NAMESPACE: {e}")))
            .ok();
        if self.ttl_default.is_zero() || self.ttl_default > self.ttl_max {
            mistakes.push("DEFAULT_WORKLOAD_CERT_TTL must be within MAX_WORKLOAD_CERT_TTL".into());
        }
        if self.token_audiences.iter().all(String::is_empty) {
            mistakes.push("TOKEN_AUDIENCES must name an audience".into());
        }
        let log_format = self
            .log_format
            .parse()
            .inspect_err(|e| mistakes.push(format!("LOG_FORMAT: {e}")))
            .unwrap_or_default();
        let (Some(own), true) = (own, mistakes.is_empty()) else {
            anyhow::bail!("{}", mistakes.join("\n"));
        };
        Ok(Settings {
            own: (own, self.own_dns_names()),
            rules: self.rules(),
            discovery: self.discovery(),
            key_exchange: self.compliance_policy,
            log: (self.log_filter, log_format),
            state: self.state,
            root_algorithm: self.root_algorithm,
            token_keys: self.token_keys,
            token_audiences: self.token_audiences,
            token_issuers: self.token_issuers,
            listen: self.listen,
            drain_deadline: self.drain_deadline,
            admin_address: self.admin_address,
            metrics_address: self.metrics_address,
            readiness_address: self.readiness_address,
        })
    }

    fn own_dns_names(&self) -> Vec<String> {
        let given = self.dns_names.iter().map(|n| n.trim().to_ascii_lowercase());
        let fixed = OWN_DNS_NAMES.iter().map(|n| (*n).to_owned());
        let all: BTreeSet<String> = fixed.chain(given).filter(|n| !n.is_empty()).collect();
        all.into_iter().collect()
    }

    fn rules(&self) -> Rules {
        let mut rules = Rules {
            trust_domain: self.trust_domain.clone(),
            trusted_node_accounts: self.trusted_node_accounts.iter().cloned().collect(),
            serving_names: std::collections::BTreeMap::new(),
            ttl_default: self.ttl_default,
            ttl_max: self.ttl_max,
        };
        for entry in &self.serving_names {
            let names = rules.serving_names.entry(entry.account.clone());
            names.or_default().extend(entry.names.iter().cloned());
        }
        rules
    }

    fn discovery(&self) -> Option<Source> {
        let address = self.xds.as_deref().filter(|a| !a.is_empty())?;
        let own_root = self.state.join(crate::roots::ROOT_FILE);
        let root = self.xds_root.as_deref().map(text_source);
        Some(Source::Xds {
            channel: ChannelSettings {
                address: with_scheme(address),
                root: Some(root.unwrap_or(TextSource::File(own_root))),
                server_name: self.xds_server_name.clone(),
                token: self.auth_token.as_deref().map(text_source),
                metadata: vec![("clusterid".into(), self.cluster_id.clone())],
                mark: None,
            },
            node: NodeInfo {
                role: Role::Authority,
                ip: self.instance_ip.clone(),
                pod: self.pod_name.clone(),
                namespace: self.pod_namespace.clone(),
                service_account: OWN_ACCOUNT.into(),
                node: String::new(),
                cluster: self.cluster_id.clone(),
                network: String::new(),
                metadata: std::collections::BTreeMap::new(),
            },
            kinds: vec![codec::TYPE_ADDRESS],
        })
    }
}

/// A text given as itself or as the path of a file: paths begin with `/` or `.`.
fn text_source(text: &str) -> TextSource {
    if text.starts_with(['/', '.']) {
        TextSource::File(text.into())
    } else {
        TextSource::Literal(text.into())
    }
}

/// Istio's charts write addresses without a scheme.
fn with_scheme(address: &str) -> String {
    if address.contains("://") {
        address.into()
    } else {
        format!("https://{address}")
    }
}

/// A duration with a unit: `30s`, `10m`, `24h`, `90d`.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is not a duration such as 30s, 10m, 24h or 90d");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    let seconds = number.checked_mul(factor).ok_or_else(bad)?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(more: &[&str]) -> Result<Flags, clap::Error> {
        let base = ["mesh-ca", "--state", "/s", "--token-keys", "/k"];
        Flags::try_parse_from(base.iter().chain(more))
    }

    #[test]
    fn the_defaults_are_those_of_the_interop_notes() {
        let settings = flags(&[]).unwrap().check().unwrap();
        assert_eq!(settings.rules.ttl_default, Duration::from_secs(86_400));
        assert_eq!(settings.rules.ttl_max, Duration::from_secs(90 * 86_400));
        assert_eq!(settings.listen.port(), 15012);
        assert!(settings.discovery.is_none());
        assert_eq!(
            settings.own.0.to_string(),
            "spiffe://cluster.local/ns/strata-system/sa/mesh-ca"
        );
    }

    #[test]
    fn serving_names_add_up() {
        let names = "strata-system/mesh-control=mesh-control.strata-system.svc,Istiod.istio-system";
        let more = "strata-system/mesh-control=a.b;x/y=c.d";
        let settings = flags(&["--serving-names", names, "--serving-names", more])
            .unwrap()
            .check()
            .unwrap();
        let control = ObjectName::new("strata-system", "mesh-control");
        let granted = &settings.rules.serving_names[&control];
        assert_eq!(granted.len(), 3);
        assert!(granted.contains("istiod.istio-system"));
        assert_eq!(settings.rules.serving_names.len(), 2);
        assert!(flags(&["--serving-names", "no-account=x"]).is_err());
        assert!(flags(&["--serving-names", "a/b="]).is_err());
    }

    #[test]
    fn the_control_plane_is_trusted_by_our_own_root() {
        let settings = flags(&["--xds", "mesh-control:15012", "--auth-token", "/t"])
            .unwrap()
            .check()
            .unwrap();
        let Some(Source::Xds { channel, .. }) = settings.discovery else {
            panic!("a source");
        };
        assert_eq!(channel.address, "https://mesh-control:15012");
        let root = TextSource::File("/s/root-cert.pem".into());
        assert_eq!(channel.root, Some(root));
        assert_eq!(channel.token, Some(TextSource::File("/t".into())));
    }

    #[test]
    fn mistakes_are_reported_together() {
        let bad = [
            "--trust-domain",
            "a b",
            "--ttl-default",
            "91d",
            "--log-format",
            "xml",
        ];
        let text = flags(&bad).unwrap().check().unwrap_err().to_string();
        for part in ["TRUST_DOMAIN", "DEFAULT_WORKLOAD_CERT_TTL", "LOG_FORMAT"] {
            assert!(text.contains(part), "{text}");
        }
        for bad in ["", "10", "1w", "h", "99999999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
