//! One more node of the mesh, with an agent: it shares the network of node-1 and has pods of its own.

use super::DEADLINE;
use super::traffic::Application;
use crate::world::{Running, binaries};
use anyhow::{Context, Result, bail, ensure};
use mesh_lab::Place;
use mesh_lab::process::{Process, ProcessSpec, Ready};
use mesh_lab::topology::PodSpec;
use mesh_lab::world::processes::Proxy;
use mesh_lab::{probe, world::processes};
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const NODE: &str = "node-9";
/// Where the applications listen.
pub(super) const ECHO_PORT: u16 = 7000;
/// How long anything may take that others on the machine slow down.
const PATIENCE: Duration = Duration::from_secs(60);
/// Admin, metrics and readiness of the agent.
const AGENT_PORTS: [u16; 3] = [15300, 15301, 15302];

/// The node. Dropping it ends its processes.
pub(super) struct Node {
    place: Place,
    pods: Vec<Place>,
    folder: PathBuf,
    agent: Process,
    proxies: BTreeMap<String, Process>,
    _application: Application,
}

impl Node {
    /// An agent, a proxy `a`, and as many pods, none of them enrolled yet.
    pub(super) async fn start(running: &mut Running, count: usize) -> Result<Self> {
        Self::start_limited(running, count, 0).await
    }

    /// The same; the proxy has at most as many descriptors, if that is not 0.
    pub(super) async fn start_limited(
        running: &mut Running,
        count: usize,
        descriptors: u32,
    ) -> Result<Self> {
        let pods = pods(running, count)?;
        let folder = running.world.folder.join("pods").join(NODE);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let place = running.world.topology.node("node-1")?.clone();
        let agent = Process::start(&place, agent(&running.world.folder, &folder)?)?;
        let server = pods.first().context("a node without pods")?;
        let mut node = Self {
            _application: Application::start(server)?,
            place,
            pods,
            folder,
            agent,
            proxies: BTreeMap::new(),
        };
        let ready = ready(AGENT_PORTS[2]);
        node.agent.ready(&ready, PATIENCE).await?;
        node.launch("a", running, descriptors).await?;
        Ok(node)
    }

    /// Starts one more proxy and waits until it is ready.
    pub(super) async fn start_proxy(&mut self, name: &str, running: &Running) -> Result<()> {
        self.launch(name, running, 0).await
    }

    async fn launch(&mut self, name: &str, running: &Running, descriptors: u32) -> Result<()> {
        let world = &running.world;
        let token = world.token("strata-system/ztunnel", &format!("ztunnel-{NODE}"), NODE)?;
        let binaries = binaries()?;
        let proxy = Proxy {
            binaries: &binaries,
            folder: &world.folder,
            token: &token,
            otlp: None,
        };
        let mut spec = proxy.ztunnel(NODE, self.place.v4(), &self.folder);
        spec.name = format!("ztunnel {NODE} {name}");
        spec.log = processes::log(&world.folder, &spec.name);
        // Of an earlier test.
        drop(fs::remove_file(&spec.log));
        spec.arguments.clear();
        if descriptors > 0 {
            let limited = format!("ulimit -n {descriptors} && exec {}", spec.program.display());
            spec.arguments = vec!["-c".to_owned(), limited];
            spec.program = PathBuf::from("/bin/sh");
        }
        let [admin, metrics, readiness] = ports(name);
        let spec = spec
            .env("INPOD_UDS", socket(&world.folder).display().to_string())
            .env("ADMIN_ADDR", format!("127.0.0.1:{admin}"))
            .env("STATS_ADDR", format!("127.0.0.1:{metrics}"))
            .env("READINESS_ADDR", format!("127.0.0.1:{readiness}"))
            .env(
                "CONNECTION_TERMINATION_DEADLINE",
                format!("{}s", DEADLINE.as_secs()),
            );
        let mut process = Process::start(&self.place, spec)?;
        process.ready(&ready(readiness), PATIENCE).await?;
        self.proxies.insert(name.to_owned(), process);
        Ok(())
    }

    /// A pod.
    pub(super) fn pod(&self, n: usize) -> Result<Place> {
        self.pods.get(n).cloned().context("no such pod")
    }

    /// The application of the first pod.
    pub(super) fn server(&self) -> SocketAddr {
        SocketAddr::from((address(0), ECHO_PORT))
    }

    /// Describes a pod to the agent.
    pub(super) fn enrol(&self, n: usize) -> Result<()> {
        let netns = self.pod(n)?.path().display().to_string();
        let name = name(n);
        let text = format!(
            "{{uid: {name}, name: {name}, namespace: demo, serviceAccount: many, netns: {netns}}}\n"
        );
        // Whole at once: the agent looks at any moment.
        let hidden = self.folder.join("new");
        fs::write(&hidden, text)?;
        Ok(fs::rename(hidden, self.file(n))?)
    }

    /// Takes a pod's description away.
    pub(super) fn release(&self, n: usize) -> Result<()> {
        Ok(fs::remove_file(self.file(n))?)
    }

    fn file(&self, n: usize) -> PathBuf {
        self.folder.join(format!("{}.yaml", name(n)))
    }

    /// Starts the agent anew and waits until its proxies are connected again.
    pub(super) async fn restart_agent(&mut self) -> Result<()> {
        self.agent.restart()?;
        self.agent.ready(&ready(AGENT_PORTS[2]), PATIENCE).await?;
        for name in self.proxies.keys().cloned().collect::<Vec<_>>() {
            self.wait_ready(&name).await?;
        }
        Ok(())
    }

    /// Starts a proxy anew.
    pub(super) async fn restart(&mut self, name: &str) -> Result<()> {
        self.proxy_mut(name)?.restart()?;
        self.wait_ready(name).await
    }

    async fn wait_ready(&mut self, name: &str) -> Result<()> {
        let [.., readiness] = ports(name);
        self.proxy_mut(name)?
            .ready(&ready(readiness), PATIENCE)
            .await
    }

    /// Sends SIGTERM.
    pub(super) fn terminate(&mut self, name: &str) -> Result<()> {
        self.proxy_mut(name)?.signal(Signal::SIGTERM)
    }

    /// Waits until a proxy has ended by itself, well.
    pub(super) async fn until_ended(&mut self, name: &str) -> Result<()> {
        for _ in 0..3000 {
            if let Some(status) = self.proxy_mut(name)?.ended()? {
                ensure!(status.success(), "{name} ended with {status}");
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("{name} does not end")
    }

    /// Fails when a proxy has ended.
    pub(super) fn lives(&mut self, name: &str) -> Result<()> {
        let ended = self.proxy_mut(name)?.ended()?;
        ensure!(ended.is_none(), "{name} ended: {ended:?}");
        Ok(())
    }

    fn proxy(&self, name: &str) -> Result<&Process> {
        self.proxies.get(name).context("no such proxy")
    }

    fn proxy_mut(&mut self, name: &str) -> Result<&mut Process> {
        self.proxies.get_mut(name).context("no such proxy")
    }

    /// Waits until a proxy carries as many pods.
    pub(super) async fn until_active(&self, name: &str, count: usize) -> Result<()> {
        let mut last = None;
        for _ in 0..3000 {
            let active = self
                .metric(name, "workload_manager_active_proxy_count")
                .await;
            match active {
                Ok(active) if active == count as u64 => return Ok(()),
                other => last = Some(other),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let log = mesh_log(self.agent.log());
        bail!("{name} does not carry {count} pods: {last:?}\n{log}")
    }

    /// One metric of a proxy; 0 when it is not there yet.
    pub(super) async fn metric(&self, name: &str, metric: &str) -> Result<u64> {
        let [_, metrics, _] = ports(name);
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, metrics));
        let answer = probe::get(&self.place, at, "/metrics").await?;
        let line = answer.body.lines().find_map(|l| l.strip_prefix(metric));
        line.map_or(Ok(0), |value| Ok(value.trim().parse()?))
    }

    /// Threads of a proxy.
    pub(super) fn threads(&self, name: &str) -> Result<usize> {
        let pid = self.proxy(name)?.pid();
        Ok(fs::read_dir(format!("/proc/{pid}/task"))?.count())
    }

    /// Resident memory of a proxy, bytes.
    pub(super) fn resident(&self, name: &str) -> Result<u64> {
        self.proxy(name)?.resident_bytes()
    }

    /// Why the outbound connections from these addresses ended, and how many records say so.
    pub(super) fn outbound_reasons(
        &self,
        name: &str,
        from: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, usize>> {
        let mut reasons = BTreeMap::new();
        for line in self.proxy(name)?.log()?.lines() {
            let Ok(record) = serde_json::from_str::<serde_json::Value>(line) else {
                continue;
            };
            let field = |name: &str| record[name].as_str().unwrap_or_default();
            if field("direction") == "outbound" && from.contains(field("src.addr")) {
                *reasons.entry(field("reason").to_owned()).or_default() += 1;
            }
        }
        Ok(reasons)
    }
}

fn mesh_log(log: Result<String>) -> String {
    let log = log.unwrap_or_default();
    let tail: Vec<&str> = log.lines().rev().take(20).collect();
    tail.into_iter().rev().collect::<Vec<_>>().join("\n")
}

fn ports(proxy: &str) -> [u16; 3] {
    let first = if proxy == "a" { 15100 } else { 15200 };
    [first, first + 1, first + 2]
}

fn ready(port: u16) -> Ready {
    Ready::Http {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        path: "/healthz/ready".to_owned(),
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("zds.sock")
}

fn agent(folder: &Path, pods: &Path) -> Result<ProcessSpec> {
    let name = format!("node-agent {NODE}");
    let [admin, metrics, readiness] = AGENT_PORTS;
    let spec = ProcessSpec::new(
        &name,
        binaries()?.join("node-agent"),
        processes::log(folder, &name),
    );
    Ok(spec
        .args(["--pods".to_owned(), pods.display().to_string()])
        .env("ZTUNNEL_UDS_ADDRESS", socket(folder).display().to_string())
        .env("ADMIN_ADDR", format!("127.0.0.1:{admin}"))
        .env("STATS_ADDR", format!("127.0.0.1:{metrics}"))
        .env("READINESS_ADDR", format!("127.0.0.1:{readiness}"))
        .env("LOG_FORMAT", "json"))
}

fn name(n: usize) -> String {
    format!("many-{n}")
}

fn address(n: usize) -> Ipv4Addr {
    let last = u8::try_from(n + 2).unwrap_or(u8::MAX);
    Ipv4Addr::new(10, 42, 9, last)
}

/// Makes those that are not there yet, and tells the control plane of all.
fn pods(running: &mut Running, count: usize) -> Result<Vec<Place>> {
    let mut objects = String::new();
    let mut places = Vec::new();
    for n in 0..count {
        let (name, address) = (name(n), address(n));
        if running.world.topology.pod(&name).is_err() {
            running.world.topology.add_pod(&PodSpec {
                name: name.clone(),
                node: "node-1".to_owned(),
                address,
            })?;
        }
        places.push(running.world.topology.pod(&name)?.clone());
        write!(
            objects,
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: demo\n  \
             labels: {{app: many, istio.io/dataplane-mode: ambient}}\n  \
             annotations: {{ambient.istio.io/redirection: enabled}}\n\
             spec: {{nodeName: {NODE}, serviceAccountName: many, containers: [{{name: app}}]}}\n\
             status:\n  phase: Running\n  podIP: {address}\n  podIPs: [{{ip: {address}}}]\n  \
             conditions: [{{type: Ready, status: 'True'}}]\n"
        )?;
    }
    fs::write(
        running.world.configuration.folder.join("many.yaml"),
        objects,
    )?;
    Ok(places)
}
