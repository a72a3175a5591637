//! A whole mesh on one machine: the pods of `manifests/demo/`, the real binaries in them, ready.
//!
//! The demo and the namespace tests start from here. Names of processes are those of [`World::process`]:
//! `mesh-control`, `mesh-ca`, `ztunnel node-1`, `sidecar frontend`, `gateway gateway`, `waypoint waypoint`,
//! `origin frontend`.

pub mod configuration;
pub mod pods;
pub mod processes;

pub use processes::{CONTROL_NAME, PAYLOAD};

use crate::place::Place;
use crate::postgres::Postgres;
use crate::process::{Process, Ready};
use crate::topology::{NodeSpec, PodSpec as PlaceSpec, Topology};
use anyhow::{Context, Result, bail};
use configuration::Configuration;
use mesh_redirect::{InPodOptions, Mode, RuleSet, SidecarOptions};
use nix::mount::{MsFlags, mount};
use pods::{PodRole, PodSpec};
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the whole mesh may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Address of the pod that `mesh-control` runs in.
pub const CONTROL: Ipv4Addr = Ipv4Addr::new(10, 42, 1, 2);
/// Address of the pod that `mesh-ca` runs in.
pub const AUTHORITY: Ipv4Addr = Ipv4Addr::new(10, 42, 1, 3);
/// Address of the pod `internet`: a client outside the mesh.
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(10, 42, 1, 20);
/// Address of the pod `plain`: the same servers outside the mesh, for comparison.
pub const PLAIN: Ipv4Addr = Ipv4Addr::new(10, 42, 2, 30);
/// Where the lab's files are when no folder is given: a file system that ends with the lab.
const PRIVATE_FOLDER: &str = "/run/strata";

/// What to start.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// Folder of the mesh's binaries.
    pub binaries: PathBuf,
    /// Folder for state, configuration and logs; none given: one that ends with the lab.
    pub folder: Option<PathBuf>,
    /// Whether root is only the root of a user namespace ([`crate::isolate::Inside`]).
    pub user_namespace: bool,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` of every proxy.
    pub otlp: Option<String>,
    /// Whether the database is a PostgreSQL; else a server of ours that speaks first takes its place.
    pub postgres: bool,
}

/// A running mesh. Dropping it ends every process.
#[derive(Debug)]
pub struct World {
    /// The network.
    pub topology: Topology,
    /// The pods of the mesh.
    pub pods: Vec<PodSpec>,
    /// The configuration folder and the web certificate.
    pub configuration: Configuration,
    /// Where state, configuration and logs are.
    pub folder: PathBuf,
    options: WorldOptions,
    processes: BTreeMap<String, Process>,
    databases: Vec<Postgres>,
}

impl World {
    /// Starts everything and waits until it is ready. `say` is told what happens.
    ///
    /// # Errors
    /// When a program is missing, fails, or is not ready within a minute; the message quotes its log.
    pub async fn start(options: WorldOptions, say: impl Fn(&str)) -> Result<Self> {
        let folder = folder(options.folder.as_deref())?;
        let configuration = configuration::write(&folder)?;
        let pods = pods::read(configuration::PODS)?;
        say(&format!(
            "network: {} pods on {} nodes",
            pods.len() + 4,
            nodes(&pods).len()
        ));
        let topology = network(&pods)?;
        for pod in &pods {
            redirect(&topology, pod)?;
        }
        let mut world = Self {
            topology,
            pods,
            configuration,
            folder,
            options,
            processes: BTreeMap::new(),
            databases: Vec::new(),
        };
        say("control plane and certificate authority");
        world.start_control().await?;
        say("proxies, applications and databases");
        world.start_data_plane()?;
        world.start_databases().await?;
        world.wait_ready().await?;
        Ok(world)
    }

    /// A pod's place.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn place(&self, pod: &str) -> Result<&Place> {
        self.topology.pod(pod)
    }

    /// A process by name.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn process(&mut self, name: &str) -> Result<&mut Process> {
        self.processes
            .get_mut(name)
            .with_context(|| format!("no process is called {name}"))
    }

    /// Whether the database is a PostgreSQL.
    pub fn has_postgres(&self) -> bool {
        self.options.postgres
    }

    /// Every process, by name.
    pub fn processes(&self) -> impl Iterator<Item = (&str, &Process)> {
        self.processes
            .iter()
            .map(|(name, process)| (name.as_str(), process))
    }

    /// The log file of a process.
    pub fn log(&self, name: &str) -> PathBuf {
        processes::log(&self.folder, name)
    }

    /// The file of the root that every certificate of the mesh chains to.
    pub fn root(&self) -> PathBuf {
        self.folder.join("ca/root-cert.pem")
    }

    /// Makes a token for a service account and gives its file.
    ///
    /// # Errors
    /// When `mesh-control token` fails.
    pub fn token(&self, account: &str, pod: &str, node: &str) -> Result<PathBuf> {
        processes::token(&self.options.binaries, &self.folder, account, pod, node)
    }

    /// Waits until a process is ready again, after a restart.
    ///
    /// # Errors
    /// When it ends, or is not ready within a minute.
    pub async fn ready(&mut self, name: &str) -> Result<()> {
        let ready = processes::readiness(name);
        self.process(name)?.ready(&ready, READY_WITHIN).await
    }

    async fn start_control(&mut self) -> Result<()> {
        let (binaries, folder) = (self.options.binaries.clone(), self.folder.clone());
        let control = processes::control(&binaries, &folder, &self.configuration.folder);
        // Makes the key by which the authority will know tokens, before either is up.
        self.token("strata-system/mesh-control", "mesh-control", "node-1")?;
        let authority_token = self.token("strata-system/mesh-ca", "mesh-ca", "node-1")?;
        let authority = processes::authority(&binaries, &folder, &authority_token);
        self.run("control", control)?;
        self.run("ca", authority)?;
        self.ready("mesh-control").await
    }

    fn start_data_plane(&mut self) -> Result<()> {
        for node in nodes(&self.pods) {
            let spec = self.ztunnel(&node.name)?;
            let place = self.topology.node(&node.name)?.clone();
            self.processes
                .insert(spec.name.clone(), Process::start(&place, spec)?);
        }
        for pod in self.pods.clone() {
            if pod.role != PodRole::Ambient {
                let account = format!("{}/{}", pod.namespace, pod.service_account);
                let token = self.token(&account, &pod.name, &pod.node)?;
                let proxy = processes::Proxy {
                    binaries: &self.options.binaries,
                    folder: &self.folder,
                    token: &token,
                    otlp: self.options.otlp.as_deref(),
                };
                let spec = proxy.of_pod(&pod)?;
                self.run(&pod.name, spec)?;
            }
        }
        for (pod, spec) in processes::origins(&self.options.binaries, &self.folder) {
            self.run(pod, spec)?;
        }
        Ok(())
    }

    fn ztunnel(&self, node: &str) -> Result<crate::process::ProcessSpec> {
        let token = self.token("strata-system/ztunnel", &format!("ztunnel-{node}"), node)?;
        let folder = self.folder.join("pods").join(node);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let of_node = |p: &&PodSpec| p.node == node && p.role == PodRole::Ambient;
        for pod in self.pods.iter().filter(of_node) {
            let file = folder.join(format!("{}.yaml", pod.name));
            let path = self.topology.pod(&pod.name)?.path();
            fs::write(&file, processes::pod_file(pod, path))
                .with_context(|| file.display().to_string())?;
        }
        let proxy = processes::Proxy {
            binaries: &self.options.binaries,
            folder: &self.folder,
            token: &token,
            otlp: self.options.otlp.as_deref(),
        };
        let address = self.topology.node(node)?.v4();
        Ok(proxy.ztunnel(node, address, &folder))
    }

    async fn start_databases(&mut self) -> Result<()> {
        if !self.options.postgres {
            for (pod, spec) in processes::stand_ins(&self.options.binaries, &self.folder) {
                self.run(pod, spec)?;
            }
            return Ok(());
        }
        let user_namespace = self.options.user_namespace;
        let (meshed, plain) = (
            self.folder.join("postgres"),
            self.folder.join("postgres-plain"),
        );
        let start = |pod: &str, folder: PathBuf| {
            let place = self.topology.pod(pod).cloned();
            async move { Postgres::start(&place?, &folder, user_namespace).await }
        };
        let (meshed, plain) = tokio::try_join!(start("postgres", meshed), start("plain", plain))?;
        self.databases = vec![meshed, plain];
        Ok(())
    }

    fn run(&mut self, pod: &str, spec: crate::process::ProcessSpec) -> Result<()> {
        let place = self.topology.pod(pod)?.clone();
        self.processes
            .insert(spec.name.clone(), Process::start(&place, spec)?);
        Ok(())
    }

    async fn wait_ready(&mut self) -> Result<()> {
        for (name, process) in &mut self.processes {
            let ready: Ready = processes::readiness(name);
            process.ready(&ready, READY_WITHIN).await?;
        }
        Ok(())
    }
}

/// The lab's folder, emptied of an earlier run's state.
fn folder(given: Option<&Path>) -> Result<PathBuf> {
    let folder = given.unwrap_or_else(|| Path::new(PRIVATE_FOLDER));
    if given.is_some_and(|g| g.join("configuration").exists()) {
        bail!(
            "{} holds an earlier run: give an empty folder",
            folder.display()
        );
    }
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    if given.is_none() {
        let options = Some("mode=0755,size=2g");
        mount(
            Some("tmpfs"),
            folder,
            Some("tmpfs"),
            MsFlags::MS_NOSUID,
            options,
        )
        .context("cannot mount a file system for the lab")?;
    }
    folder
        .canonicalize()
        .with_context(|| folder.display().to_string())
}

fn nodes(pods: &[PodSpec]) -> Vec<NodeSpec> {
    let mut names: Vec<&str> = pods.iter().map(|p| p.node.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .zip(1..)
        .map(|(name, number)| NodeSpec {
            name: name.into(),
            number,
        })
        .collect()
}

fn network(pods: &[PodSpec]) -> Result<Topology> {
    let nodes = nodes(pods);
    let mut places = Vec::new();
    for pod in pods {
        let IpAddr::V4(address) = pod.address else {
            bail!("pod {}: the lab numbers pods by IPv4", pod.name);
        };
        places.push(place(&pod.name, &pod.node, address));
    }
    let [first, .., last] = nodes.as_slice() else {
        bail!("the demo needs two nodes");
    };
    places.push(place("control", &first.name, CONTROL));
    places.push(place("ca", &first.name, AUTHORITY));
    places.push(place("internet", &first.name, INTERNET));
    places.push(place("plain", &last.name, PLAIN));
    Topology::create(&nodes, &places)
}

fn place(name: &str, node: &str, address: Ipv4Addr) -> PlaceSpec {
    PlaceSpec {
        name: name.into(),
        node: node.into(),
        address,
    }
}

/// What a cluster's node agent or an init container does: puts the redirection into the pod.
fn redirect(topology: &Topology, pod: &PodSpec) -> Result<()> {
    let mode = match pod.role {
        PodRole::Ambient => Mode::InPod(InPodOptions::default()),
        PodRole::Sidecar => Mode::Sidecar(SidecarOptions::default()),
        PodRole::Gateway | PodRole::Waypoint | PodRole::NetworkGateway => return Ok(()),
    };
    topology
        .pod(&pod.name)?
        .enter(|| RuleSet::new(&mode).apply())?
        .with_context(|| format!("redirection of pod {}", pod.name))
}
