//! Flags and environment: the only reader of both.

use clap::Parser;
use mesh_proxy::Addresses;
use mesh_redirect::InPodOptions;
use mesh_telemetry::LogFormat;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Flags and environment as given; names and ports are those of interop/zds-cni.md sections 1 and 5.
#[derive(Debug, Parser)]
#[command(
    name = "node-agent",
    version,
    about = "Node agent: redirects the pods of a node and tells its proxy of them"
)]
pub(crate) struct Flags {
    /// Watched folder, one YAML file a pod: {uid, name, namespace, serviceAccount, netns}.
    #[arg(long, env = "NODE_AGENT_PODS", value_name = "DIR")]
    pods: PathBuf,
    /// Socket to which the node's proxy connects.
    #[arg(long, env = "ZTUNNEL_UDS_ADDRESS", default_value = mesh_zds::SOCKET_DEFAULT)]
    socket: PathBuf,
    /// Capture the pods' DNS too; only for a proxy that answers it.
    #[arg(long, env = "AMBIENT_DNS_CAPTURE", default_value_t = InPodOptions::default().capture_dns, action = clap::ArgAction::Set)]
    dns_capture: bool,

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
    #[arg(long, env = "STATS_ADDR", default_value = "0.0.0.0:15014")]
    metrics_address: SocketAddr,
    /// Readiness.
    #[arg(long, env = "READINESS_ADDR", default_value = "0.0.0.0:8000")]
    readiness_address: SocketAddr,
}

/// What is used.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Folder of pod files.
    pub(crate) pods: PathBuf,
    /// Socket of the node's proxy.
    pub(crate) socket: PathBuf,
    /// How pods are redirected.
    pub(crate) redirection: InPodOptions,
    /// Log filter, in the syntax of `RUST_LOG`.
    pub(crate) log_filter: String,
    /// Log format.
    pub(crate) log_format: LogFormat,
    /// Where the pages are.
    pub(crate) addresses: Addresses,
}

impl Flags {
    /// Turns what was given into what is used.
    ///
    /// # Errors
    /// The mistake found.
    pub(crate) fn check(self) -> anyhow::Result<Settings> {
        let log_format = self
            .log_format
            .parse()
            .map_err(|e| anyhow::anyhow!("LOG_FORMAT: {e}"))?;
        Ok(Settings {
            pods: self.pods,
            socket: self.socket,
            redirection: InPodOptions {
                capture_dns: self.dns_capture,
                ..InPodOptions::default()
            },
            log_filter: self.log_filter,
            log_format,
            addresses: Addresses {
                admin: self.admin_address,
                metrics: self.metrics_address,
                readiness: self.readiness_address,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_places_are_assumed() {
        let flags = Flags::try_parse_from(["node-agent", "--pods", "/run/pods"]).unwrap();
        let settings = flags.check().unwrap();
        assert_eq!(
            settings.socket.to_str(),
            Some("/var/run/ztunnel/ztunnel.sock")
        );
        let ports = [settings.addresses.metrics, settings.addresses.readiness];
        assert_eq!(ports.map(|a| a.port()), [15014, 8000]);
        let flags = ["node-agent", "--pods", "/p", "--log-format", "xml"];
        let error = Flags::try_parse_from(flags).unwrap().check().unwrap_err();
        assert!(error.to_string().starts_with("LOG_FORMAT"), "{error}");
    }
}
