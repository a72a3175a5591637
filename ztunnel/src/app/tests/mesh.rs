//! Two nodes, an application, and ways to connect.

use super::{PATIENCE, start};
use crate::node::Node;
use crate::pods::{Pod, Worker};
use crate::settings::{Flags, Settings};
use crate::{facts, inbound_plaintext, outbound};
use clap::Parser;
use mesh_net::{ConnectOptions, ListenOptions, Netns};
use mesh_proxy::Addresses;
use mesh_runtime::{Drain, Readiness, RunOptions, Scope, Workers};
use mesh_telemetry::RecordTap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A client node, a server node and an application behind the server node.
pub(super) struct Mesh {
    pub(super) client: Proxy,
    pub(super) server: Proxy,
    pub(super) client_ip: IpAddr,
    pub(super) app: SocketAddr,
    pub(super) vip: SocketAddr,
    clients: Arc<Mutex<Vec<IpAddr>>>,
    folder: tempfile::TempDir,
}

impl Mesh {
    pub(super) fn start(policies: &str) -> Self {
        Self::start_with(policies, &[])
    }

    /// `server_flags` are further flags of the server's proxy.
    pub(super) fn start_with(policies: &str, server_flags: &[&str]) -> Self {
        let [client_ip, server_ip, vip] = addresses();
        let clients = Arc::new(Mutex::new(Vec::new()));
        let app = echo(server_ip, clients.clone());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mesh.yaml");
        write(&file, client_ip, app, vip, policies);
        let client = Proxy::start(client_ip, "client", &file, &[]);
        let server = Proxy::start(server_ip, "server", &file, server_flags);
        Self {
            client,
            server,
            client_ip,
            app,
            vip: SocketAddr::new(vip, 80),
            clients,
            folder,
        }
    }

    /// Replaces the policies.
    pub(super) fn write(&self, policies: &str) {
        let file = self.folder.path().join("mesh.yaml");
        write(&file, self.client_ip, self.app, self.vip.ip(), policies);
    }

    /// As [`Self::write`], and the server's workload lists a policy.
    pub(super) fn list_with(&self, policy: &str, policies: &str) {
        let file = self.folder.path().join("mesh.yaml");
        let (client, app, vip) = (self.client_ip, self.app, self.vip.ip());
        let text = file_text(client, app, vip, ["", ""], policies);
        let listed = format!("serviceAccount: server, authorizationPolicies: [{policy}],");
        replace(&file, &text.replace("serviceAccount: server,", &listed));
    }

    /// The server's workload lists a policy that is not there.
    pub(super) fn list(&self, policy: &str) {
        self.list_with(policy, "");
    }

    /// Leaves neither workload nor service.
    pub(super) fn forget_workloads(&self) {
        replace(&self.folder.path().join("mesh.yaml"), "workloads: []\n");
    }

    /// Connects as the client's application to the service.
    pub(super) fn connect_to_service(&self) -> TcpStream {
        self.connect(self.vip)
    }

    /// Connects as the client's application, as if captured on the way to `destination`.
    pub(super) fn connect(&self, destination: SocketAddr) -> TcpStream {
        self.client.capture(Side::Outbound, destination)
    }

    /// Connects to the server's workload without a tunnel, as if captured.
    pub(super) fn connect_in_plaintext(&self, destination: SocketAddr) -> TcpStream {
        self.server.capture(Side::Plaintext, destination)
    }

    /// How many connections the application has seen.
    pub(super) fn app_connections(&self) -> usize {
        self.clients.lock().unwrap().len()
    }

    /// Where they came from.
    pub(super) fn app_clients(&self) -> Vec<IpAddr> {
        until(|| self.app_connections() > 0);
        self.clients.lock().unwrap().clone()
    }
}

#[derive(Clone, Copy)]
enum Side {
    Outbound,
    Plaintext,
}

/// A ztunnel on a thread of its own.
pub(super) struct Up {
    pub(super) node: Arc<Node>,
    pub(super) addresses: Addresses,
    pub(super) drain: Drain,
    pub(super) readiness: Readiness,
    workers: Workers,
    thread: Option<JoinHandle<()>>,
}

impl Up {
    /// Starts one and waits until it is ready.
    pub(super) fn start(settings: Settings) -> Self {
        let options = RunOptions {
            workers: 1,
            drain_deadline: settings.process.drain_deadline,
        };
        let (up, started) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            let ran = mesh_runtime::run(options, |context| async move {
                let (node, addresses) = start(settings, &context, None).await?;
                up.send((node, addresses, context)).unwrap();
                anyhow::Ok(())
            });
            ran.unwrap();
        });
        let (node, addresses, context) = started.recv_timeout(PATIENCE).unwrap();
        until(|| context.readiness.is_ready());
        Self {
            node,
            addresses,
            drain: context.drain,
            readiness: context.readiness,
            workers: context.workers,
            thread: Some(thread),
        }
    }

    /// Waits until the process has ended by itself.
    pub(super) fn join(&mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.drain.force();
    }
}

/// One ztunnel in dedicated mode.
pub(super) struct Proxy {
    pub(super) up: Up,
    ip: IpAddr,
    pod: Arc<Pod>,
}

impl std::ops::Deref for Proxy {
    type Target = Up;

    fn deref(&self) -> &Up {
        &self.up
    }
}

impl Proxy {
    pub(super) fn start(ip: IpAddr, account: &'static str, file: &Path, more: &[&str]) -> Self {
        let (bind, workload) = (ip.to_string(), format!("demo/{account}-1/{account}"));
        let dedicated = [
            "--mode",
            "dedicated",
            "--fake-ca",
            "true",
            "--workload",
            &workload,
            "--bind-address",
            &bind,
        ];
        let up = Up::start(flags(&dedicated, file, more).check().unwrap());
        let spec = super::dedicated(workload.parse().unwrap());
        let pod = Pod::new(spec, &up.node).unwrap();
        Self {
            up,
            ip,
            pod: Arc::new(pod),
        }
    }

    /// The records from now on.
    pub(super) fn tap(&self) -> RecordTap {
        self.node.metrics.tap_records(64)
    }

    /// Waits for something to become true of the node.
    pub(super) fn until(&self, holds: impl Fn(&Node) -> bool) {
        until(|| holds(&self.node));
    }

    /// Connects as the workload's application, as if captured on the way to `destination`.
    pub(super) fn connect_outbound(&self, destination: SocketAddr) -> TcpStream {
        self.capture(Side::Outbound, destination)
    }

    /// A connection that reaches the proxy as if it had been redirected on its way to
    /// `destination`: loopback has no redirection.
    fn capture(&self, side: Side, destination: SocketAddr) -> TcpStream {
        let (up, address) = sync_channel(1);
        let (pod, ip) = (self.pod.clone(), self.ip);
        self.workers.handles()[0].run(move || captured(pod, ip, side, destination, up));
        let stream = TcpStream::connect(address.recv_timeout(PATIENCE).unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The same, of another pod of this proxy.
    pub(super) fn capture_from(&self, pod: &Arc<Pod>, ip: IpAddr, to: SocketAddr) -> TcpStream {
        let (up, address) = sync_channel(1);
        let pod = pod.clone();
        let work = move || captured(pod, ip, Side::Outbound, to, up);
        self.workers.handles()[0].run(work);
        connect_from(ip, address.recv_timeout(PATIENCE).unwrap(), None)
    }
}

/// From an address that the kernel would not choose.
pub(super) fn connect_from(ip: IpAddr, to: SocketAddr, netns: Option<Netns>) -> TcpStream {
    let options = ConnectOptions {
        source: Some(ip),
        netns,
        ..ConnectOptions::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let connecting = async { mesh_net::connect(to, &options).await.unwrap().into_std() };
    let stream = runtime.block_on(connecting).unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

async fn captured(
    pod: Arc<Pod>,
    ip: IpAddr,
    side: Side,
    destination: SocketAddr,
    up: SyncSender<SocketAddr>,
) {
    thread_local! {
        // One a worker, so that tunnels are shared as they are in earnest.
        static WORKER: std::cell::RefCell<Option<Rc<Worker>>> =
            const { std::cell::RefCell::new(None) };
    }
    let worker = WORKER.with_borrow_mut(|worker| {
        worker
            .get_or_insert_with(|| Rc::new(Worker::new(pod.clone())))
            .clone()
    });
    let listener = mesh_net::listen(&ListenOptions::new(SocketAddr::new(ip, 0))).unwrap();
    let at = listener.local_addr().unwrap();
    up.send(at).unwrap();
    let (stream, peer) = mesh_net::accept(&listener).await.unwrap();
    drop(listener);
    let scope = pod.connections.clone();
    scope.spawn_local("captured", async move {
        match side {
            Side::Outbound => {
                let record = pod.node.metrics.connection(facts::outbound(peer));
                outbound::serve(worker, stream, peer, at, destination, record).await;
            }
            Side::Plaintext => {
                let record = pod.node.metrics.connection(facts::inbound(peer, None));
                inbound_plaintext::serve(&worker, stream, peer, destination, record).await;
            }
        }
    });
}

/// Flags with a local file and pages on free ports.
pub(super) fn flags(form: &[&str], file: &Path, more: &[&str]) -> Flags {
    let file = file.display().to_string();
    let mut arguments = vec!["ztunnel", "--local-xds", &file];
    for page in [
        "--admin-address",
        "--metrics-address",
        "--readiness-address",
    ] {
        arguments.extend([page, "127.0.0.1:0"]);
    }
    arguments.extend(form);
    arguments.extend(more);
    Flags::try_parse_from(arguments).unwrap()
}

/// Three loopback addresses that nobody else uses: the ports of the mesh are fixed, and tests of other
/// processes run beside these.
pub(super) fn addresses() -> [IpAddr; 3] {
    let [a, b, c, _] = four_addresses();
    [a, b, c]
}

/// One more.
pub(super) fn four_addresses() -> [IpAddr; 4] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let process = std::process::id().to_le_bytes();
    let test = NEXT.fetch_add(1, Ordering::Relaxed);
    let of = |last: u8| {
        let host = last * 64 + (test % 60) + 1;
        let block = process[1].wrapping_add(test / 60);
        IpAddr::V4(Ipv4Addr::new(127, process[0] | 1, block, host))
    };
    [of(0), of(1), of(2), of(3)]
}

/// Writes the file both nodes have as their control plane.
pub(super) fn write(file: &Path, client: IpAddr, app: SocketAddr, vip: IpAddr, policies: &str) {
    write_with(file, client, app, vip, ["", ""], policies);
}

/// The same, with more fields of the client's and the server's workload.
pub(super) fn write_with(
    file: &Path,
    client: IpAddr,
    app: SocketAddr,
    vip: IpAddr,
    more: [&str; 2],
    policies: &str,
) {
    replace(file, &file_text(client, app, vip, more, policies));
}

fn file_text(
    client: IpAddr,
    app: SocketAddr,
    vip: IpAddr,
    [of_client, of_server]: [&str; 2],
    policies: &str,
) -> String {
    let (server, port) = (app.ip(), app.port());
    format!(
        "workloads:\n\
         - {{name: client-1, namespace: demo, serviceAccount: client, workloadIps: [\"{client}\"], protocol: HBONE{of_client}}}\n\
         - {{name: server-1, namespace: demo, serviceAccount: server, workloadIps: [\"{server}\"], protocol: HBONE{of_server}, \
         services: {{demo/web.demo.svc.cluster.local: {{'80': {port}}}}}}}\n\
         services:\n\
         - {{name: web, namespace: demo, hostname: web.demo.svc.cluster.local, vips: [\"/{vip}\"], ports: {{'80': {port}}}}}\n\
         {policies}"
    )
}

/// Renamed into place, so that no half of it is ever read.
fn replace(file: &Path, text: &str) {
    let new: PathBuf = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
}

/// An application that sends back what it gets, and notes who came.
pub(super) fn echo(ip: IpAddr, clients: Arc<Mutex<Vec<IpAddr>>>) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let Ok(peer) = stream.peer_addr() else {
                continue;
            };
            clients.lock().unwrap().push(peer.ip());
            std::thread::spawn(move || {
                let (mut read, mut write) = (stream.try_clone().unwrap(), stream);
                // A peer that goes away in the middle is part of several tests.
                std::io::copy(&mut read, &mut write).ok();
                write.shutdown(std::net::Shutdown::Write).ok();
            });
        }
    });
    address
}

/// Waits for something to become true, and fails the test when it does not.
pub(super) fn until(holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "it does not come true");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs a client on one thread, as a worker would.
pub(super) fn local<F: AsyncFnOnce(Scope)>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test(Scope::new()));
}

/// The whole answer of a page.
pub(super) fn http_get(at: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
