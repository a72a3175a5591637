//! Flags and environment: the only reader of both. Mistakes are reported together.

use crate::tokens::Caller;
use crate::translate::Mesh;
use clap::{Args, Parser, Subcommand};
use mesh_grpc::{ChannelSettings, TextSource};
use mesh_model::{ObjectName, SpiffeId, TRUST_DOMAIN_DEFAULT};
use mesh_telemetry::LogFormat;
use mesh_tls::KeyExchange;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The account the control plane itself has.
const OWN_ACCOUNT: &str = "mesh-control";
/// The name proxies know it by.
const OWN_NAME: &str = "mesh-control.strata-system.svc";

/// Control plane: reads configuration, translates it and serves it over delta xDS.
#[derive(Debug, Parser)]
#[command(name = "mesh-control", version, about)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Flags {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a token for a service account, signed with the key of the state folder.
    Token(TokenFlags),
    /// Read the configuration once, print what is wrong with it and end: 0 when nothing is.
    Check(CheckFlags),
}

#[derive(Debug, Args)]
struct TokenFlags {
    /// State folder.
    #[arg(long, env = "STATE_DIR")]
    state: PathBuf,
    /// Account, `namespace/name`.
    #[arg(long)]
    service_account: ObjectName,
    /// Pod the token is bound to.
    #[arg(long)]
    pod: Option<String>,
    /// Node the token is bound to.
    #[arg(long)]
    node: Option<String>,
    /// How long it is valid: a number and `s`, `m`, `h` or `d`.
    #[arg(long, default_value = "24h", value_parser = duration)]
    ttl: Duration,
}

#[derive(Debug, Args)]
struct CheckFlags {
    /// Configuration folder.
    #[arg(long, env = "CONFIG_DIR")]
    config: PathBuf,
    #[command(flatten)]
    mesh: MeshFlags,
}

#[derive(Debug, Args)]
struct MeshFlags {
    /// Trust domain of every identity.
    #[arg(long, env = "TRUST_DOMAIN", default_value = TRUST_DOMAIN_DEFAULT)]
    trust_domain: String,
    /// Cluster: the first part of workload keys.
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes")]
    cluster_id: String,
    /// Network of all addresses; empty on a mesh of one network.
    #[arg(long, env = "NETWORK", default_value = "")]
    network: String,
    /// Namespace whose policies are for the whole mesh.
    #[arg(long, env = "ROOT_NAMESPACE", default_value = "istio-system")]
    root_namespace: String,
    /// Suffix of service host names.
    #[arg(long, env = "CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Connections between two pods of one ztunnel: `direct` carries them without TLS inside the
    /// process that holds both keys, `encrypt` asks every ztunnel to encrypt them all the same.
    #[arg(long, env = "SAME_NODE", value_enum, default_value = "direct")]
    same_node: SameNode,
}

/// How connections between two pods of one ztunnel are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SameNode {
    /// By the process, without TLS.
    Direct,
    /// As between nodes.
    Encrypt,
}

impl MeshFlags {
    fn mesh(&self) -> Mesh {
        Mesh {
            trust_domain: self.trust_domain.as_str().into(),
            cluster: self.cluster_id.as_str().into(),
            network: self.network.as_str().into(),
            root_namespace: self.root_namespace.as_str().into(),
            domain: self.cluster_domain.as_str().into(),
            encrypt_same_node: self.same_node == SameNode::Encrypt,
        }
    }
}

#[derive(Debug, Args)]
struct RunFlags {
    /// Configuration folder: YAML files of Kubernetes objects.
    #[arg(long, env = "CONFIG_DIR")]
    config: Option<PathBuf>,
    /// State folder: token signing key, its public half, the last good configuration.
    #[arg(long, env = "STATE_DIR")]
    state: Option<PathBuf>,
    #[command(flatten)]
    mesh: MeshFlags,

    /// Address of discovery over TLS.
    #[arg(long, env = "XDS_LISTEN", default_value = "0.0.0.0:15012")]
    listen: SocketAddr,
    /// Address of discovery without TLS; loopback only.
    #[arg(long, env = "XDS_PLAINTEXT_LISTEN")]
    plaintext_listen: Option<SocketAddr>,
    /// DNS names of the serving certificate.
    #[arg(long = "dns-name", env = "XDS_DNS_NAMES", value_delimiter = ',', default_value = OWN_NAME)]
    dns_names: Vec<String>,
    /// This process's namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "strata-system")]
    pod_namespace: String,

    /// Certificate authority that signs the serving certificate.
    #[arg(
        long,
        env = "CA_ADDRESS",
        default_value = "https://mesh-ca.strata-system.svc:15012"
    )]
    ca_address: String,
    /// PEM root of the authority, a file or the text itself.
    #[arg(long, env = "CA_ROOT_CA")]
    ca_root: Option<String>,
    /// Name the authority's certificate must carry, when not the address's host.
    #[arg(long, env = "ALT_CA_HOSTNAME")]
    ca_server_name: Option<String>,

    /// `pqc`: TLS takes and offers the key exchange X25519MLKEM768 and nothing else.
    #[arg(long, env = "COMPLIANCE_POLICY", default_value = "")]
    compliance_policy: KeyExchange,
    /// Log filter.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log_filter: String,
    /// Log format: plain or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "plain")]
    log_format: String,
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

/// What to do.
pub(crate) enum Task {
    /// Serve.
    Run(Box<Settings>),
    /// Print a token.
    Token {
        /// State folder.
        state: PathBuf,
        /// Whom it is for.
        caller: Caller,
        /// How long it is valid.
        ttl: Duration,
    },
    /// Read the configuration once.
    Check {
        /// Configuration folder.
        config: PathBuf,
        /// What is the same for the whole mesh.
        mesh: Mesh,
    },
}

/// What serving needs.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Configuration folder.
    pub(crate) config: PathBuf,
    /// State folder.
    pub(crate) state: PathBuf,
    /// What is the same for the whole mesh.
    pub(crate) mesh: Mesh,
    /// Discovery over TLS.
    pub(crate) listen: SocketAddr,
    /// Discovery without TLS.
    pub(crate) plaintext_listen: Option<SocketAddr>,
    /// Names of the serving certificate.
    pub(crate) dns_names: Vec<String>,
    /// Our own identity.
    pub(crate) identity: SpiffeId,
    /// The authority; its token is filled in at each call.
    pub(crate) authority: ChannelSettings,
    /// Key exchanges of all TLS of this process.
    pub(crate) key_exchange: KeyExchange,
    /// Log filter and format.
    pub(crate) log: (String, LogFormat),
    /// Admin pages.
    pub(crate) admin_address: SocketAddr,
    /// Metrics.
    pub(crate) metrics_address: SocketAddr,
    /// Readiness.
    pub(crate) readiness_address: SocketAddr,
}

impl Flags {
    /// Turns what was given into what is done.
    ///
    /// # Errors
    /// Every mistake found, one a line.
    pub(crate) fn check(self) -> anyhow::Result<Task> {
        match (self.command, self.run) {
            (Some(Command::Token(t)), _) => Ok(Task::Token {
                state: t.state,
                caller: Caller {
                    namespace: t.service_account.namespace.to_string(),
                    service_account: t.service_account.name.to_string(),
                    pod: t.pod,
                    node: t.node,
                },
                ttl: t.ttl,
            }),
            (Some(Command::Check(c)), _) => Ok(Task::Check {
                mesh: c.mesh.mesh(),
                config: c.config,
            }),
            (None, run) => run.check().map(|s| Task::Run(Box::new(s))),
        }
    }
}

impl RunFlags {
    fn check(self) -> anyhow::Result<Settings> {
        let mut mistakes = Vec::new();
        let identity = SpiffeId::new(&self.mesh.trust_domain, &self.pod_namespace, OWN_ACCOUNT)
            .inspect_err(|e| mistakes.push(format!("TRUST_DOMAIN or POD_NAMESPACE: {e}")))
            .ok();
        let log_format: LogFormat = self
            .log_format
            .parse()
            .inspect_err(|e| mistakes.push(format!("LOG_FORMAT: {e}")))
            .unwrap_or_default();
        if self.plaintext_listen.is_some_and(|a| !a.ip().is_loopback()) {
            mistakes
                .push("XDS_PLAINTEXT_LISTEN: only a loopback address may go without TLS".into());
        }
        if self.config.is_none() {
            mistakes.push("--config DIR is needed".into());
        }
        if self.state.is_none() {
            mistakes.push("--state DIR is needed".into());
        }
        let parts = (identity, self.config, self.state);
        let ((Some(identity), Some(config), Some(state)), true) = (parts, mistakes.is_empty())
        else {
            anyhow::bail!("{}", mistakes.join("\n"));
        };
        Ok(Settings {
            mesh: self.mesh.mesh(),
            config,
            state,
            listen: self.listen,
            plaintext_listen: self.plaintext_listen,
            dns_names: self.dns_names,
            identity,
            authority: ChannelSettings {
                address: self.ca_address,
                root: self.ca_root.map(text_source),
                server_name: self.ca_server_name,
                token: None,
                metadata: vec![("clusterid".into(), self.mesh.cluster_id)],
                mark: None,
            },
            key_exchange: self.compliance_policy,
            log: (self.log_filter, log_format),
            admin_address: self.admin_address,
            metrics_address: self.metrics_address,
            readiness_address: self.readiness_address,
        })
    }
}

/// A PEM text as it is, anything else as a path.
fn text_source(text: String) -> TextSource {
    if text.trim_start().starts_with("-----BEGIN") {
        TextSource::Literal(text)
    } else {
        TextSource::File(text.into())
    }
}

/// A number and `s`, `m`, `h` or `d`.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is not a number followed by s, m, h or d");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err(bad()),
    };
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> anyhow::Result<Task> {
        Flags::try_parse_from(std::iter::once(&"mesh-control").chain(args))?.check()
    }

    #[test]
    fn the_three_tasks_are_told_apart() {
        assert!(matches!(
            parse(&["--config", "a", "--state", "b"]),
            Ok(Task::Run(_))
        ));
        let token = [
            "token",
            "--state",
            "b",
            "--service-account",
            "ns/sa",
            "--ttl",
            "2m",
        ];
        match parse(&token).unwrap() {
            Task::Token { ttl, caller, .. } => {
                assert_eq!(ttl, Duration::from_secs(120));
                assert_eq!(caller.service_account, "sa");
            }
            _ => panic!("not a token task"),
        }
        assert!(matches!(
            parse(&["check", "--config", "a"]),
            Ok(Task::Check { .. })
        ));
        assert!(parse(&[]).is_err());
    }

    #[test]
    fn plaintext_is_for_loopback() {
        let base = ["--config", "a", "--state", "b", "--plaintext-listen"];
        let with = |address| parse(&[&base[..], &[address]].concat());
        assert!(with("127.0.0.1:15010").is_ok());
        assert!(with("0.0.0.0:15010").is_err());
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86400)));
        for bad in ["", "5", "h", "5w", "99999999999999999999d", "5 m"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
