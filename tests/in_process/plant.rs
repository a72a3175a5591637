//! A control plane and an authority on loopback, with a folder of configuration.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to do what is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// The folder of the binaries: beside the folder of this test program.
pub(crate) fn binary(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program
        .parent()
        .and_then(Path::parent)
        .context("no build folder")?;
    let path = folder.join(name);
    ensure!(
        path.is_file(),
        "{} is not built: run cargo xtask test",
        path.display()
    );
    Ok(path)
}

/// A port that was free a moment ago.
fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended is fine.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Addresses of one process.
struct Ports {
    listen: SocketAddr,
    admin: SocketAddr,
    metrics: SocketAddr,
    readiness: SocketAddr,
}

impl Ports {
    fn free() -> Result<Self> {
        Ok(Self {
            listen: free()?,
            admin: free()?,
            metrics: free()?,
            readiness: free()?,
        })
    }

    fn set<'a>(&self, command: &'a mut Command, listen: &str) -> &'a mut Command {
        command
            .env_clear()
            .env(listen, self.listen.to_string())
            .env("ADMIN_ADDR", self.admin.to_string())
            .env("STATS_ADDR", self.metrics.to_string())
            .env("READINESS_ADDR", self.readiness.to_string())
    }
}

/// Control plane and authority.
pub(crate) struct Plant {
    folder: tempfile::TempDir,
    control: Ports,
    authority: Ports,
    running: Vec<Running>,
}

impl Plant {
    /// Starts both on files of configuration, and waits until they are ready.
    pub(crate) fn start(files: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("configuration"))?;
        let mut plant = Self {
            folder,
            control: Ports::free()?,
            authority: Ports::free()?,
            running: Vec::new(),
        };
        for (name, text) in files {
            plant.write(name, text)?;
        }
        plant.token("strata-system/mesh-cli")?;
        plant.start_authority()?;
        plant.start_control()?;
        plant.wait("both are ready", |plant| {
            let ready =
                |ports: &Ports| get(ports.readiness, "/healthz/ready").is_ok_and(|a| a.0 == 200);
            Ok(ready(&plant.control) && ready(&plant.authority))
        })?;
        Ok(plant)
    }

    fn start_authority(&mut self) -> Result<()> {
        let mut command = Command::new(binary("mesh-ca")?);
        self.authority
            .set(&mut command, "CA_LISTEN")
            .arg("--state")
            .arg(self.path("ca"))
            .arg("--token-keys")
            .arg(self.path("control/token-keys.json"))
            .args([
                "--serving-names",
                "strata-system/mesh-control=mesh-control.strata-system.svc",
            ]);
        self.run(command)
    }

    fn start_control(&mut self) -> Result<()> {
        let mut command = Command::new(binary("mesh-control")?);
        self.control
            .set(&mut command, "XDS_LISTEN")
            .arg("--config")
            .arg(self.path("configuration"))
            .arg("--state")
            .arg(self.path("control"))
            .env("CA_ADDRESS", format!("https://{}", self.authority.listen))
            .env("CA_ROOT_CA", self.path("ca/root-cert.pem"))
            .env("ALT_CA_HOSTNAME", "mesh-ca.strata-system.svc");
        self.run(command)
    }

    fn run(&mut self, mut command: Command) -> Result<()> {
        let child = command
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start")?;
        self.running.push(Running(child));
        Ok(())
    }

    /// Kills both and starts the authority again on the same state.
    pub(crate) fn restart_authority(&mut self) -> Result<()> {
        self.running.clear();
        self.start_authority()?;
        self.wait("the authority is ready again", |plant| {
            Ok(
                get(plant.authority.readiness, "/healthz/ready").is_ok_and(|a| a.0 == 200)
                    || get(plant.authority.metrics, "/metrics").is_ok(),
            )
        })
    }

    /// A path in the plant's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file of configuration.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(std::fs::write(self.path("configuration").join(name), text)?)
    }

    /// Mints a token and gives its file.
    pub(crate) fn token(&self, account: &str) -> Result<PathBuf> {
        let output = Command::new(binary("mesh-control")?)
            .arg("token")
            .arg("--state")
            .arg(self.path("control"))
            .args(["--service-account", account])
            .output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let file = self.path(&account.replace('/', "-"));
        std::fs::write(&file, output.stdout)?;
        Ok(file)
    }

    /// Runs `mesh` against the control plane.
    pub(crate) fn mesh(&self, arguments: &[&str]) -> Result<Output> {
        let (command, rest) = arguments.split_first().context("no command")?;
        Ok(Command::new(binary("mesh")?)
            .arg(command)
            .args(["--xds", &format!("https://{}", self.control.listen)])
            .arg("--root")
            .arg(self.path("ca/root-cert.pem"))
            .args(["--server-name", "mesh-control.strata-system.svc"])
            .arg("--token")
            .arg(self.path("strata-system-mesh-cli"))
            .args(rest)
            .output()?)
    }

    /// What the control plane says of its configuration.
    pub(crate) fn debug_config(&self) -> Result<Value> {
        let (status, body) = get(self.control.admin, "/debug/config")?;
        ensure!(status == 200, "/debug/config answered {status}");
        Ok(serde_json::from_str(&body)?)
    }

    /// Waits until something holds.
    pub(crate) fn wait(&self, what: &str, holds: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if holds(self)? {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("not within {} s: {what}", PATIENCE.as_secs())
    }
}

/// One GET over HTTP/1.0.
fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head
        .split(' ')
        .nth(1)
        .context("no status")?
        .trim()
        .parse()?;
    Ok((status, body.to_owned()))
}

/// Pods, a service, a route and a policy: `web` may be read by `client`, not by others.
pub(crate) const MESH: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: demo, annotations: {ambient.istio.io/redirection: enabled}}
spec: {nodeName: n1, serviceAccountName: client, containers: [{name: app}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: demo, annotations: {ambient.istio.io/redirection: enabled}}
spec: {nodeName: n1, serviceAccountName: other, containers: [{name: app}]}
status: {phase: Running, podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: demo, labels: {app: web}, annotations: {ambient.istio.io/redirection: enabled}}
spec: {nodeName: n2, serviceAccountName: web, containers: [{name: app}]}
status: {phase: Running, podIP: 10.0.0.3, podIPs: [{ip: 10.0.0.3}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: demo}
spec:
  selector: {matchLabels: {app: web}}
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/demo/sa/client]}}]}]
"#;
