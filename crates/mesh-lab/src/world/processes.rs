//! How each program of the mesh is started in the lab: arguments and environment.

use super::pods::{PodRole, PodSpec};
use super::{AUTHORITY, CONTROL};
use crate::process::{ProcessSpec, Ready};
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// DNS name in the control plane's certificate.
pub const CONTROL_NAME: &str = "mesh-control.strata-system.svc";
/// DNS name in the authority's certificate.
pub const AUTHORITY_NAME: &str = "mesh-ca.strata-system.svc";

/// The log file of a process: `logs/ztunnel-node-1.log` of `ztunnel node-1`.
pub fn log(folder: &Path, name: &str) -> PathBuf {
    folder
        .join("logs")
        .join(format!("{}.log", name.replace(' ', "-")))
}

/// When a process counts as ready.
pub(super) fn readiness(name: &str) -> Ready {
    let of_name = |wanted: &str| ORIGINS.iter().chain(STAND_INS).find(|o| o.name == wanted);
    match name.strip_prefix("origin ").and_then(of_name) {
        Some(origin) => Ready::Tcp(SocketAddr::new(
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            origin.port,
        )),
        None => Ready::mesh(),
    }
}

/// Mints a token into a file.
///
/// # Errors
/// When `mesh-control token` fails, or the file cannot be written.
pub fn token(
    binaries: &Path,
    folder: &Path,
    account: &str,
    pod: &str,
    node: &str,
) -> Result<PathBuf> {
    let output = Command::new(binaries.join("mesh-control"))
        .arg("token")
        .arg("--state")
        .arg(folder.join("control"))
        .args(["--service-account", account, "--pod", pod, "--node", node])
        .output()
        .with_context(|| format!("{}/mesh-control cannot start", binaries.display()))?;
    if !output.status.success() {
        bail!(
            "mesh-control token: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let file = folder.join("tokens").join(pod);
    fs::create_dir_all(folder.join("tokens"))?;
    // Without the newline of a terminal: not every client of the mesh takes it off.
    fs::write(&file, output.stdout.trim_ascii_end()).with_context(|| file.display().to_string())?;
    Ok(file)
}

/// The control plane.
pub fn control(binaries: &Path, folder: &Path, configuration: &Path) -> ProcessSpec {
    ProcessSpec::new(
        "mesh-control",
        binaries.join("mesh-control"),
        log(folder, "mesh-control"),
    )
    .args(["--config".to_owned(), text(configuration)])
    .args(["--state".to_owned(), text(&folder.join("control"))])
    .env("CA_ADDRESS", format!("https://{AUTHORITY}:15012"))
    .env("CA_ROOT_CA", text(&folder.join("ca/root-cert.pem")))
    .env("ALT_CA_HOSTNAME", AUTHORITY_NAME)
    .env("LOG_FORMAT", "json")
}

/// The certificate authority.
pub fn authority(binaries: &Path, folder: &Path, token: &Path) -> ProcessSpec {
    ProcessSpec::new("mesh-ca", binaries.join("mesh-ca"), log(folder, "mesh-ca"))
        .args(["--state".to_owned(), text(&folder.join("ca"))])
        .args([
            "--token-keys".to_owned(),
            text(&folder.join("control/token-keys.json")),
        ])
        .args(["--trusted-node-accounts", "strata-system/ztunnel"])
        .args([
            "--serving-names",
            &format!("strata-system/mesh-control={CONTROL_NAME}"),
        ])
        .env("XDS_ADDRESS", format!("https://{CONTROL}:15012"))
        .env("XDS_ROOT_CA", text(&folder.join("ca/root-cert.pem")))
        .env("ALT_XDS_HOSTNAME", CONTROL_NAME)
        .env("AUTH_TOKEN", text(token))
        .env("LOG_FORMAT", "json")
}

/// What every proxy of the lab is started with.
#[derive(Debug, Clone, Copy)]
pub struct Proxy<'a> {
    /// Folder of the mesh's binaries.
    pub binaries: &'a Path,
    /// The lab's folder.
    pub folder: &'a Path,
    /// File of its token.
    pub token: &'a Path,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub otlp: Option<&'a str>,
}

impl Proxy<'_> {
    /// The node proxy.
    pub fn ztunnel(&self, node: &str, address: Ipv4Addr, pods: &Path) -> ProcessSpec {
        let name = format!("ztunnel {node}");
        self.common(&name, "ztunnel", address.into(), node)
            .args(["--pods".to_owned(), text(pods)])
            .env("POD_NAME", format!("ztunnel-{node}"))
            .env("POD_NAMESPACE", "strata-system")
            .env("SERVICE_ACCOUNT", "ztunnel")
    }

    /// The proxy in a pod of its own, or beside the application.
    ///
    /// # Errors
    /// For a pod that the node's proxy serves.
    pub fn of_pod(&self, pod: &PodSpec) -> Result<ProcessSpec> {
        let (kind, program) = match pod.role {
            PodRole::Sidecar => ("sidecar", "sidecar"),
            PodRole::Waypoint => ("waypoint", "sidecar"),
            PodRole::Gateway => ("gateway", "ingress-gateway"),
            PodRole::NetworkGateway => ("network-gateway", "sidecar"),
            PodRole::Ambient => bail!("pod {}: its proxy is the node's", pod.name),
        };
        let name = format!("{kind} {}", pod.name);
        let spec = self
            .common(&name, program, pod.address, &pod.node)
            .env("POD_NAME", &pod.name)
            .env("POD_NAMESPACE", &pod.namespace)
            .env("SERVICE_ACCOUNT", &pod.service_account);
        let spec = match &pod.network {
            Some(network) => spec.env("NETWORK", network),
            None => spec,
        };
        Ok(match pod.role {
            PodRole::Waypoint => spec.args(["--role", "waypoint"]),
            PodRole::NetworkGateway => spec.args(["--role", "network-gateway"]),
            PodRole::Gateway => spec.env("GATEWAY", format!("{}/edge", pod.namespace)),
            _ => spec,
        })
    }

    fn common(&self, name: &str, program: &str, address: IpAddr, node: &str) -> ProcessSpec {
        let root = text(&self.folder.join("ca/root-cert.pem"));
        let spec = ProcessSpec::new(name, self.binaries.join(program), log(self.folder, name))
            .env("XDS_ADDRESS", format!("https://{CONTROL}:15012"))
            .env("XDS_ROOT_CA", &root)
            .env("ALT_XDS_HOSTNAME", CONTROL_NAME)
            .env("CA_ADDRESS", format!("https://{AUTHORITY}:15012"))
            .env("CA_ROOT_CA", &root)
            .env("ALT_CA_HOSTNAME", AUTHORITY_NAME)
            .env("AUTH_TOKEN", text(self.token))
            .env("NODE_NAME", node)
            .env("INSTANCE_IP", address.to_string())
            .env("LOG_FORMAT", "json");
        match self.otlp {
            Some(endpoint) => spec.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
            None => spec,
        }
    }
}

/// A pod as ztunnel's pods folder names it.
pub fn pod_file(pod: &PodSpec, netns: &Path) -> String {
    format!(
        "uid: {name}\nname: {name}\nnamespace: {namespace}\nserviceAccount: {account}\nnetns: {netns}\n",
        name = pod.name,
        namespace = pod.namespace,
        account = pod.service_account,
        netns = netns.display()
    )
}

struct Origin {
    pod: &'static str,
    name: &'static str,
    kind: &'static str,
    port: u16,
    next: Option<&'static str>,
}

const fn origin(pod: &'static str, kind: &'static str, port: u16) -> Origin {
    Origin {
        pod,
        name: pod,
        kind,
        port,
        next: None,
    }
}

/// The applications; those of `plain` are the same, outside the mesh.
const ORIGINS: &[Origin] = &[
    Origin {
        next: Some("http://10.96.0.2:9080/reviews"),
        ..origin("frontend", "http", 8080)
    },
    Origin {
        next: Some("http://10.96.0.5:9080/ratings"),
        ..origin("reviews-v1", "http", 9080)
    },
    Origin {
        next: Some("http://10.96.0.5:9080/ratings"),
        ..origin("reviews-v2", "http", 9080)
    },
    origin("ratings", "http", 9080),
    origin("orders", "http", 8080),
    origin("echo", "grpc", 50051),
    origin("chat", "websocket", 8080),
    Origin {
        name: "mail-sidecar-smtp",
        ..origin("mail-sidecar", "smtp", 2525)
    },
    Origin {
        name: "mail-sidecar-mysql",
        ..origin("mail-sidecar", "mysql", 3306)
    },
    Origin {
        name: "mail-ambient-smtp",
        ..origin("mail-ambient", "smtp", 2525)
    },
    Origin {
        name: "mail-ambient-mysql",
        ..origin("mail-ambient", "mysql", 3306)
    },
    Origin {
        name: "plain-frontend",
        next: Some("http://10.42.2.30:9081/reviews"),
        ..origin("plain", "http", 8080)
    },
    Origin {
        name: "plain-reviews",
        next: Some("http://10.42.2.30:9080/ratings"),
        ..origin("plain", "http", 9081)
    },
    Origin {
        name: "plain-ratings",
        ..origin("plain", "http", 9080)
    },
    Origin {
        name: "plain-echo",
        ..origin("plain", "grpc", 50051)
    },
    Origin {
        name: "plain-chat",
        ..origin("plain", "websocket", 8081)
    },
    Origin {
        name: "plain-smtp",
        ..origin("plain", "smtp", 2525)
    },
    Origin {
        name: "plain-mysql",
        ..origin("plain", "mysql", 3306)
    },
];

/// A text that every application puts into its answers: it must never be seen on the wire.
pub const PAYLOAD: &str = "strata-demo-payload-7f3a";

/// What takes the database's place where PostgreSQL is not installed.
const STAND_INS: &[Origin] = &[
    Origin {
        name: "database",
        ..origin("postgres", "mysql", 5432)
    },
    Origin {
        name: "plain-database",
        ..origin("plain", "mysql", 5432)
    },
];

/// Every application, with the pod it runs in.
pub(super) fn origins(binaries: &Path, folder: &Path) -> Vec<(&'static str, ProcessSpec)> {
    ORIGINS
        .iter()
        .map(|o| (o.pod, o.spec(binaries, folder)))
        .collect()
}

/// The servers that stand in for databases, with the pods they run in.
pub(super) fn stand_ins(binaries: &Path, folder: &Path) -> Vec<(&'static str, ProcessSpec)> {
    STAND_INS
        .iter()
        .map(|o| (o.pod, o.spec(binaries, folder)))
        .collect()
}

impl Origin {
    fn spec(&self, binaries: &Path, folder: &Path) -> ProcessSpec {
        let name = format!("origin {}", self.name);
        let spec = ProcessSpec::new(&name, binaries.join("mesh"), log(folder, &name))
            .args(["origin", self.kind])
            .args(["--listen".to_owned(), format!("0.0.0.0:{}", self.port)])
            .args(["--name", self.name]);
        // What is outside the mesh is in the clear, and must not be mistaken for a leak.
        let spec = if self.pod == "plain" {
            spec
        } else {
            spec.args(["--payload", PAYLOAD])
        };
        match self.next {
            Some(next) => spec.args(["--next", next]),
            None => spec,
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
