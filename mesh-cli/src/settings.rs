//! Flags and environment of `mesh`.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The command of the mesh.
#[derive(Debug, Parser)]
#[command(name = "mesh", version, about)]
pub(crate) struct Settings {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole mesh on this machine, in network namespaces, and check it with real traffic
    Demo(DemoSettings),
    /// Show what the control plane serves: workloads, services, routes, policies, and what it refused
    Status(StatusSettings),
    /// Say what the mesh does with a connection or request, and why
    Explain(ExplainSettings),
    /// A server for the demo and for tests
    #[command(hide = true)]
    Origin(OriginSettings),
    /// Install the system packages that the demo and the namespace tests need
    #[command(hide = true)]
    Packages,
}

/// `mesh demo`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoSettings {
    /// Check everything, print the table and end; exit code 0 only if every check holds
    #[arg(long)]
    pub(crate) once: bool,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Loopback port of this machine that leads to the gateway's HTTPS listener
    #[arg(long, default_value_t = 8443, value_name = "PORT")]
    pub(crate) port: u16,
    /// Requests of each latency measurement
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub(crate) requests: usize,
    /// Do as if PostgreSQL were not installed: a server of ours that speaks first takes its place
    #[arg(long)]
    pub(crate) without_postgres: bool,
    /// Folder of the mesh's binaries; default: where this program is
    #[arg(long, value_name = "DIR")]
    pub(crate) binaries: Option<PathBuf>,
    /// Keep state, configuration and logs in this folder instead of a temporary one
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

/// How to reach the control plane.
#[derive(Debug, Clone, Args)]
pub(crate) struct ControlPlane {
    /// Address of the control plane
    #[arg(
        long,
        env = "XDS_ADDRESS",
        default_value = "https://mesh-control.strata-system.svc:15012",
        value_name = "URL"
    )]
    pub(crate) xds: String,
    /// PEM file of the root that signed the control plane's certificate
    #[arg(long, env = "XDS_ROOT_CA", value_name = "FILE")]
    pub(crate) root: Option<PathBuf>,
    /// Name the control plane's certificate must carry, when not the address's host
    #[arg(long, env = "ALT_XDS_HOSTNAME", value_name = "NAME")]
    pub(crate) server_name: Option<String>,
    /// File of the bearer token
    #[arg(long, env = "AUTH_TOKEN", value_name = "FILE")]
    pub(crate) token: Option<PathBuf>,
    /// Namespace of the token's service account
    #[arg(
        long,
        env = "POD_NAMESPACE",
        default_value = "strata-system",
        value_name = "NS"
    )]
    pub(crate) namespace: String,
    /// Service account of the token
    #[arg(
        long,
        env = "SERVICE_ACCOUNT",
        default_value = "mesh-cli",
        value_name = "NAME"
    )]
    pub(crate) service_account: String,
}

/// `mesh status`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StatusSettings {
    #[command(flatten)]
    pub(crate) control_plane: ControlPlane,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `mesh explain`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExplainSettings {
    #[command(flatten)]
    pub(crate) control_plane: ControlPlane,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Host header, for a request that enters through a gateway
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// Where from: `namespace/pod`, `gateway:namespace/name[/listener]` for a client outside, or an IP
    pub(crate) from: String,
    /// Where to: a service (`name`, `namespace/name` or host name) or an IP, with its port
    #[arg(value_name = "TO[:PORT]")]
    pub(crate) to: String,
    /// Method of the request; without it the question is about a connection
    pub(crate) method: Option<String>,
    /// Path of the request
    #[arg(requires = "method")]
    pub(crate) path: Option<String>,
}

/// What a demo server speaks.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum OriginKind {
    /// HTTP/1.1 and HTTP/2, answers JSON; with `--next` it calls on
    Http,
    /// gRPC echo, unary and streaming
    Grpc,
    /// WebSocket echo
    Websocket,
    /// SMTP: the server speaks first
    Smtp,
    /// MySQL: the server speaks first
    Mysql,
    /// TCP echo
    Tcp,
}

/// `mesh origin`.
#[derive(Debug, Clone, Args)]
pub(crate) struct OriginSettings {
    /// What it speaks
    pub(crate) kind: OriginKind,
    /// Where it listens
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// The name it gives itself in answers
    #[arg(long, default_value = "origin")]
    pub(crate) name: String,
    /// URL it calls for each request, and whose answer it embeds
    #[arg(long)]
    pub(crate) next: Option<String>,
    /// Text it puts into every answer
    #[arg(long, default_value = "")]
    pub(crate) payload: String,
}
