//! Two networks: a pod on a bridge of its own, which only the gateway has a leg in.

use super::node::ECHO_PORT;
use super::traffic::{Application, exchange};
use crate::world::{Running, binaries};
use anyhow::{Result, bail, ensure};
use mesh_lab::Place;
use mesh_lab::process::{Process, Ready};
use mesh_lab::topology::PodSpec;
use mesh_lab::world::processes::{self, Proxy};
use mesh_redirect::{InPodOptions, Mode, RuleSet};
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

const NODE: &str = "node-2";
const SERVER: (&str, Ipv4Addr) = ("west-server", Ipv4Addr::new(10, 42, 2, 190));
const GATEWAY: (&str, Ipv4Addr) = ("west-gateway", Ipv4Addr::new(10, 42, 2, 191));
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 77);
/// How long anything may take that others on the machine slow down.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the ztunnel of network `west`, on the node where another one runs.
const PORTS: [u16; 3] = [15500, 15501, 15502];

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: west, namespace: demo}
spec: {clusterIP: 10.96.0.77, selector: {app: west}, ports: [{port: 7000}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: west-server
  namespace: demo
  labels: {app: west, istio.io/dataplane-mode: ambient, topology.istio.io/network: west}
  annotations: {ambient.istio.io/redirection: enabled}
spec: {nodeName: node-2, serviceAccountName: west-server, containers: [{name: app}]}
status:
  phase: Running
  podIP: 10.42.2.190
  podIPs: [{ip: 10.42.2.190}]
  conditions: [{type: Ready, status: 'True'}]
---
apiVersion: v1
kind: Pod
metadata:
  name: west-gateway
  namespace: demo
  labels:
    gateway.networking.k8s.io/gateway-name: west
    networking.istio.io/tunnel: http
    topology.istio.io/network: west
spec: {nodeName: node-2, serviceAccountName: west-gateway, containers: [{name: proxy}]}
status:
  phase: Running
  podIP: 10.42.2.191
  podIPs: [{ip: 10.42.2.191}]
  conditions: [{type: Ready, status: 'True'}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: west, namespace: demo, labels: {topology.istio.io/network: west}}
spec: {gatewayClassName: strata-east-west, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
";

const DENY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: west-no-client, namespace: demo}
spec:
  selector: {matchLabels: {app: west}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/demo/sa/client]}}]}]
";

pub(super) async fn run(running: &mut Running) -> Result<()> {
    let configuration = running.world.configuration.folder.clone();
    let policy = configuration.join("west-deny.yaml");
    let objects = configuration.join("west.yaml");
    let outcome = carried(running, &objects, &policy).await;
    // The mesh is shared.
    drop(fs::remove_file(policy));
    drop(fs::remove_file(objects));
    outcome
}

async fn carried(running: &mut Running, objects: &Path, policy: &Path) -> Result<()> {
    let (server, gateway) = places(running)?;
    fs::write(objects, OBJECTS)?;
    let _application = Application::start(&server)?;
    let mut ztunnel = ztunnel(running, &server).await?;
    let mut edge = start_gateway(running, &gateway).await?;
    let client = running.world.place("client")?.clone();
    let direct = SocketAddr::from((server.v4(), ECHO_PORT));
    ensure!(
        exchange(&client, direct).await.is_err(),
        "the server is reached without the gateway"
    );

    // 1. Through the gateway, as the client's own identity.
    let to = SocketAddr::from((VIP, ECHO_PORT));
    until("the first exchange", async || exchange(&client, to).await).await?;
    let id = |account: &str| format!("spiffe://cluster.local/ns/demo/sa/{account}");
    let far = ("src.identity", id("client"));
    recorded(&mut ztunnel, &[far.clone(), ("reason", "ok".into())]).await?;
    let between = ("transport", "double_hbone".to_owned());
    recorded(&mut edge, &[far.clone(), between.clone()]).await?;
    let near = running.world.process("ztunnel node-1")?;
    recorded(near, &[between, ("dst.identity", id("west-server"))]).await?;

    // 2. The far ztunnel denies by that identity.
    fs::write(policy, DENY)?;
    until("the denial", async || {
        let answer = exchange(&client, to).await;
        ensure!(answer.is_err(), "it is let in");
        Ok(())
    })
    .await?;
    recorded(
        &mut ztunnel,
        &[far, ("policy", "demo/west-no-client".into())],
    )
    .await?;
    fs::remove_file(policy)?;
    until("the end of the denial", async || {
        exchange(&client, to).await
    })
    .await?;

    // 3. Without the gateway: a reason that names it; with it again: as before.
    edge.kill()?;
    ensure!(exchange(&client, to).await.is_err(), "nobody carried it");
    let near = running.world.process("ztunnel node-1")?;
    recorded(
        near,
        &[
            ("reason", "connect_failed".into()),
            ("error", "gateway 10.42.2.191:15008: connect".into()),
        ],
    )
    .await?;
    edge.restart()?;
    edge.ready(&Ready::mesh(), PATIENCE).await?;
    until("the exchange after that", async || {
        exchange(&client, to).await
    })
    .await
}

/// The server, taken off the node's bridge and put on one of its own, and the gateway, on both.
fn places(running: &mut Running) -> Result<(Place, Place)> {
    let topology = &mut running.world.topology;
    for (name, address) in [SERVER, GATEWAY] {
        topology.add_pod(&PodSpec {
            name: name.to_owned(),
            node: NODE.to_owned(),
            address,
        })?;
    }
    let (server, gateway) = (
        topology.pod(SERVER.0)?.clone(),
        topology.pod(GATEWAY.0)?.clone(),
    );
    topology.separate(NODE, "west", &[SERVER.0], GATEWAY.0)?;
    let rules = RuleSet::new(&Mode::InPod(InPodOptions::default()));
    server.enter(|| rules.apply())??;
    Ok((server, gateway))
}

async fn ztunnel(running: &Running, server: &Place) -> Result<Process> {
    let world = &running.world;
    let folder = world.folder.join("pods").join("west");
    fs::create_dir_all(&folder)?;
    let name = SERVER.0;
    let file = format!(
        "{{uid: {name}, name: {name}, namespace: demo, serviceAccount: {name}, netns: {}}}\n",
        server.path().display()
    );
    fs::write(folder.join(format!("{name}.yaml")), file)?;
    let place = world.topology.node(NODE)?.clone();
    let token = world.token("strata-system/ztunnel", "ztunnel-west", NODE)?;
    let binaries = binaries()?;
    let proxy = Proxy {
        binaries: &binaries,
        folder: &world.folder,
        token: &token,
        otlp: None,
    };
    let mut spec = proxy.ztunnel(NODE, place.v4(), &folder);
    spec.name = "ztunnel west".to_owned();
    spec.log = processes::log(&world.folder, &spec.name);
    let [admin, metrics, readiness] = PORTS;
    let spec = spec
        .env("NETWORK", "west")
        .env("ADMIN_ADDR", format!("127.0.0.1:{admin}"))
        .env("STATS_ADDR", format!("127.0.0.1:{metrics}"))
        .env("READINESS_ADDR", format!("127.0.0.1:{readiness}"));
    let mut process = Process::start(&place, spec)?;
    let ready = Ready::Http {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, readiness)),
        path: "/healthz/ready".to_owned(),
    };
    process.ready(&ready, PATIENCE).await?;
    Ok(process)
}

async fn start_gateway(running: &Running, place: &Place) -> Result<Process> {
    let world = &running.world;
    let name = GATEWAY.0;
    let token = world.token("demo/west-gateway", name, NODE)?;
    let binaries = binaries()?;
    let proxy = Proxy {
        binaries: &binaries,
        folder: &world.folder,
        token: &token,
        otlp: None,
    };
    let pod = mesh_lab::world::pods::PodSpec {
        name: name.to_owned(),
        namespace: "demo".to_owned(),
        address: GATEWAY.1.into(),
        node: NODE.to_owned(),
        service_account: name.to_owned(),
        role: mesh_lab::world::pods::PodRole::NetworkGateway,
        network: Some("west".to_owned()),
    };
    let mut process = Process::start(place, proxy.of_pod(&pod)?)?;
    process.ready(&Ready::mesh(), PATIENCE).await?;
    Ok(process)
}

/// Tries until it works.
async fn until(what: &str, mut attempt: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let begin = Instant::now();
    loop {
        match attempt().await {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed() > PATIENCE => return Err(error.context(what.to_owned())),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Waits for an end record whose fields begin so.
async fn recorded(process: &mut Process, fields: &[(&str, String)]) -> Result<()> {
    let begin = Instant::now();
    loop {
        let log = process.log()?;
        let fits = |record: &Value| {
            let begins = |(field, value): &(&str, String)| {
                let text = record[*field].as_str();
                text.is_some_and(|text| text.starts_with(value.as_str()))
            };
            fields.iter().all(begins)
        };
        if log
            .lines()
            .filter_map(|l| serde_json::from_str(l).ok())
            .any(|r| fits(&r))
        {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            bail!(
                "{} has no record with {fields:?}:\n{}",
                process.name(),
                tail.join("\n")
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
