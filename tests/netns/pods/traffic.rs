//! Traffic on a thread of its own, which the test's own work does not hold up: new connections all
//! the time, one that stays, and the application that answers them.

use super::node::{ECHO_PORT, Node};
use anyhow::{Context, Result, bail, ensure};
use mesh_lab::Place;
use mesh_lab::client::{Target, tcp_exchange};
use mesh_lab::origin::{TcpOptions, serve_tcp_echo_on};
use mesh_net::{ListenOptions, listen};
use mesh_runtime::Scope;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long one exchange may take: others on the machine slow it down, and a lost one never ends.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two connections of one client.
const PACE: Duration = Duration::from_millis(2);

/// One new connection and what came back.
pub(super) async fn exchange(from: &Place, to: SocketAddr) -> Result<()> {
    let target = Target::new(to).from_place(from);
    let answer = tcp_exchange(&target, b"many pods", PATIENCE).await?;
    ensure!(answer == b"many pods", "{} bytes came back", answer.len());
    Ok(())
}

/// A connection, left open.
pub(super) async fn connect(from: &Place, to: SocketAddr) -> Result<TcpStream> {
    Target::new(to).from_place(from).connect_tcp().await
}

#[derive(Default)]
struct Tally {
    good: AtomicU64,
    bad: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// Running traffic.
pub(super) struct Traffic {
    tally: Arc<Tally>,
    clients: Option<JoinHandle<()>>,
}

impl Traffic {
    /// From each of the places to the node's first pod. Whether a connection that stays may end: then
    /// a new one is made in its place.
    pub(super) fn start(node: &Node, from: &[Place], may_end: bool) -> Result<Self> {
        let tally = Arc::new(Tally::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (to, from, told) = (node.server(), from.to_vec(), tally.clone());
        let clients = std::thread::spawn(move || {
            runtime.block_on(async {
                let scope = Scope::new();
                for place in from {
                    scope.spawn("new", new(place.clone(), to, told.clone()));
                    scope.spawn("stays", stays(place, to, told.clone(), may_end));
                }
                scope.finished().await;
            });
        });
        Ok(Self {
            tally,
            clients: Some(clients),
        })
    }

    /// Waits for as many more good answers.
    pub(super) async fn some(&self, count: u64) -> Result<()> {
        let goal = self.tally.good.load(Ordering::Relaxed) + count;
        for _ in 0..6000 {
            if self.tally.good.load(Ordering::Relaxed) >= goal {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("traffic does not flow: {:?}", self.tally.bad())
    }

    /// Ends it; gives how many answers were good.
    pub(super) fn end(mut self) -> Result<u64> {
        self.stop();
        let (good, bad) = (self.tally.good.load(Ordering::Relaxed), self.tally.bad());
        println!("traffic: {good} good, {} bad", bad.len());
        let first = bad.get(..bad.len().min(5));
        ensure!(
            bad.is_empty(),
            "{good} good, {} failed: {first:?}",
            bad.len()
        );
        ensure!(good > 0, "nothing was asked");
        Ok(good)
    }

    fn stop(&mut self) {
        self.tally.stop.store(true, Ordering::Relaxed);
        if let Some(clients) = self.clients.take() {
            // A panic there has shown itself.
            drop(clients.join());
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Tally {
    fn bad(&self) -> Vec<String> {
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        bad.clone()
    }

    fn note(&self, what: &str, from: &Place, outcome: Result<()>) {
        match outcome {
            Ok(()) => drop(self.good.fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
                bad.push(format!("{what} from {}: {error:#}", from.name()));
            }
        }
    }
}

async fn new(from: Place, to: SocketAddr, tally: Arc<Tally>) {
    while !tally.stop.load(Ordering::Relaxed) {
        tally.note("new", &from, exchange(&from, to).await);
        tokio::time::sleep(PACE).await;
    }
}

/// Says something now and then on one connection, and is answered.
async fn stays(from: Place, to: SocketAddr, tally: Arc<Tally>, may_end: bool) {
    while !tally.stop.load(Ordering::Relaxed) {
        if let Err(error) = talk(&from, to, &tally).await {
            println!("a connection from {} ended: {error:#}", from.name());
            if !may_end {
                tally.note("stays", &from, Err(error));
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

async fn talk(from: &Place, to: SocketAddr, tally: &Tally) -> Result<()> {
    let mut stream = connect(from, to).await?;
    while !tally.stop.load(Ordering::Relaxed) {
        stream.write_all(b"still").await?;
        let mut answer = [0; 5];
        let reading = stream.read_exact(&mut answer);
        tokio::time::timeout(PATIENCE, reading).await??;
        tally.note("stays", from, Ok(()));
        tokio::time::sleep(10 * PACE).await;
    }
    Ok(())
}

/// The application of a pod, on a thread of its own.
pub(super) struct Application {
    scope: Scope,
    thread: Option<JoinHandle<()>>,
}

impl Application {
    /// Starts an echo.
    pub(super) fn start(place: &Place) -> Result<Self> {
        let scope = Scope::new();
        let options = ListenOptions {
            netns: Some(place.netns().clone()),
            ..ListenOptions::new((Ipv4Addr::UNSPECIFIED, ECHO_PORT).into())
        };
        let (told, started) = sync_channel(1);
        let owner = scope.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let started = listen(&options).map(|listener| {
                    owner.spawn("echo", async move {
                        drop(serve_tcp_echo_on(listener, TcpOptions::default()).await);
                    });
                });
                // Whoever waits for it is there.
                drop(told.send(started));
                owner.cancelled().await;
            });
        });
        started.recv().context("the application")??;
        Ok(Self {
            scope,
            thread: Some(thread),
        })
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.scope.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic there has shown itself.
            drop(thread.join());
        }
    }
}
