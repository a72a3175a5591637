//! Two nodes, the pods of each contender on them, and the proxies.
//!
//! Each ztunnel is fed by our control plane and holds certificates of our authority, ours on the
//! node, the peer in each pod. Every contender has a client pod and a server pod on different nodes,
//! and a server pod `near` on the client's node.

mod pods;
mod relays;
mod start;

pub(crate) use pods::{Group, Role};

use crate::contender::Contender;
use crate::load::{self, ECHO, SINK, Server};
use crate::settings::{Settings, Template};
use anyhow::{Context, Result, bail};
use mesh_lab::Place;
use mesh_lab::background::Background;
use mesh_lab::packages;
use mesh_lab::process::{Process, ProcessSpec, Ready};
use mesh_lab::topology::Topology;
use mesh_redirect::{InPodOptions, Mode, RuleSet};
use nix::mount::{MsFlags, mount};
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How long a program may take to become ready, and a new way to carry its first byte.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// State, configuration and logs: a file system in memory that ends with this program.
const FOLDER: &str = "/run/bench";

/// Which service of a server pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// The echo.
    Echo,
    /// The sink.
    Sink,
}

impl Service {
    fn port(self) -> u16 {
        match self {
            Self::Echo => ECHO,
            Self::Sink => SINK,
        }
    }
}

/// Where a server is, seen from its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distance {
    /// On another node.
    Far,
    /// On the same.
    Near,
}

/// What runs.
pub(crate) struct Mesh {
    topology: Topology,
    settings: Settings,
    runtime: Runtime,
    processes: BTreeMap<String, Process>,
    contenders: Vec<Contender>,
    server: Server,
    _relays: Background,
    folder: PathBuf,
}

impl Mesh {
    /// Starts everything and waits until a byte has gone every way.
    pub(crate) fn start(settings: &Settings) -> Result<Self> {
        let folder = private_folder()?;
        let contenders = contenders(settings);
        let groups: Vec<Group> = Group::of(&contenders);
        let topology = pods::network(&groups)?;
        fs::create_dir_all(folder.join("configuration"))?;
        fs::write(
            folder.join("configuration/pods.yaml"),
            pods::objects(&groups),
        )?;
        for pod in pods::pods(&groups) {
            let place = topology.pod(&pod.name)?;
            pods::make_room(place)?;
            if pod.group.redirected() {
                let rules = RuleSet::new(&Mode::InPod(InPodOptions::default()));
                place.enter(|| rules.apply())??;
            }
        }
        let servers = pods::pods(&groups).filter(|pod| pod.role != Role::Client);
        let places: Vec<&Place> = servers
            .map(|pod| topology.pod(&pod.name))
            .collect::<Result<_>>()?;
        let server = Server::start(places.into_iter())?;
        let relays = relays::relays(&topology, &groups)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut mesh = Self {
            topology,
            settings: settings.clone(),
            runtime,
            processes: BTreeMap::new(),
            contenders,
            server,
            _relays: relays,
            folder,
        };
        mesh.start_control()?;
        for contender in mesh.contenders.clone() {
            mesh.start_proxies(contender)?;
        }
        Ok(mesh)
    }

    /// Who takes part.
    pub(crate) fn contenders(&self) -> &[Contender] {
        &self.contenders
    }

    /// The server behind everything.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// The client pod of a contender.
    pub(crate) fn client(&self, contender: Contender) -> Result<&Place> {
        self.topology
            .pod(&Group::carried_by(contender).pod(Role::Client))
    }

    /// A pod without anything in it, to start proxies in.
    pub(crate) fn nursery(&self) -> Result<&Place> {
        self.topology.pod(pods::NURSERY)
    }

    /// Where a client of a contender finds a service.
    pub(crate) fn address(
        &self,
        contender: Contender,
        distance: Distance,
        service: Service,
    ) -> Result<SocketAddr> {
        if contender == Contender::Haproxy {
            let port = start::haproxy_port(distance, service);
            return Ok((Ipv4Addr::LOCALHOST, port).into());
        }
        let role = match distance {
            Distance::Far => Role::Server,
            Distance::Near => Role::Near,
        };
        let pod = self.topology.pod(&Group::carried_by(contender).pod(role))?;
        Ok((pod.v4(), service.port()).into())
    }

    /// The proxies between a client of a contender and its server.
    pub(crate) fn proxies(&self, contender: Contender, distance: Distance) -> Result<Vec<u32>> {
        let names = start::names(contender, distance);
        let process = |name: &String| {
            let process = self.processes.get(name);
            process.with_context(|| format!("no process is called {name}"))
        };
        names.iter().map(|name| Ok(process(name)?.pid())).collect()
    }

    /// Ends the proxies of a contender, starts them anew and waits until they carry bytes.
    pub(crate) fn restart(&mut self, contender: Contender) -> Result<()> {
        for distance in [Distance::Near, Distance::Far] {
            for name in start::names(contender, distance) {
                self.processes.remove(&name);
            }
        }
        self.start_proxies(contender)
    }

    /// Runs a program in the nursery until it is ready; how long that took, from before it was made.
    pub(crate) fn time_to_ready(&self, spec: ProcessSpec, ready: &Ready) -> Result<Duration> {
        start::time_to_ready(self.nursery()?, spec, ready)
    }

    /// A proxy as the nursery starts it: by itself, with local files, knowing nobody.
    pub(crate) fn alone(&self, contender: Contender) -> Result<(ProcessSpec, Ready)> {
        start::alone(&self.settings, &self.folder, contender)
    }

    fn start_control(&mut self) -> Result<()> {
        for (pod, spec) in start::control(&self.settings.control()?, &self.folder)? {
            self.run(pod, spec)?;
        }
        let (runtime, processes) = (&self.runtime, &mut self.processes);
        for process in processes.values_mut() {
            runtime.block_on(process.ready(&Ready::mesh(), READY_WITHIN))?;
        }
        Ok(())
    }

    fn start_proxies(&mut self, contender: Contender) -> Result<()> {
        let proxies = start::proxies(&self.settings, &self.folder, &self.topology, contender)?;
        let mut started = Vec::new();
        for (place, spec) in proxies {
            let name = spec.name.clone();
            self.processes
                .insert(name.clone(), Process::start(&place, spec)?);
            started.push(name);
        }
        let ready = start::ready(contender);
        for name in &started {
            if let Some(process) = self.processes.get_mut(name) {
                self.runtime.block_on(process.ready(&ready, READY_WITHIN))?;
            }
        }
        for distance in [Distance::Far, Distance::Near] {
            self.until_it_carries(contender, distance)
                .with_context(|| format!("{}, {distance:?}", contender.as_str()))?;
        }
        Ok(())
    }

    /// A proxy is ready before it knows every pod and holds every certificate.
    fn until_it_carries(&self, contender: Contender, distance: Distance) -> Result<()> {
        if contender == Contender::Limit {
            return Ok(());
        }
        let place = self.client(contender)?;
        let to = self.address(contender, distance, Service::Echo)?;
        let started = Instant::now();
        loop {
            match load::once(place, to) {
                Ok(()) => return Ok(()),
                Err(error) if started.elapsed() > READY_WITHIN => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn run(&mut self, pod: &str, spec: ProcessSpec) -> Result<()> {
        let place = self.topology.pod(pod)?.clone();
        let name = spec.name.clone();
        self.processes.insert(name, Process::start(&place, spec)?);
        Ok(())
    }

    /// The end of each process's log, for a failure's report.
    pub(crate) fn logs(&self) -> String {
        let quote = |process: &Process| {
            let log = process.log().unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(5).collect();
            let lines: Vec<&str> = lines.into_iter().rev().collect();
            format!("-- {}\n{}\n", process.name(), lines.join("\n"))
        };
        self.processes.values().map(quote).collect()
    }

    /// Empties every log, so that the memory they take stays bounded.
    pub(crate) fn forget_logs(&self) -> Result<()> {
        for entry in fs::read_dir(self.folder.join("logs"))? {
            // The programs append, so they go on at the new end.
            fs::File::create(entry?.path())?;
        }
        Ok(())
    }
}

/// Those that can take part; the others are named, loudly.
fn contenders(settings: &Settings) -> Vec<Contender> {
    let mut list = Vec::new();
    for contender in Contender::ALL {
        if !settings.wants(contender) {
            continue;
        }
        match able(settings, contender) {
            Ok(()) => list.push(contender),
            Err(why) => println!("SKIPPED: {}: {why:#}", contender.as_str()),
        }
    }
    list
}

fn able(settings: &Settings, contender: Contender) -> Result<()> {
    let program = match contender {
        Contender::Direct => return Ok(()),
        Contender::Strata => settings.strata.clone(),
        Contender::Base => settings.base.clone().context("--base is not given")?,
        Contender::Peer => program_of(settings.peer.as_deref().context("--peer is not given")?)?,
        Contender::Limit => program_of(settings.limit.as_deref().context("--limit is not given")?)?,
        Contender::Haproxy => haproxy(settings)?,
    };
    if !program.is_file() {
        bail!("{} is not there", program.display());
    }
    Ok(())
}

fn program_of(command: &str) -> Result<PathBuf> {
    let (program, _) = Template::new(command)?.fill(&[]);
    if program.is_absolute() || program.components().count() > 1 {
        return Ok(program);
    }
    let name = program.to_string_lossy().into_owned();
    packages::find(&name).with_context(|| format!("{name} is not on PATH"))
}

/// The HAProxy to use.
///
/// # Errors
/// When there is none.
pub(crate) fn haproxy(settings: &Settings) -> Result<PathBuf> {
    match &settings.haproxy {
        Some(program) => Ok(program.clone()),
        None => packages::find("haproxy").context("haproxy is not installed (apt install haproxy)"),
    }
}

fn private_folder() -> Result<PathBuf> {
    let folder = Path::new(FOLDER);
    fs::create_dir_all(folder)?;
    mount(
        Some("tmpfs"),
        folder,
        Some("tmpfs"),
        MsFlags::MS_NOSUID,
        Some("mode=0755,size=2g"),
    )
    .context("cannot mount a file system for the benchmark")?;
    fs::create_dir_all(folder.join("logs"))?;
    Ok(folder.to_owned())
}
