//! The peer as a node's proxy, told of its pods by our node agent: they come, their traffic is
//! carried, they go.

use crate::apps::{self, MIRROR};
use crate::mesh::{Mesh, binaries};
use anyhow::{Context, Result, bail, ensure};
use mesh_lab::Place;
use mesh_lab::client::{Target, tcp_exchange};
use mesh_lab::probe;
use mesh_lab::process::{Process, ProcessSpec, Ready};
use mesh_lab::topology::PodSpec;
use mesh_lab::world::processes::{self, AUTHORITY_NAME, CONTROL_NAME};
use mesh_lab::world::{AUTHORITY, CONTROL};
use mesh_runtime::Scope;
use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The node, as the control plane knows it; its pods share the network of node-2.
const NODE: &str = "node-7";
/// Where its processes run: of its own, as the peer's port of readiness is fixed.
const HOST: (&str, Ipv4Addr) = ("shared-host", Ipv4Addr::new(10, 42, 2, 72));
const CLIENT: (&str, Ipv4Addr) = ("shared-client", Ipv4Addr::new(10, 42, 2, 70));
const SERVER: (&str, Ipv4Addr) = ("shared-server", Ipv4Addr::new(10, 42, 2, 71));
/// Admin, metrics and readiness of the agent.
const AGENT_PORTS: [u16; 3] = [15400, 15401, 15402];
/// The same of the peer, as it has them unless told.
const PEER_PORTS: [u16; 3] = [15000, 15020, 15021];
const PATIENCE: Duration = Duration::from_secs(60);

/// Puts the peer through it.
pub(crate) async fn run(mesh: &mut Mesh, peer: &Path) -> Result<()> {
    let configuration = mesh.configuration("shared.yaml");
    let base = configuration
        .parent()
        .and_then(Path::parent)
        .context("no folder")?
        .to_owned();
    let mut objects = String::new();
    for (name, address) in [CLIENT, SERVER, HOST] {
        mesh.topology.add_pod(&PodSpec {
            name: name.to_owned(),
            node: "node-2".to_owned(),
            address,
        })?;
    }
    for (name, address) in [CLIENT, SERVER] {
        describe(&mut objects, name, address)?;
    }
    fs::write(&configuration, objects)?;
    let [client, server] = [mesh.pod(CLIENT.0)?.clone(), mesh.pod(SERVER.0)?.clone()];
    let ours = mesh.pod("our-client")?.clone();
    let scope = Scope::new();
    apps::start(&scope, &server, &mesh.seen)?;
    let host = mesh.pod(HOST.0)?.clone();
    let outcome = carried(&base, peer, &host, [&client, &server, &ours]).await;
    scope.cancel();
    fs::remove_file(&configuration)?;
    outcome
}

async fn carried(
    base: &Path,
    peer: &Path,
    node: &Place,
    [client, server, ours]: [&Place; 3],
) -> Result<()> {
    let pods = base.join("pods").join(NODE);
    fs::create_dir_all(&pods)?;
    // One is there when the peer starts, the other comes later.
    enrol(&pods, client)?;
    let mut agent = Process::start(node, agent(base, &pods)?)?;
    agent.ready(&ready(AGENT_PORTS), PATIENCE).await?;
    let mut proxy = Process::start(node, proxy(base, peer, node)?)?;
    proxy.ready(&ready(PEER_PORTS), PATIENCE).await?;
    until_active(node, 1, &proxy).await?;
    enrol(&pods, server)?;
    until_active(node, 2, &proxy).await?;

    let to = SocketAddr::from((server.v4(), MIRROR));
    for from in [client, ours] {
        let target = Target::new(to).from_place(from);
        let answer = tcp_exchange(&target, b"through the peer", PATIENCE).await;
        let answer = answer.with_context(|| format!("from {}", from.name()))?;
        ensure!(answer == b"through the peer", "{answer:?} came back");
    }
    let metrics = metrics(node).await?;
    let opened = "istio_tcp_connections_opened_total{reporter=\"destination\"";
    ensure!(
        metrics.contains(opened),
        "the peer carried nothing:\n{metrics}"
    );

    fs::remove_file(pods.join(format!("{}.yaml", SERVER.0)))?;
    until_active(node, 1, &proxy).await?;
    ensure!(proxy.ended()?.is_none(), "the peer ended");
    Ok(())
}

fn enrol(pods: &Path, place: &Place) -> Result<()> {
    let name = place.name();
    let netns = place.path().display();
    let text = format!(
        "{{uid: {name}, name: {name}, namespace: interop, serviceAccount: {name}, netns: {netns}}}\n"
    );
    // Whole at once: the agent looks at any moment.
    let hidden = pods.join("new");
    fs::write(&hidden, text)?;
    Ok(fs::rename(hidden, pods.join(format!("{name}.yaml")))?)
}

fn describe(objects: &mut String, name: &str, address: Ipv4Addr) -> Result<()> {
    write!(
        objects,
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: interop\n  \
         labels: {{app: {name}, istio.io/dataplane-mode: ambient}}\n  \
         annotations: {{ambient.istio.io/redirection: enabled}}\n\
         spec: {{nodeName: {NODE}, serviceAccountName: {name}, containers: [{{name: app}}]}}\n\
         status:\n  phase: Running\n  podIP: {address}\n  podIPs: [{{ip: {address}}}]\n  \
         conditions: [{{type: Ready, status: 'True'}}]\n"
    )?;
    Ok(())
}

fn socket(base: &Path) -> PathBuf {
    base.join("zds.sock")
}

fn agent(base: &Path, pods: &Path) -> Result<ProcessSpec> {
    let name = format!("node-agent {NODE}");
    let program = binaries()?.join("node-agent");
    let spec = ProcessSpec::new(&name, program, processes::log(base, &name))
        .args(["--pods".to_owned(), pods.display().to_string()])
        .env("ZTUNNEL_UDS_ADDRESS", socket(base).display().to_string());
    let [admin, metrics, readiness] = AGENT_PORTS;
    Ok(spec
        .env("ADMIN_ADDR", format!("127.0.0.1:{admin}"))
        .env("STATS_ADDR", format!("127.0.0.1:{metrics}"))
        .env("READINESS_ADDR", format!("127.0.0.1:{readiness}")))
}

fn proxy(base: &Path, peer: &Path, node: &Place) -> Result<ProcessSpec> {
    let account = "strata-system/ztunnel";
    let token = processes::token(&binaries()?, base, account, "ztunnel-peer", NODE)?;
    let root = base.join("ca/root-cert.pem").display().to_string();
    let name = format!("peer {NODE}");
    let spec = ProcessSpec::new(&name, peer, processes::log(base, &name))
        .env("PROXY_MODE", "shared")
        .env("INPOD_UDS", socket(base).display().to_string())
        .env("XDS_ADDRESS", format!("https://{CONTROL}:15012"))
        .env("XDS_ROOT_CA", &root)
        .env("ALT_XDS_HOSTNAME", CONTROL_NAME)
        .env("CA_ADDRESS", format!("https://{AUTHORITY}:15012"))
        .env("CA_ROOT_CA", &root)
        .env("ALT_CA_HOSTNAME", AUTHORITY_NAME)
        .env("AUTH_TOKEN", token.display().to_string())
        .env("NODE_NAME", NODE)
        .env("POD_NAME", "ztunnel-peer")
        .env("POD_NAMESPACE", "strata-system")
        .env("SERVICE_ACCOUNT", "ztunnel")
        .env("INSTANCE_IP", node.v4().to_string())
        .env("CLUSTER_ID", "Kubernetes")
        .env("ISTIO_META_DNS_CAPTURE", "false");
    Ok(spec)
}

fn ready([_, _, readiness]: [u16; 3]) -> Ready {
    Ready::Http {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, readiness)),
        path: "/healthz/ready".to_owned(),
    }
}

async fn metrics(node: &Place) -> Result<String> {
    let [_, metrics, _] = PEER_PORTS;
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, metrics));
    Ok(probe::get(node, at, "/metrics").await?.body)
}

async fn until_active(node: &Place, count: usize, proxy: &Process) -> Result<()> {
    let wanted = format!("workload_manager_active_proxy_count {count}");
    for _ in 0..3000 {
        if metrics(node).await.is_ok_and(|all| all.contains(&wanted)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let log = proxy.log().unwrap_or_default();
    let end: Vec<&str> = log.lines().rev().take(15).collect();
    bail!("the peer does not carry {count} pods:\n{}", end.join("\n"))
}
