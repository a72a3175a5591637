//! Pods on two nodes, half of them behind our node proxy, half behind the peer, and one waypoint, one
//! control plane and one authority, ours, for all; and a third node whose pods are another network.

use crate::apps::{self, Seen};
use crate::matrix::Side;
use anyhow::{Context, Result, bail};
use mesh_lab::Place;
use mesh_lab::background::Background;
use mesh_lab::forward;
use mesh_lab::probe;
use mesh_lab::process::{Process, ProcessSpec, Ready};
use mesh_lab::topology::{NodeSpec, PodSpec as PlaceSpec, Topology};
use mesh_lab::world::pods::{self, PodSpec};
use mesh_lab::world::processes::{self, AUTHORITY_NAME, CONTROL_NAME, Proxy};
use mesh_lab::world::{AUTHORITY, CONTROL};
use mesh_redirect::{InPodOptions, Mode, RuleSet};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const PODS: &str = include_str!("configuration/pods.yaml");
const SERVICES: &str = include_str!("configuration/services.yaml");
const POLICIES: &str = include_str!("configuration/policies.yaml");
const WAYPOINT: &str = include_str!("configuration/waypoint.yaml");
const WEST: &str = include_str!("configuration/west.yaml");
const WEST_PODS: &str = include_str!("configuration/west_pods.yaml");
/// The policy that is added and taken away.
pub(crate) const CUT_POLICY: &str = include_str!("configuration/cut.yaml");

/// The pod that is in no mesh: it has no redirection, and the control plane does not know it.
pub(crate) const STRANGER: &str = "stranger";
const STRANGER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 42, 1, 30);
/// What leads into the other network; it alone reaches the pods there.
pub(crate) const WEST_GATEWAY: &str = "west-gateway";
/// Their node.
const WEST_NODE: &str = "node-3";
/// How long a program may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Lifetime of certificates, both sides. The authority dates them 120 s back, so their half life is 15 s
/// after their issue, and whatever is tried is tried while certificates change.
const SECRET_TTL: &str = "150s";
/// How long a proxy that was asked to end lets connections run on, both sides.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);
/// Where the control plane and the authority are found inside a pod of the peer.
const RELAY_XDS: u16 = 15112;
const RELAY_CA: u16 = 15113;

/// What runs.
pub(crate) struct Mesh {
    pub(crate) topology: Topology,
    /// What the applications saw.
    pub(crate) seen: Seen,
    processes: BTreeMap<String, Process>,
    background: Background,
    folder: TempDir,
}

impl Mesh {
    /// Starts everything and waits until it is ready.
    pub(crate) async fn start(peer: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("interop-").tempdir()?;
        let mut pods = pods::read(PODS)?;
        pods.extend(pods::read(WEST_PODS)?);
        let topology = network(&pods)?;
        write_configuration(folder.path())?;
        for pod in pods.iter().filter(|pod| side(pod).is_some()) {
            let rules = RuleSet::new(&Mode::InPod(InPodOptions::default()));
            topology.pod(&pod.name)?.enter(|| rules.apply())??;
        }
        let seen = Seen::default();
        let background = background(&topology, &pods, &seen)?;
        let mut mesh = Self {
            topology,
            seen,
            processes: BTreeMap::new(),
            background,
            folder,
        };
        mesh.start_control().await?;
        let binaries = binaries()?;
        for node in ["node-1", "node-2", WEST_NODE] {
            let spec = mesh.our_proxy(&binaries, node, &pods)?;
            let place = mesh.topology.node(node)?.clone();
            mesh.run(&place, spec)?;
        }
        for pod in &pods {
            let spec = match side(pod) {
                Some(Side::Our) => continue,
                Some(Side::Their) => mesh.their_proxy(&binaries, peer, pod)?,
                None => mesh.gateway(&binaries, pod)?,
            };
            let place = mesh.topology.pod(&pod.name)?.clone();
            mesh.run(&place, spec)?;
        }
        for process in mesh.processes.values_mut() {
            process.ready(&Ready::mesh(), READY_WITHIN).await?;
        }
        Ok(mesh)
    }

    /// A pod's place.
    pub(crate) fn pod(&self, name: &str) -> Result<&Place> {
        self.topology.pod(name)
    }

    /// The proxy that serves a pod.
    pub(crate) fn proxy_of(&mut self, pod: &str) -> Result<&mut Process> {
        let name = match pod {
            _ if pod.starts_with("our-west-") => format!("ztunnel {WEST_NODE}"),
            _ if pod.starts_with("our-") && pod.ends_with("-server") => "ztunnel node-2".to_owned(),
            _ if pod.starts_with("our-") => "ztunnel node-1".to_owned(),
            _ => peer_name(pod),
        };
        self.processes
            .get_mut(&name)
            .with_context(|| format!("no process is called {name}"))
    }

    /// Starts the proxy that serves a pod again, and waits until it is ready.
    pub(crate) async fn restart_proxy_of(&mut self, pod: &str) -> Result<()> {
        let proxy = self.proxy_of(pod)?;
        proxy.restart()?;
        proxy.ready(&Ready::mesh(), READY_WITHIN).await
    }

    /// A file of the configuration folder.
    pub(crate) fn configuration(&self, name: &str) -> PathBuf {
        self.folder.path().join("configuration").join(name)
    }

    /// Ends everything; the logs stay when they may be of use.
    pub(crate) fn finish(self, keep: bool) {
        let Self {
            processes,
            background,
            folder,
            ..
        } = self;
        drop(processes);
        drop(background);
        if keep {
            println!("logs: {}", folder.keep().join("logs").display());
        }
    }

    async fn start_control(&mut self) -> Result<()> {
        let binaries = binaries()?;
        let folder = self.folder.path().to_owned();
        let token =
            |account: &str, pod| processes::token(&binaries, &folder, account, pod, "node-1");
        // Makes the key by which the authority will know tokens, before either is up.
        token("strata-system/mesh-control", "mesh-control")?;
        let authority_token = token("strata-system/mesh-ca", "mesh-ca")?;
        let control = processes::control(&binaries, &folder, &folder.join("configuration"));
        let authority = processes::authority(&binaries, &folder, &authority_token);
        let place = self.topology.pod("control")?.clone();
        self.run(&place, control)?;
        let place = self.topology.pod("ca")?.clone();
        self.run(&place, authority)?;
        for process in self.processes.values_mut() {
            process.ready(&Ready::mesh(), READY_WITHIN).await?;
        }
        Ok(())
    }

    /// Our node proxy, for the pods of a node that are ours.
    fn our_proxy(&self, binaries: &Path, node: &str, pods: &[PodSpec]) -> Result<ProcessSpec> {
        let base = self.folder.path();
        let account = "strata-system/ztunnel";
        let token = processes::token(binaries, base, account, &format!("ztunnel-{node}"), node)?;
        let folder = base.join("pods").join(node);
        fs::create_dir_all(&folder)?;
        let ours = |pod: &&PodSpec| pod.node == node && side(pod) == Some(Side::Our);
        for pod in pods.iter().filter(ours) {
            let path = self.topology.pod(&pod.name)?.path();
            let file = folder.join(format!("{}.yaml", pod.name));
            fs::write(file, processes::pod_file(pod, path))?;
        }
        let proxy = Proxy {
            binaries,
            folder: base,
            token: &token,
            otlp: None,
        };
        let address = self.topology.node(node)?.v4();
        let network = if node == WEST_NODE { "west" } else { "" };
        Ok(proxy
            .ztunnel(node, address, &folder)
            .env("NETWORK", network)
            .env("SECRET_TTL", SECRET_TTL)
            .env("CONNECTION_TERMINATION_DEADLINE", drain()))
    }

    /// The peer, for one pod, in the pod. It dials control plane and authority like any program of
    /// the pod, so the redirection would take it to itself; it finds them on the loopback instead.
    fn their_proxy(&self, binaries: &Path, peer: &Path, pod: &PodSpec) -> Result<ProcessSpec> {
        let base = self.folder.path();
        let account = format!("{}/{}", pod.namespace, pod.service_account);
        let token = processes::token(binaries, base, &account, &pod.name, &pod.node)?;
        let root = base.join("ca/root-cert.pem").display().to_string();
        let workload = format!("{}/{}/{}", pod.namespace, pod.name, pod.service_account);
        let name = peer_name(&pod.name);
        let log = processes::log(base, &name);
        Ok(ProcessSpec::new(name, peer, log)
            .env("PROXY_MODE", "dedicated")
            .env("PROXY_WORKLOAD_INFO", workload)
            .env("XDS_ADDRESS", format!("https://127.0.0.1:{RELAY_XDS}"))
            .env("XDS_ROOT_CA", &root)
            .env("ALT_XDS_HOSTNAME", CONTROL_NAME)
            .env("CA_ADDRESS", format!("https://127.0.0.1:{RELAY_CA}"))
            .env("CA_ROOT_CA", &root)
            .env("ALT_CA_HOSTNAME", AUTHORITY_NAME)
            .env("AUTH_TOKEN", token.display().to_string())
            .env("NETWORK", pod.network.as_deref().unwrap_or_default())
            .env("NODE_NAME", &pod.node)
            .env("POD_NAME", &pod.name)
            .env("POD_NAMESPACE", &pod.namespace)
            .env("SERVICE_ACCOUNT", &pod.service_account)
            .env("INSTANCE_IP", pod.address.to_string())
            .env("PACKET_MARK", mesh_model::PACKET_MARK.to_string())
            .env("ENABLE_ORIG_SRC", "true")
            .env("SECRET_TTL", SECRET_TTL)
            // Our rules do not capture DNS unless asked; it answers those who ask it by address.
            .env("ISTIO_META_DNS_CAPTURE", "true")
            .env("CONNECTION_TERMINATION_DEADLINE", drain())
            .env("RUST_LOG", "info"))
    }

    /// Ours: the waypoint, and what leads into the other network.
    fn gateway(&self, binaries: &Path, pod: &PodSpec) -> Result<ProcessSpec> {
        let base = self.folder.path();
        let account = format!("{}/{}", pod.namespace, pod.service_account);
        let token = processes::token(binaries, base, &account, &pod.name, &pod.node)?;
        let proxy = Proxy {
            binaries,
            folder: base,
            token: &token,
            otlp: None,
        };
        Ok(proxy.of_pod(pod)?.env("SECRET_TTL", SECRET_TTL))
    }

    /// The certificate that a pod's proxy holds for an account, from the proxy's own dump.
    pub(crate) async fn certificate(&mut self, pod: &str, account: &str) -> Result<Value> {
        let place = self.proxy_of(pod)?.place().clone();
        let admin = (Ipv4Addr::LOCALHOST, 15000).into();
        let dump = probe::get(&place, admin, "/config_dump").await?;
        let dump: Value = serde_json::from_str(&dump.body).context("/config_dump")?;
        let identity = format!("spiffe://cluster.local/ns/interop/sa/{account}");
        let certificates = dump["certificates"].as_array();
        let own = certificates
            .and_then(|all| all.iter().find(|one| one["identity"] == identity.as_str()));
        let missing = || format!("no certificate of {identity} in the dump");
        own.cloned().with_context(missing)
    }

    /// Its serial number.
    pub(crate) async fn serial(&mut self, pod: &str, account: &str) -> Result<String> {
        let own = self.certificate(pod, account).await?;
        let serial = own["serial"].as_str();
        serial
            .or_else(|| own["certChain"][0]["serialNumber"].as_str())
            .map(str::to_owned)
            .with_context(|| format!("no serial number in {own}"))
    }

    /// Starts the authority again, and waits until it is ready.
    pub(crate) async fn restart_authority(&mut self) -> Result<()> {
        let authority = self.processes.get_mut("mesh-ca").context("no authority")?;
        authority.restart()?;
        authority.ready(&Ready::mesh(), READY_WITHIN).await
    }

    /// The folder in which everything of this mesh is.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn run(&mut self, place: &Place, spec: ProcessSpec) -> Result<()> {
        let name = spec.name.clone();
        self.processes.insert(name, Process::start(place, spec)?);
        Ok(())
    }
}

/// Applications and relays: they go on while no test waits.
fn background(topology: &Topology, pods: &[PodSpec], seen: &Seen) -> Result<Background> {
    let mut servers = vec![topology.pod(STRANGER)?.clone()];
    let mut relays = Vec::new();
    for pod in pods {
        let place = topology.pod(&pod.name)?;
        if pod.name.ends_with("-server") {
            servers.push(place.clone());
        }
        if side(pod) == Some(Side::Their) {
            for (port, to) in [(RELAY_XDS, CONTROL), (RELAY_CA, AUTHORITY)] {
                relays.push((forward::open_in(place, port)?, to));
            }
        }
    }
    let (outside, seen) = (topology.outside().clone(), seen.clone());
    Background::start("background", move |scope| {
        for place in &servers {
            apps::start(scope, place, &seen)?;
        }
        for (listener, to) in relays {
            forward::start(scope, listener, &outside, (to, 15012).into())?;
        }
        Ok(())
    })
}

fn network(pods: &[PodSpec]) -> Result<Topology> {
    let nodes = [("node-1", 1), ("node-2", 2), (WEST_NODE, 3)].map(|(name, number)| NodeSpec {
        name: name.to_owned(),
        number,
    });
    let place = |name: &str, node: &str, address| PlaceSpec {
        name: name.to_owned(),
        node: node.to_owned(),
        address,
    };
    let mut places = vec![
        place("control", "node-1", CONTROL),
        place("ca", "node-1", AUTHORITY),
        place(STRANGER, "node-1", STRANGER_ADDRESS),
    ];
    for pod in pods {
        let IpAddr::V4(address) = pod.address else {
            bail!("pod {}: the lab numbers pods by IPv4", pod.name);
        };
        places.push(place(&pod.name, &pod.node, address));
    }
    let topology = Topology::create(&nodes, &places)?;
    let west = pods.iter().filter(|pod| pod.network.is_some());
    let west: Vec<&str> = west
        .map(|pod| pod.name.as_str())
        .filter(|name| *name != WEST_GATEWAY)
        .collect();
    topology.separate(WEST_NODE, "west", &west, WEST_GATEWAY)?;
    Ok(topology)
}

fn write_configuration(base: &Path) -> Result<()> {
    let folder = base.join("configuration");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("pods.yaml"), PODS)?;
    fs::write(folder.join("west.yaml"), WEST)?;
    fs::write(folder.join("west-pods.yaml"), WEST_PODS)?;
    fs::write(folder.join("services.yaml"), SERVICES)?;
    fs::write(folder.join("policies.yaml"), POLICIES)?;
    fs::write(folder.join("waypoint.yaml"), WAYPOINT)?;
    Ok(())
}

/// Whose node proxy serves a pod; none serves the waypoint and the gateway.
fn side(pod: &PodSpec) -> Option<Side> {
    let of_side = |side: &Side| pod.name.starts_with(side.as_str());
    [Side::Our, Side::Their].into_iter().find(of_side)
}

fn peer_name(pod: &str) -> String {
    format!("peer {pod}")
}

fn drain() -> String {
    format!("{}s", DRAIN.as_secs())
}

/// The folder of the binaries: beside the folder of this test program.
pub(crate) fn binaries() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program
        .parent()
        .and_then(|deps| deps.parent())
        .context("no build folder")?;
    Ok(folder.to_owned())
}
