//! How each proxy is started.

use super::pods::{Group, NAMESPACE, Pod, Role, pods};
use super::relays::{RELAY_CA, RELAY_XDS};
use super::{Distance, Service, haproxy};
use crate::contender::Contender;
use crate::load::{ECHO, SINK};
use crate::settings::{Settings, Template};
use anyhow::{Context, Result, bail};
use mesh_lab::Place;
use mesh_lab::process::{Process, ProcessSpec, Ready};
use mesh_lab::topology::Topology;
use mesh_lab::world::AUTHORITY;
use mesh_lab::world::pods::{PodRole, PodSpec};
use mesh_lab::world::processes::{self, AUTHORITY_NAME, CONTROL_NAME, Proxy};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at a proxy that starts.
const READY_LOOK: Duration = Duration::from_micros(200);
/// How long a proxy in the nursery may take.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// The first port of HAProxy, one for each service behind it.
const HAPROXY_PORT: u16 = 7000;

/// The port of the client's HAProxy that leads to a service.
pub(super) fn haproxy_port(distance: Distance, service: Service) -> u16 {
    let service = match service {
        Service::Echo => 0,
        Service::Sink => 1,
    };
    match distance {
        Distance::Far => HAPROXY_PORT + service,
        Distance::Near => HAPROXY_PORT + 2 + service,
    }
}

/// The processes between a client and its server, the client's first.
pub(super) fn names(contender: Contender, distance: Distance) -> Vec<String> {
    let group = Group::carried_by(contender);
    let second = match distance {
        Distance::Far => Role::Server,
        Distance::Near => Role::Near,
    };
    match contender {
        Contender::Direct | Contender::Limit => Vec::new(),
        Contender::Strata | Contender::Base => {
            let mut nodes = vec![group.node(Role::Client), group.node(second)];
            nodes.dedup();
            nodes.into_iter().map(|n| format!("ztunnel {n}")).collect()
        }
        Contender::Peer => [Role::Client, second]
            .map(|role| format!("peer {}", group.pod(role)))
            .into(),
        Contender::Haproxy if distance == Distance::Near => vec!["haproxy client".to_owned()],
        Contender::Haproxy => vec!["haproxy client".to_owned(), "haproxy server".to_owned()],
    }
}

/// When a proxy in its place counts as ready.
pub(super) fn ready(contender: Contender) -> Ready {
    match contender {
        Contender::Haproxy => Ready::Tcp((Ipv4Addr::LOCALHOST, HAPROXY_PORT).into()),
        _ => Ready::mesh(),
    }
}

/// Control plane and authority, with their pods.
pub(super) fn control(binaries: &Path, folder: &Path) -> Result<Vec<(&'static str, ProcessSpec)>> {
    let token = |account: &str, pod| processes::token(binaries, folder, account, pod, "node-1");
    // Makes the key by which the authority will know tokens, before either is up.
    token("strata-system/mesh-control", "mesh-control")?;
    let authority_token = token("strata-system/mesh-ca", "mesh-ca")?;
    let control = processes::control(binaries, folder, &folder.join("configuration"));
    let authority = processes::authority(binaries, folder, &authority_token);
    Ok(vec![("control", control), ("ca", authority)])
}

/// The proxies of a contender, with the places they run in.
pub(super) fn proxies(
    settings: &Settings,
    folder: &Path,
    topology: &Topology,
    contender: Contender,
) -> Result<Vec<(Place, ProcessSpec)>> {
    match contender {
        Contender::Direct | Contender::Limit => Ok(Vec::new()),
        Contender::Strata => ours(settings, folder, topology, &settings.strata, Group::Strata),
        Contender::Base => {
            let program = settings.base.as_deref().context("--base is not given")?;
            ours(settings, folder, topology, program, Group::Base)
        }
        Contender::Peer => theirs(settings, folder, topology),
        Contender::Haproxy => hops(settings, folder, topology),
    }
}

fn ours(
    settings: &Settings,
    base: &Path,
    topology: &Topology,
    program: &Path,
    group: Group,
) -> Result<Vec<(Place, ProcessSpec)>> {
    let binaries = settings.control()?;
    let mut proxies = Vec::new();
    for node in [group.node(Role::Client), group.node(Role::Server)] {
        let account = "strata-system/ztunnel";
        let token = processes::token(&binaries, base, account, &format!("ztunnel-{node}"), node)?;
        let folder = base.join("pods").join(node);
        fs::create_dir_all(&folder)?;
        for pod in pods(&[group]).filter(|pod| pod.node == node) {
            let netns = topology.pod(&pod.name)?.path();
            let file = folder.join(format!("{}.yaml", pod.name));
            fs::write(file, processes::pod_file(&described(&pod), netns))?;
        }
        let proxy = Proxy {
            binaries: &binaries,
            folder: base,
            token: &token,
            otlp: None,
        };
        let place = topology.node(node)?;
        let mut spec = proxy
            .ztunnel(node, place.v4(), &folder)
            .env("ZTUNNEL_WORKER_THREADS", settings.workers.to_string());
        program.clone_into(&mut spec.program);
        // As the peer writes it.
        spec.environment.retain(|(name, _)| name != "LOG_FORMAT");
        proxies.push((place.clone(), spec));
    }
    Ok(proxies)
}

fn described(pod: &Pod) -> PodSpec {
    PodSpec {
        name: pod.name.clone(),
        namespace: NAMESPACE.to_owned(),
        address: pod.address.into(),
        node: pod.node.to_owned(),
        service_account: pod.name.clone(),
        role: PodRole::Ambient,
        network: None,
    }
}

fn theirs(
    settings: &Settings,
    base: &Path,
    topology: &Topology,
) -> Result<Vec<(Place, ProcessSpec)>> {
    let binaries = settings.control()?;
    let root = base.join("ca/root-cert.pem").display().to_string();
    let mut proxies = Vec::new();
    for pod in pods(&[Group::Peer]) {
        let account = format!("{NAMESPACE}/{}", pod.name);
        let token = processes::token(&binaries, base, &account, &pod.name, pod.node)?;
        let name = format!("peer {}", pod.name);
        let spec = peer(settings, base, &name, pod.node, &pod.name, "")?
            .env("XDS_ADDRESS", format!("https://127.0.0.1:{RELAY_XDS}"))
            .env("XDS_ROOT_CA", &root)
            .env("ALT_XDS_HOSTNAME", CONTROL_NAME)
            .env("CA_ADDRESS", format!("https://127.0.0.1:{RELAY_CA}"))
            .env("CA_ROOT_CA", &root)
            .env("ALT_CA_HOSTNAME", AUTHORITY_NAME)
            .env("AUTH_TOKEN", token.display().to_string())
            .env("INSTANCE_IP", pod.address.to_string())
            .env("PACKET_MARK", mesh_model::PACKET_MARK.to_string())
            .env("ENABLE_ORIG_SRC", "true");
        proxies.push((topology.pod(&pod.name)?.clone(), spec));
    }
    Ok(proxies)
}

/// The peer for one pod, whatever feeds it.
fn peer(
    settings: &Settings,
    folder: &Path,
    name: &str,
    node: &str,
    pod: &str,
    config: &str,
) -> Result<ProcessSpec> {
    let command = settings.peer.as_deref().context("--peer is not given")?;
    let workers = settings.workers.to_string();
    let (program, arguments) = Template::new(command)?.fill(&[
        ("node", node),
        ("pod", pod),
        ("config", config),
        ("workers", &workers),
    ]);
    let spec = ProcessSpec::new(name, program, processes::log(folder, name)).args(arguments);
    Ok(alone_in(spec, node, pod, &workers)
        // Our rules do not capture DNS unless asked.
        .env("ISTIO_META_DNS_CAPTURE", "false"))
}

/// What both kinds of ztunnel are told when they serve one pod from within it.
fn alone_in(spec: ProcessSpec, node: &str, pod: &str, workers: &str) -> ProcessSpec {
    spec.env("PROXY_MODE", "dedicated")
        .env("PROXY_WORKLOAD_INFO", format!("{NAMESPACE}/{pod}/{pod}"))
        .env("NODE_NAME", node)
        .env("POD_NAME", pod)
        .env("POD_NAMESPACE", NAMESPACE)
        .env("SERVICE_ACCOUNT", pod)
        .env("ZTUNNEL_WORKER_THREADS", workers)
        .env("RUST_LOG", "info")
}

fn hops(
    settings: &Settings,
    folder: &Path,
    topology: &Topology,
) -> Result<Vec<(Place, ProcessSpec)>> {
    let (client, server) = (
        topology.pod(&Group::Plain.pod(Role::Client))?,
        topology.pod(&Group::Plain.pod(Role::Server))?,
    );
    let near = topology.pod(&Group::Plain.pod(Role::Near))?;
    let (far, here) = (server.v4(), Ipv4Addr::LOCALHOST);
    let hop = HAPROXY_PORT;
    let of_client = [
        (hop, SocketAddr::from((far, hop))),
        (hop + 1, SocketAddr::from((far, hop + 1))),
        (hop + 2, SocketAddr::from((near.v4(), ECHO))),
        (hop + 3, SocketAddr::from((near.v4(), SINK))),
    ];
    let of_server = [
        (hop, SocketAddr::from((here, ECHO))),
        (hop + 1, SocketAddr::from((here, SINK))),
    ];
    Ok(vec![
        (
            client.clone(),
            hop_of(settings, folder, "haproxy client", &of_client)?,
        ),
        (
            server.clone(),
            hop_of(settings, folder, "haproxy server", &of_server)?,
        ),
    ])
}

fn hop_of(
    settings: &Settings,
    folder: &Path,
    name: &str,
    ways: &[(u16, SocketAddr)],
) -> Result<ProcessSpec> {
    let file = folder.join(format!("{}.cfg", name.replace(' ', "-")));
    fs::write(&file, hop_configuration(settings.workers, ways))?;
    Ok(
        ProcessSpec::new(name, haproxy(settings)?, processes::log(folder, name))
            .args(["-db", "-f"])
            .arg(file.display().to_string()),
    )
}

/// One record a connection, as the ztunnels write.
fn hop_configuration(workers: u16, ways: &[(u16, SocketAddr)]) -> String {
    let mut text = format!(
        "global\n  nbthread {workers}\n  maxconn 9000\n  log stdout format raw local0 info\n\
         defaults\n  mode tcp\n  log global\n  option tcplog\n  timeout connect 10s\n  \
         timeout client 1h\n  timeout server 1h\n"
    );
    for (port, to) in ways {
        text += &format!("listen way-{port}\n  bind :{port}\n  server there {to}\n");
    }
    text
}

/// A proxy by itself, with local files.
pub(super) fn alone(
    settings: &Settings,
    folder: &Path,
    contender: Contender,
) -> Result<(ProcessSpec, Ready)> {
    const NODE: &str = "node-1";
    const POD: &str = "alone";
    let name = format!("alone {}", contender.as_str());
    let file = folder.join("local.yaml");
    fs::write(&file, local_configuration())?;
    let config = file.display().to_string();
    let binaries = settings.control()?;
    let token = processes::token(&binaries, folder, &format!("{NAMESPACE}/{POD}"), POD, NODE)?;
    let root = folder.join("ca/root-cert.pem").display().to_string();
    // Certificates come from our authority: a peer as it is shipped has no other way.
    let fed = |spec: ProcessSpec| {
        spec.env("LOCAL_XDS_PATH", &config)
            .env("CA_ADDRESS", format!("https://{AUTHORITY}:15012"))
            .env("CA_ROOT_CA", &root)
            .env("ALT_CA_HOSTNAME", AUTHORITY_NAME)
            .env("AUTH_TOKEN", token.display().to_string())
    };
    let own = |program: &Path| {
        let spec = ProcessSpec::new(&name, program, processes::log(folder, &name));
        let spec = alone_in(spec, NODE, POD, &settings.workers.to_string());
        (fed(spec), Ready::mesh())
    };
    Ok(match contender {
        Contender::Strata => own(&settings.strata),
        Contender::Base => own(settings.base.as_deref().context("--base is not given")?),
        Contender::Peer => (
            // Else it dials a control plane of its own idea, and waits for it.
            fed(peer(settings, folder, &name, NODE, POD, &config)?).env("XDS_ADDRESS", ""),
            Ready::mesh(),
        ),
        Contender::Haproxy => {
            let nowhere = [(HAPROXY_PORT, SocketAddr::from(([127, 0, 0, 1], ECHO)))];
            let spec = hop_of(settings, folder, &name, &nowhere)?;
            (spec, ready(contender))
        }
        Contender::Direct | Contender::Limit => bail!("{} is not started", contender.as_str()),
    })
}

/// One workload, that of the nursery.
fn local_configuration() -> String {
    format!(
        "workloads:\n- uid: cluster1//v1/Pod/{NAMESPACE}/alone\n  name: alone\n  namespace: \
         {NAMESPACE}\n  serviceAccount: alone\n  workloadIps: [\"127.0.0.1\"]\n  protocol: HBONE\n  \
         node: node-1\n  network: \"\"\n  services: {{}}\npolicies: []\nservices: []\n"
    )
}

/// Starts a program and asks it without pause until it is ready.
pub(super) fn time_to_ready(place: &Place, spec: ProcessSpec, ready: &Ready) -> Result<Duration> {
    let started = Instant::now();
    let mut process = Process::start(place, spec)?;
    place.enter(|| {
        loop {
            if is_ready(ready) {
                return Ok(started.elapsed());
            }
            if process.ended()?.is_some() || started.elapsed() > READY_WITHIN {
                bail!("not ready: {}", process.log().unwrap_or_default());
            }
            thread::sleep(READY_LOOK);
        }
    })?
}

fn is_ready(ready: &Ready) -> bool {
    match ready {
        Ready::Tcp(address) => TcpStream::connect(address).is_ok(),
        Ready::Http { address, path } => ask(*address, path).unwrap_or(false),
    }
}

fn ask(address: SocketAddr, path: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(READY_WITHIN))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    Ok(&head == b"HTTP/1.1 200")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_server_is_one_process_away_where_it_can_be() {
        let count = |contender, distance| names(contender, distance).len();
        assert_eq!(count(Contender::Strata, Distance::Near), 1);
        assert_eq!(count(Contender::Strata, Distance::Far), 2);
        assert_eq!(count(Contender::Peer, Distance::Near), 2);
        assert_eq!(count(Contender::Haproxy, Distance::Near), 1);
        assert_eq!(count(Contender::Direct, Distance::Far), 0);
    }

    #[test]
    fn haproxy_has_a_section_a_way() {
        let text = hop_configuration(2, &[(7000, "10.0.0.1:9000".parse().unwrap())]);
        assert!(text.contains("nbthread 2\n"));
        assert!(text.ends_with("listen way-7000\n  bind :7000\n  server there 10.0.0.1:9000\n"));
    }
}
