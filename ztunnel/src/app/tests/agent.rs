//! A node whose pods an agent tells over a real socket: the snapshot, what changes, and what a lost
//! agent does not do.

use super::mesh::{Up, flags, until};
use super::{PATIENCE, TcpStream};
use crate::settings::Settings;
use mesh_identity::CertificateSource;
use mesh_net::{Netns, SeqPacketListener};
use mesh_runtime::Scope;
use mesh_zds::{AddError, Hub, Pod};
use nix::sched::{CloneFlags, unshare};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use tokio::runtime::Handle;

/// An agent on a thread of its own.
struct Agent {
    hub: Hub,
    scope: Scope,
    runtime: Handle,
    thread: JoinHandle<()>,
}

impl Agent {
    fn start(path: &Path) -> Self {
        let (hub, scope) = (Hub::new(), Scope::new());
        let (told, started) = sync_channel(1);
        let (served, owner, path) = (hub.clone(), scope.clone(), path.to_owned());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = SeqPacketListener::bind(&path).unwrap();
                owner.spawn("agent", served.serve(listener, owner.clone()));
                told.send(Handle::current()).unwrap();
                owner.cancelled().await;
                owner.finished().await;
            });
        });
        Self {
            hub,
            scope,
            runtime: started.recv_timeout(PATIENCE).unwrap(),
            thread,
        }
    }

    fn add(&self, uid: &str, netns: &Netns) -> Result<(), AddError> {
        self.runtime.block_on(self.hub.add(pod(uid), netns.clone()))
    }

    fn end(self) {
        self.scope.cancel();
        self.thread.join().unwrap();
    }
}

fn pod(uid: &str) -> Pod {
    Pod {
        uid: uid.into(),
        info: format!("demo/{uid}-1/{uid}").parse().unwrap(),
    }
}

/// A network namespace of its own, with loopback up; none where the machine forbids it.
fn netns() -> Option<Netns> {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).ok()?;
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        Netns::current().ok()
    });
    made.join().unwrap()
}

fn settings(folder: &Path, socket: &Path) -> Settings {
    let socket = socket.display().to_string();
    let file: PathBuf = folder.join("mesh.yaml");
    std::fs::write(&file, "workloads: []\n").unwrap();
    let mut settings = flags(&["--inpod-uds", &socket], &file, &[])
        .check()
        .unwrap();
    // No node signs its own certificates; this one has no other authority to ask.
    settings.certificates = CertificateSource::SelfSigned;
    settings
}

fn listens(netns: &Netns) -> bool {
    let to = ([127, 0, 0, 1], 15008);
    let stream = netns.enter(|| TcpStream::connect(std::net::SocketAddr::from(to)));
    stream.unwrap().is_ok()
}

#[test]
fn an_agent_tells_the_pods_and_a_lost_one_ends_none() {
    let (Some(one), Some(other)) = (netns(), netns()) else {
        println!("SKIPPED: this machine forbids new network namespaces");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("zds");
    let agent = Agent::start(&socket);
    assert_eq!(agent.add("a", &one), Err(AddError::NoProxy));
    let up = Up::start(settings(folder.path(), &socket));
    // Ready means that the snapshot was told and that all of it runs.
    let counts = &up.node.counts;
    let figures = || {
        let (active, pending) = (counts.pods_active.get(), counts.pods_pending.get());
        let (started, stopped) = (counts.pods_started.get(), counts.pods_stopped.get());
        (active, pending, started, stopped)
    };
    assert_eq!(figures(), (1, 0, 1, 0));
    assert!(listens(&one));

    // Told again: nothing. Told of another namespace: the pod moves there.
    agent.add("a", &one).unwrap();
    assert_eq!(figures(), (1, 0, 1, 0));
    agent.add("a", &other).unwrap();
    assert_eq!(figures(), (1, 0, 2, 1));
    until(|| listens(&other) && !listens(&one));

    // No network namespace: an error for the agent, and not ready until the pod is given up.
    let no_netns = Netns::open("/dev/null").unwrap();
    let refused = agent.add("b", &no_netns).unwrap_err();
    assert!(matches!(refused, AddError::Refused(_)), "{refused}");
    assert_eq!(figures(), (1, 1, 2, 1));
    assert_eq!(up.readiness.pending(), ["pods"]);
    agent.hub.del("b");
    until(|| up.readiness.is_ready());
    assert_eq!(figures(), (1, 0, 2, 1));

    // The agent goes: the pod stays, readiness does not.
    agent.add("c", &one).unwrap();
    agent.end();
    until(|| up.readiness.pending() == ["pods"]);
    assert!(listens(&one) && listens(&other));
    // Another comes: it keeps one pod by name only, knows nothing of the other, which ends.
    let agent = Agent::start(&socket);
    agent.hub.keep(pod("c")).unwrap();
    until(|| up.readiness.is_ready());
    assert_eq!(figures(), (1, 0, 3, 2));
    assert!(listens(&one));
    until(|| !listens(&other));

    // Gone.
    agent.hub.del("c");
    until(|| figures() == (0, 0, 3, 3) && !listens(&one));
    agent.end();
}

#[test]
fn without_port_reuse_the_ports_of_a_pod_are_ours_alone() {
    let Some(pod_netns) = netns() else {
        println!("SKIPPED: this machine forbids new network namespaces");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("zds");
    let agent = Agent::start(&socket);
    drop(agent.add("a", &pod_netns));
    let mut settings = settings(folder.path(), &socket);
    settings.proxy.port_reuse = false;
    let up = Up::start(settings);
    assert!(listens(&pod_netns));
    // What another program of this user may do otherwise.
    let mut options = mesh_net::ListenOptions::new(([0, 0, 0, 0], 15008).into());
    options.netns = Some(pod_netns);
    assert!(mesh_net::bind(&options).is_err());
    drop(up);
    agent.end();
}
